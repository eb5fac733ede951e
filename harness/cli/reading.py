"""What the commands' files stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.flags import RUNS

if TYPE_CHECKING:
    from harness.experiment.experiment import Experiment
    from harness.plan import Plan
    from harness.track.grid_run import GridSummary, SummaryBuilder


def read_file(file: Path, assignments: list[str] | None) -> Experiment:
    from harness.experiment.file import read
    from harness.track.registry import resolve_teacher

    return read(file, assignments, resolve_teacher)


def plan_of_file(file: Path, assignments: list[str] | None) -> Plan:
    from harness.run.grid import plan_of

    return plan_of(read_file(file, assignments))


def result_of(file: Path, assignments: list[str] | None, store: Path) -> Callable[[Plan], None]:
    """What prints the result of a plan that has been trained."""

    def show(plan: Plan) -> None:
        from harness.analysis.print_results import print_result

        options = [] if store == RUNS else ["--store", str(store)]
        print_result(plan, file, store, assignments or [], options)

    return show


def summary_builder(file: Path, assignments: list[str] | None, store: Path) -> SummaryBuilder:
    """What a finished grid's run in MLflow shows."""

    def build(plan: Plan, experiment_id: str, folder: Path) -> GridSummary:
        from harness.analysis.mlflow_summary import build_summary

        return build_summary(plan, store, file, assignments or [], experiment_id, folder)

    return build
