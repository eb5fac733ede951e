"""The cells whose runs MLflow has lost, as somebody deleted a run or restored an old database."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.store import CellDir
from harness.track.client import children
from harness.track.run_fields import NO_METRICS
from harness.track.sync_state import SyncState, current_training

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def find_lost(
    client: MlflowClient,
    experiment_id: str,
    parent_id: str,
    sent: Iterable[tuple[CellDir, SyncState]],
) -> set[Path]:
    """Return the directories of the cells of which MLflow holds less than was sent.

    Their run is gone, or has another status, or fewer epochs. An epoch's rows are sent in order, so
    those of the last epoch vouch for all before.
    """
    runs = {run.info.run_id: run for run in children(client, experiment_id, parent_id)}
    return {
        directory.path
        for directory, state in sent
        if not _is_whole(runs.get(state.run_id or ""), directory, state)
    }


def _is_whole(run: Run | None, directory: CellDir, sent: SyncState) -> bool:
    if run is None or run.info.status != sent.status:
        return False
    events = current_training(directory)[: sent.lines or 0]
    epochs = [event for event in events if event["event"] == "epoch"]
    last = epochs[-1] if epochs else {}
    # `RunData.metrics` has no steps, and `get_metric_history` costs a call per run and metric.
    steps = {metric.key: metric.step for metric in run.data.to_proto().metrics}
    return all(steps.get(name) == last["epoch"] for name in last if name not in NO_METRICS)
