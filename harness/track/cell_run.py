"""The content of a cell's MLflow run: settings and data set, metrics of epochs, results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.common.canonical_json import canonical, flatten
from harness.methods import IMPORTED
from harness.plan import TEACHER, Counts, Plan
from harness.store import CellDir
from harness.track.client import GIT_COMMIT, log_metrics, log_params, log_tags
from harness.track.registry import WEIGHTS, register_teacher
from harness.track.run_fields import epoch_metrics, final_metrics, main_entry, tags_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def describe_cell(
    client: MlflowClient,
    run_id: str,
    plan: Plan,
    fingerprint: str,
    directory: CellDir,
    tags: Mapping[str, str],
) -> None:
    """Send what is known of a cell before it trains: tags (also these), parameters and data set."""
    config = plan.cells[fingerprint].config
    log_tags(client, run_id, {**tags_of(plan, main_entry(plan, fingerprint)), **tags})
    log_params(client, run_id, flatten(config.as_json()))
    log_data_set(client, run_id, plan, config.data.as_json())
    client.log_artifact(run_id, str(directory / "cell.json"))


def log_data_set(client: MlflowClient, run_id: str, plan: Plan, data: dict[str, Any]) -> None:
    """Send the data set that a run uses, or the view that it sees of one."""
    from mlflow.entities import Dataset, DatasetInput

    label, text = plan.experiment.dataset.label, canonical(data)
    is_view = "view" in data  # all views of a data set share its digest
    digest = hashlib.sha256(text.encode()).hexdigest() if is_view else data["digest"]
    # MLflow allows 36 characters per digest; the whole digest is among the parameters.
    counts = plan.images
    schema = None if counts is None else schema_of(counts)
    profile = None if counts is None else canonical({**counts.parts, "classes": counts.classes})
    dataset = Dataset(label, digest[:32], "harness", text, schema, profile)
    client.log_inputs(run_id, [DatasetInput(dataset, [])])


def schema_of(counts: Counts) -> str:
    """Return the schema of images and labels, as MLflow writes that of arrays."""
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(np.uint8), (-1, *counts.image_size, 3), "images")
    labels = TensorSpec(np.dtype(np.int64), (-1,), "labels")
    return json.dumps(TensorDatasetSchema(Schema([images]), Schema([labels])).to_dict())


def log_events(
    client: MlflowClient, run_id: str, events: Sequence[dict[str, Any]], n_sent: int, status: str
) -> None:
    """Send the metrics of the epochs that follow the first `n_sent` events, and tags."""
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int(event["time"] * 1000), event["epoch"])
        for event in events[n_sent:]
        if event["event"] == "epoch"
        for name, value in epoch_metrics(event).items()
    ]
    log_metrics(client, run_id, metrics)
    starts = [e for e in events if e["event"] == "start"]
    tags: dict[str, object] = {}
    if starts:
        tags |= {key: starts[-1][key] for key in ("commit", "dirty", "device")}
        tags |= {GIT_COMMIT: starts[-1]["commit"]} if starts[-1]["commit"] else {}
        tags["attempts"] = len(starts)
    if status == "FAILED":
        tags["error"] = events[-1]["error"][:5000]
    log_tags(client, run_id, tags)


def log_results(
    client: MlflowClient, run_id: str, plan: Plan, fingerprint: str, directory: CellDir, when: int
) -> None:
    """Send the results of a finished cell, and register it if it is a teacher.

    `when` is the end of the training in milliseconds since 1970.
    """
    from mlflow.entities import Metric

    manifest = directory.manifest
    numbers = final_metrics(plan, fingerprint, manifest)
    metrics = [Metric(name, value, when, manifest.epochs) for name, value in numbers.items()]
    log_metrics(client, run_id, metrics)
    log_tags(client, run_id, {"selected_epoch": manifest.selected_epoch})
    client.log_artifact(run_id, str(directory / "model.pt"), WEIGHTS)
    if (directory / "predictions.npz").exists():
        client.log_artifact(run_id, str(directory / "predictions.npz"))
    stages = {e.stage for e in plan.entries_of(fingerprint)}
    if TEACHER in stages and plan.cells[fingerprint].kind != IMPORTED:
        register_teacher(client, plan, fingerprint, client.get_run(run_id), directory)
