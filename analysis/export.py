"""The finished cells of a store -> the lines of a bundle, or at once the bundle."""

from __future__ import annotations

import functools
import hashlib
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.bundle import (
    FORMAT,
    Bundle,
    Confusion,
    Curves,
    bundle_path,
    describe_unfinished,
    make_bundle,
)
from harness.analysis.bundle_fields import CorrectPart, check_lines
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.metrics import ACCURACY
from harness.common.redaction import without_password
from harness.experiment.file import network_labels
from harness.experiment.published import networks_of, read_paper_table, read_published
from harness.plan import Plan
from harness.store import CellDir, Store
from harness.store.predictions import read_predictions_file
from harness.track import sync_state
from harness.track.environment import tracking_uri

# The metrics of an epoch that figures show; MLflow has the rest.
CURVES = ("loss/total", "train/", "validation/", "test/")
# More names than this would not fit on a figure.
MOST_NAMES = 30


def export(
    plan: Plan, root: Path, file: Path, assignments: list[str], *, is_partial: bool = False
) -> str:
    """Return the text of a plan's bundle; if it `is_partial`, of the finished cells alone.

    Raises:
        UserError: A cell of the plan is not finished, or its predictions cannot be read.
    """
    lines = _export_lines(plan, root, file, assignments, is_partial=is_partial)
    return "".join(canonical(line) + "\n" for line in lines)


def _export_lines(
    plan: Plan,
    root: Path,
    file: Path,
    assignments: list[str],
    *,
    is_partial: bool = False,
    numbers_only: bool = False,
) -> list[dict[str, Any]]:
    """Return the lines of a plan's bundle as plain data (arguments of `export` and `trained`)."""
    store = Store(root)
    if not is_partial and (unfinished := describe_unfinished(plan, root)):
        raise UserError(f"{plan.experiment.name}: {unfinished}; `harness run {file}` first")
    place = without_password(tracking_uri())
    overrides = [word for a in assignments for word in ("--set", a)]
    experiment, grid = plan.experiment, plan.experiment.grid
    resolved = experiment.model_dump(mode="json")
    # The data set's identity, without the place of its files on this machine.
    resolved["dataset"] = {**experiment.dataset.identity(), "label": experiment.dataset.label}
    # Classes have names only if all students learn the same ones.
    names_seen: set[tuple[str, ...]] = set()
    lines = []
    for fingerprint, cell in plan.cells.items():
        directory = store.watch(fingerprint)  # so that its journal is parsed once
        if is_partial and not directory.has_manifest:
            continue
        predictions = read_predictions(directory)
        if predictions and has_students_classes(plan, fingerprint):
            names_seen.add(tuple(predictions["class_names"].tolist()))
        line = {
            "fingerprint": fingerprint,
            "entries": table_entries(plan, fingerprint),
            **cell.as_json(),
            "manifest": directory.manifest.as_json(),
            "mlflow_run_id": None,
            **predicted_fields(predictions, cell.metric == ACCURACY and not numbers_only),
        }
        if not numbers_only:
            run_id = sync_state.find_run_id(directory, experiment.name, grid, place)
            line |= {"mlflow_run_id": run_id, "curves": curves_of(directory)}
        lines.append(line)
    class_names = next(iter(names_seen)) if len(names_seen) == 1 else ()
    header = {
        "bundle": FORMAT,
        "experiment": resolved,
        "command": shlex.join(["harness", "run", file.as_posix(), *overrides]),
        "reported": experiment.protocol.reported,
        "protocol": experiment.protocol_label,
        "published": read_published(file.parent / experiment.published, network_labels(experiment))
        if experiment.published
        else [],
        "class_names": list(class_names) if 0 < len(class_names) <= MOST_NAMES else None,
    }
    if experiment.paper_table and plan.images:
        rows = read_paper_table(file.parent / experiment.paper_table)
        header["paper_table"] = {
            "image_size": list(plan.images.image_size),
            "classes": plan.images.classes,
            "networks": networks_of(rows[0]),
            "rows": rows,
        }
    return [header, *lines]


def table_entries(plan: Plan, fingerprint: str) -> list[dict[str, Any]]:
    """Return a cell's entries as a bundle has them."""
    return [
        {
            "stage": e.stage,
            "method": e.method,
            "student": e.student,
            "seed": e.seed,
            **({"teacher": e.teacher} if e.teacher else {}),
            **e.dimensions,
        }
        for e in plan.entries_of(fingerprint)
    ]


def has_students_classes(plan: Plan, fingerprint: str) -> bool:
    """Return whether a cell classifies the students' classes, and not those of the teacher's task.

    Without tasks, these are the same.
    """
    return plan.experiment.tasks is None or any(e.task for e in plan.entries_of(fingerprint))


def trained(
    plan: Plan, root: Path, file: Path, assignments: list[str], *, numbers_only: bool = False
) -> Bundle:
    """Return the bundle of a plan's cells in a store; nothing is written.

    Args:
        plan: The plan.
        root: The store.
        file: The experiment's file.
        assignments: Those of `--set`.
        numbers_only: Whether to leave out curves, confusions and runs, and not to read journals.

    Raises:
        UserError: As `export`.
    """
    lines = _export_lines(plan, root, file, assignments, numbers_only=numbers_only)
    return make_bundle(bundle_path(plan), lambda path: check_lines(path, lines))


def curves_of(directory: CellDir) -> Curves:
    """Return the journal's epochs by metric, to six significant digits."""
    lines = directory.epochs()
    names = sorted({name for line in lines for name in line if name.startswith(CURVES)})
    return {
        name: [float(f"{line[name]:.6g}") if name in line else None for line in lines]
        for name in names
    }


def read_predictions(directory: CellDir) -> dict[str, np.ndarray] | None:
    """Return labels (N,), predictions (N,) and class_names (C,) of a cell; None if it has none.

    Raises:
        Damaged: The file is broken.
    """
    return read_predictions_file(directory / "predictions.npz")


def confusion_of(predictions: dict[str, np.ndarray]) -> Confusion:
    """Return sorted triples of class, predicted class and number of images, without zeros."""
    n_classes = len(predictions["class_names"])
    labels, predicted = (predictions[name].astype(np.int64) for name in ("labels", "predictions"))
    pairs, counts = np.unique(labels * n_classes + predicted, return_counts=True)
    return np.stack([pairs // n_classes, pairs % n_classes, counts], axis=1).tolist()


def predicted_fields(
    predictions: dict[str, np.ndarray] | None, is_classifier: bool
) -> dict[str, Any]:
    """Return a bundle's fields for the predictions of a cell, which may have none."""
    if predictions is None:
        return {"confusion": None}
    labels, names = predictions["labels"], tuple(predictions["class_names"].tolist())
    images = _images_digest(labels.astype(np.int64).tobytes(), names)
    return {
        "confusion": confusion_of(predictions) if is_classifier else None,
        "correct": CorrectPart.pack(images, labels == predictions["predictions"]),
    }


@functools.lru_cache(maxsize=16)  # the cells of a task share their test images
def _images_digest(labels: bytes, names: tuple[str, ...]) -> str:
    content = [np.frombuffer(labels, np.int64).tolist(), names]
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:12]
