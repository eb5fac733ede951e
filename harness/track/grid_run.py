"""The MLflow run of a whole grid: the parent of its cells, which shows the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.plan import Plan
from harness.track.client import log_metrics, log_tags, source_tags
from harness.track.environment import is_server
from harness.track.places import pages_of_curves
from harness.track.saved_views import experiment_note, experiment_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE = "mlflow.note.content"  # the tag that holds a run's or experiment's description (Markdown)
RESULT = "result"  # the folder of the artifacts
CURVES = "curves"  # tag of a grid's run: the titles of its pages of curves, as JSON
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class GridSummary:
    """The content that a finished grid's run shows.

    Attributes:
        text: The run's description in Markdown.
        files: The run's artifacts.
        tags: Tags to filter grids by.
        metrics: Metrics to compare grids with.
    """

    text: str
    files: list[Path]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


# Makes the summary from a finished plan, MLflow's experiment id and an empty folder for files.
SummaryBuilder = Callable[[Plan, str, Path], GridSummary]


def find_grid_run(
    client: MlflowClient, experiment_id: str, plan: Plan, uri: str
) -> tuple[Run, bool]:
    """Return the grid's run and whether it was created by this call."""
    existing = _grid_runs(client, experiment_id, plan)
    if existing:
        client.update_run(existing[0].info.run_id, status="RUNNING")
        return existing[0], False
    experiment = plan.experiment
    tags = {
        "kind": "grid",
        "grid": plan.experiment.grid,
        "protocol": experiment.protocol_label,
        **source_tags(),
        NOTE: f"{experiment.description}\n\nThe result stands here when every cell is done.",
    }
    run = client.create_run(
        experiment_id, run_name=f"grid {experiment.name} {plan.experiment.grid[:6]}", tags=tags
    )
    # A server offers no lock that two hosts share, so both may have created the run. The first one
    # counts; after the pause both hosts see both. A database has a lock (`Connection.exclusive`).
    if is_server(uri):
        time.sleep(SETTLE_SECONDS)
    first = _grid_runs(client, experiment_id, plan)[0]
    if first.info.run_id != run.info.run_id:
        client.delete_run(run.info.run_id)
        return first, False
    return first, True


def save_views(client: MlflowClient, run: Run, plan: Plan) -> None:
    """Save the views of a grid's cells, whose runs have the tags of `harness.track.places`."""
    info, with_tasks = run.info, plan.experiment.tasks is not None
    curves = [page.title for page in pages_of_curves(plan)]
    client.set_tag(info.run_id, CURVES, json.dumps(curves))
    tags = experiment_tags(info.run_id, info.run_name, info.start_time, with_tasks, curves)
    tags[NOTE] = experiment_note(
        plan.experiment.description, info.experiment_id, info.run_id, info.run_name, curves
    )
    for key, value in tags.items():
        client.set_experiment_tag(info.experiment_id, key, value)


def curves_of(run: Run) -> list[str]:
    """Return the titles of a grid's pages of curves; a grid of an earlier version has one."""
    titles: list[str] = json.loads(run.data.tags.get(CURVES, '[""]'))
    return titles


def _grid_runs(client: MlflowClient, experiment_id: str, plan: Plan) -> list[Run]:
    runs = client.search_runs(
        [experiment_id], f"tags.kind = 'grid' and tags.grid = '{plan.experiment.grid}'"
    )
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def publish_summary(client: MlflowClient, run_id: str, summary: GridSummary, when: int) -> None:
    """Show a summary on the grid's run.

    `when` is in milliseconds since 1970. If it is the same whenever the summary is sent, MLflow
    keeps one value per metric.
    """
    log_tags(client, run_id, {**summary.tags, NOTE: summary.text})
    from mlflow.entities import Metric

    metrics = [Metric(name, number, when, 0) for name, number in summary.metrics.items()]
    log_metrics(client, run_id, metrics)
    for file in summary.files:
        client.log_artifact(run_id, str(file), RESULT)
