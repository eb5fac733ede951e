"""What the commands' files stand for."""

from __future__ import annotations

from pathlib import Path


def read_file(file: Path, assignments: list[str] | None):  # type: ignore[no-untyped-def]
    from harness.spec.file import read
    from harness.track.registry import resolve

    return read(file, assignments, resolve)


def plan_of_file(file: Path, assignments: list[str] | None):  # type: ignore[no-untyped-def]
    from harness.run.grid import plan_of

    return plan_of(read_file(file, assignments))


def result_of(file: Path, assignments: list[str] | None, store: Path):  # type: ignore[no-untyped-def]
    def show(plan):  # type: ignore[no-untyped-def]
        from analysis.commands import print_result

        print_result(plan, file, store, assignments or [])

    return show


def page_of(file: Path, assignments: list[str] | None, store: Path):  # type: ignore[no-untyped-def]
    def page(plan, experiment_id, folder):  # type: ignore[no-untyped-def]
        from analysis.grid_page import grid_page

        return grid_page(plan, store, file, assignments or [], experiment_id, folder)

    return page
