"""What MLflow shows of cells against what was sent: rows may be gone, with a run that somebody
deleted or a database that was put back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.store import CellDir
from harness.track.client import children
from harness.track.run_fields import NO_METRICS
from harness.track.sync_state import current_training

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def differing(
    client: MlflowClient,
    experiment_id: str,
    parent_id: str,
    marked: Iterable[tuple[CellDir, dict[str, Any]]],
) -> set[str]:
    """Names of the directories whose run is gone, or shows another state or fewer epochs than the
    marker says. An epoch's rows are sent in order, so the last ones speak for all before."""
    found = {run.info.run_id: run for run in children(client, experiment_id, parent_id)}
    return {
        directory.path.name
        for directory, marker in marked
        if not _shows(found.get(marker.get("run_id", "")), directory, marker)
    }


def _shows(run: Run | None, directory: CellDir, marker: dict[str, Any]) -> bool:
    if run is None or run.info.status != marker.get("status"):
        return False
    events = current_training(directory)[: marker.get("lines", 0)]
    epochs = [event for event in events if event["event"] == "epoch"]
    last = epochs[-1] if epochs else {}
    steps = {metric.key: metric.step for metric in run.data._metric_objs}
    return all(steps.get(name) == last["epoch"] for name in last if name not in NO_METRICS)
