"""Reading the files that commands are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import RUNS

if TYPE_CHECKING:
    from harness.experiment.experiment import Experiment
    from harness.plan import Plan
    from harness.track.grid_run import GridSummary, SummaryBuilder
    from harness.tune.tuning_file import Tuning


def read_file(file: Path, assignments: list[str] | None) -> Experiment:
    """Read an experiment file, with the changes of `--set`."""
    from harness.experiment.file import read
    from harness.track.registry import resolve_teacher

    return read(file, assignments, resolve_teacher)


def without_tunings(
    files: list[Path], assignments: list[str] | None
) -> tuple[list[Path], list[Tuning]]:
    """Return the experiment files among files, and the tunings that are read from the others."""
    from harness.experiment.sources import is_tuning, read_raw

    of_tunings = [file for file in files if is_tuning(read_raw(file))]
    if not of_tunings:
        return files, []
    from harness.tune.tuning_file import read_tuning

    others = [file for file in files if file not in of_tunings]
    return others, [read_tuning(file, assignments) for file in of_tunings]


def plan_of_file(file: Path, assignments: list[str] | None) -> Plan:
    """Return the plan of an experiment file, with the changes of `--set`."""
    from harness.run.grid import plan_of

    return plan_of(read_file(file, assignments))


def result_of(file: Path, assignments: list[str] | None, store: Path) -> Callable[[Plan], None]:
    """Return a function that prints the result of a trained plan."""

    def show(plan: Plan) -> None:
        from harness.analysis.print_results import print_result

        options = [] if store == RUNS else ["--store", str(store)]
        print_result(plan, file, store, assignments or [], options)

    return show


def summary_builder(file: Path, assignments: list[str] | None, store: Path) -> SummaryBuilder:
    """Return a function that builds the summary of a finished grid for MLflow."""

    def build(plan: Plan, experiment_id: str, folder: Path) -> GridSummary:
        from harness.analysis.mlflow_summary import build_summary

        return build_summary(plan, store, file, assignments or [], experiment_id, folder)

    return build
