"""Bundles made up from a real one."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers import some_manifest

from harness import methods
from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.bundle_fields import CellRecord, Number
from harness.analysis.export import export
from harness.common.metrics import ACCURACY, SELECTION_RULES, group_metric, measured_metrics
from harness.data import load
from harness.data.views import apply
from harness.experiment.file import parse, read
from harness.plan import Plan
from harness.run.grid import plan_of
from harness.store import Store
from harness.track import sync_state
from harness.track.sync import Tracker

FILE = "experiments/tiny.yaml"
BUNDLE = Path("experiments/results/tiny.jsonl")

Line = dict[str, Any]
Change = Callable[[Line, list[Line]], None]


def exported(folder: Path) -> str:
    """The bundle of the tiny experiment that has finished in `folder`."""
    file = folder / FILE
    return export(plan_of(read(file)), folder / "runs", file, [])


def changed_bundle(text: str, change: Change) -> Bundle:
    """The bundle after `change(header, cells)`."""
    header, *lines = (json.loads(line) for line in text.splitlines())
    change(header, lines)
    return read_bundle(BUNDLE, as_text([header, *lines]))


def as_text(lines: list[Line]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def with_seeds(values: list[float]) -> Change:
    """One seed a value, which is every cell's accuracy."""

    def change(header: Line, lines: list[Line]) -> None:
        originals, lines[:] = list(lines), []
        header["experiment"]["seeds"] = list(range(len(values)))
        for seed, value in enumerate(values):
            for line in json.loads(json.dumps(originals)):
                line["fingerprint"] = f"{seed:04d}" + line["fingerprint"][4:]
                for entry in line["entries"]:
                    entry["seed"] = seed
                line.pop("correct", None)  # they are those of another accuracy
                for forms in line["manifest"]["results"].values():
                    forms.update(last=value - 0.1, selected=value, best_on_test=value + 0.1)
                lines.append(line)

    return change


# Two students, four tasks, and a method of each sort.
TASKS: Line = {
    "name": "cross",
    "dataset": {"name": "digits", "validation": 297, "test": 500},
    "tasks": {"classes": 5, "overlap": [2, 5], "shots": [5, "all"]},
    "network": {"network": "wide_resnet", "dropout": 0.0},
    "teacher": {"depth": 16, "width": 2},
    "students": [{"depth": 10, "width": 1}, {"depth": 10, "width": 2}],
    "methods": ["plain", "plain@both", "kd", "teacher_ncm", "finetune", "refilled"],
    "training": {"epochs": 10},
    "stage1": {"epochs": 7},
    "stage2": {"epochs": 10},
    "protocol": {"preset": "strict", "evaluate_every": 5},
    "seeds": [0, 1],
}


def planned(**changes: Any) -> Plan:
    """The plan of TASKS with these changes."""
    return plan_of(parse(TASKS | changes))


def accuracy_of(fingerprint: str, result: str = ACCURACY) -> float:
    """Return the accuracy that `without_training` gives a cell, which differs from cell to cell."""
    return int(fingerprint[:8], 16) / 16**8 / sum(map(ord, result)) * 100


def without_training(plan: Plan, root: Path) -> str:
    """The bundle of a plan whose cells have made-up numbers and the sizes of their real data; its
    store is made in `root`."""
    dataset, store = load(plan.experiment.dataset), Store(root)
    store.create()
    for fingerprint, cell in plan.cells.items():
        directory = store.prepare(cell)
        view = cell.config.data.view
        seen = apply(dataset, view)
        results = [*measured_metrics(cell.metric), *(group_metric(g) for g in view.groups)]
        epochs = cell.epochs
        directory.append("start", device="cpu", commit="0" * 40, dirty=False)
        for epoch in range(1, epochs + 1):
            measured = {"loss/total": 1 / epoch, "validation/accuracy": 1 - 1 / (1 + epoch)}
            directory.append("epoch", epoch=epoch, lr=0.1, **measured)
        directory.append("end", selected_epoch=epochs)
        labels = seen.test.labels
        accuracy = accuracy_of(fingerprint, plan.experiment.protocol.main_metric(cell.metric))
        is_right = np.arange(len(labels)) < round(accuracy * len(labels))
        predictions = np.where(is_right, labels, (labels + 1) % len(seen.class_names))
        names = np.array(seen.class_names)
        np.savez(
            directory / "predictions.npz", labels=labels, predictions=predictions, class_names=names
        )
        (directory / "model.pt").write_bytes(fingerprint.encode())
        results_by_rule = {
            r: dict.fromkeys(SELECTION_RULES, accuracy_of(fingerprint, r)) for r in results
        }
        sizes = {name: len(part) for name, part in seen.parts.items()}
        directory.finish(
            some_manifest(
                results=results_by_rule,
                selected_epoch=epochs,
                epochs=epochs,
                model_sha256=hashlib.sha256(fingerprint.encode()).hexdigest(),
                seconds=9.0,
                evaluation_seconds=1.0,
                data={"name": dataset.name, "digest": seen.digest, **sizes},
                commits=["0" * 40],
            )
        )
    return export(plan, root, Path("experiments/cross.yaml"), [])


def mark_as_sent(plan: Plan, root: Path) -> None:
    """As if `harness run` had sent a finished grid to MLflow; nobody asks it here."""
    tracker = Tracker(plan, Store(root))
    for fingerprint in plan.cells:
        directory = tracker.store.directory(fingerprint)
        events = sync_state.current_training(directory)
        started = str(events[0]["time"])
        sent = sync_state.SyncState("run", "grid", started, len(events), "FINISHED")
        sync_state.record_sent(directory / sync_state.SYNC_FILE, tracker.key, sent)
    cells = hashlib.sha256(" ".join(sorted(plan.cells)).encode()).hexdigest()
    summary = sync_state.SyncState(parent="grid", cells=cells, has_summary=True)
    sync_state.record_sent(root / sync_state.SYNC_FILE, tracker.key, summary)


def task_bundle(root: Path, **changes: Any) -> Bundle:
    """The bundle of `planned(**changes)`."""
    return read_bundle(Path("cross.jsonl"), without_training(planned(**changes), root))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def made_up_cell(**changes: Any) -> CellRecord:
    """A cell of ten epochs; changes: of the record, or of its manifest."""
    manifest: Line = {
        "results": {},
        "data": {"digest": "0", "name": "digits", "test": 1000, "train": 500},
        "selected_epoch": 9,
        "epochs": 10,
        "seconds": 8.0,
        "device": "cpu",
        "processor": "P",
        "threads": 1,
        "torch": "2",
        "commits": ["0" * 40],
        "dirty": False,
    }
    record = {"fingerprint": "0", "entries": [], "mlflow_run_id": None}
    record |= {name: value for name, value in changes.items() if name in record}
    manifest |= {name: value for name, value in changes.items() if name not in record}
    return CellRecord.model_validate(record | {"manifest": manifest})


def made_up(accuracies: dict[tuple[str, str, str], list[float]], **changes: Any) -> Bundle:
    """A bundle of two students without tasks, of these accuracies.

    Args:
        accuracies: (method, stage, student) -> accuracy of each seed from 0, as a fraction; for an
            NCM stage, of both metrics. The teacher's: ("teacher", "teacher", "").
        changes: of the experiment.
    """
    students = [{"depth": 10, "width": 1}, {"depth": 10, "width": 2}]
    raw = {k: v for k, v in TASKS.items() if k != "tasks"} | {"students": students} | changes
    experiment = parse(raw)
    numbers = []
    for (method, stage, student), values in accuracies.items():
        result = methods.STAGES[stage].metric if stage in methods.STAGES else ACCURACY
        for (seed, value), name in itertools.product(enumerate(values), measured_metrics(result)):
            cell = made_up_cell(fingerprint=sha256(f"{method, stage, student, seed}"))
            label = student or experiment.teacher.label
            accuracy = dict.fromkeys(SELECTION_RULES, value)
            numbers.append(Number(stage, method, label, seed, None, name, **accuracy, cell=cell))
    reported, label = experiment.protocol.reported, experiment.protocol_label
    header = experiment.model_dump(mode="json")
    path, command = Path("made-up.jsonl"), "harness run experiments/cross.yaml"
    return Bundle(path, header, command, reported, label, [], numbers, {}, {}, None)
