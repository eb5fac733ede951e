"""Finished cells -> a bundle (plain JSON lines, no weights) -> a DataFrame.

A bundle is all a table needs: it can be committed, sent and checked without a database, the
weights or the data. Its first line is the resolved experiment; then one line a cell.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UserError
from harness.plan import Plan, canonical
from harness.store import Store
from harness.track.mlflow_sync import Tracker

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """experiment: the resolved file. numbers: one row a (stage, method, student, seed, result),
    with last, selected and best_on_test as fractions, and what leads to its run."""

    path: Path
    experiment: dict[str, Any]
    command: str
    reported: str
    protocol: str
    published: list[dict[str, str]]
    numbers: pd.DataFrame

    @property
    def teacher(self) -> str:
        """Label of the teacher's network."""
        return str(self.numbers[self.numbers.stage == "teacher"].student.iloc[0])

    @property
    def name(self) -> str:
        return str(self.experiment["name"])


RESULTS = Path("experiments/results")


def bundle_path(plan: Plan) -> Path:
    """Where the README's tables are made from, wherever the experiment file lies."""
    return RESULTS / f"{plan.experiment.name}.jsonl"


def export(plan: Plan, root: Path, file: Path, assignments: list[str]) -> str:
    """The text of a plan's bundle.

    Raises:
        UserError: a cell of the plan is not finished.
    """
    store = Store(root)
    missing = [f for f in plan.cells if not store.directory(f).is_done]
    if missing:
        raise UserError(
            f"{plan.experiment.name}: {len(missing)} of {len(plan.cells)} cells are not finished "
            f"in {root}; `harness run {file}` first"
        )
    tracker = Tracker(plan, store)
    overrides = [word for a in assignments for word in ("--set", a)]
    experiment = plan.experiment
    resolved = experiment.model_dump(mode="json")
    # What the data are, without the place of their files on this machine.
    resolved["dataset"] = {**experiment.dataset.identity(), "label": experiment.dataset.label}
    header = {
        "bundle": FORMAT,
        "experiment": resolved,
        "command": shlex.join(["harness", "run", file.as_posix(), *overrides]),
        "reported": experiment.protocol.reported,
        "protocol": experiment.protocol.label,
        "published": read_published(file.parent / experiment.published)
        if experiment.published
        else [],
    }
    lines = [canonical(header)]
    for fingerprint, cell in plan.cells.items():
        directory = store.directory(fingerprint)
        entries = [
            {"stage": e.stage, "method": e.method, "student": e.student, "seed": e.seed}
            for e in plan.entries_of(fingerprint)
        ]
        line = {
            "fingerprint": fingerprint,
            "entries": entries,
            **cell.as_json(),
            "manifest": directory.manifest,
            "mlflow_run_id": tracker.marker(directory).get("run_id"),
        }
        lines.append(canonical(line))
    return "\n".join(lines) + "\n"


def read_published(path: Path) -> list[dict[str, str]]:
    """Rows of a published table: source, row, metric, protocol, then one column a student."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [{str(k): str(v) for k, v in row.items()} for row in frame.to_dict("records")]


def read_bundle(path: Path, text: str | None = None) -> Bundle:
    """The bundle in a file, or in `text` that is about to become that file.

    Raises:
        UserError: no such file, or not a bundle.
    """
    try:
        text = path.read_text() if text is None else text
        header, *cells = (json.loads(line) for line in text.splitlines())
        if header["bundle"] != FORMAT:
            raise ValueError("another format")
        numbers = pd.DataFrame([row for cell in cells for row in _rows(cell)])
        return Bundle(
            path,
            header["experiment"],
            header["command"],
            header["reported"],
            header["protocol"],
            header["published"],
            numbers,
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; `harness tables FILE` writes it") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: not a bundle of this version; write it again with `harness tables FILE`"
        ) from None


def _rows(cell: dict[str, Any]) -> list[dict[str, Any]]:
    manifest = cell["manifest"]
    return [
        {
            **entry,
            "result": result,
            **values,
            "selected_epoch": manifest["selected_epoch"],
            "epochs": manifest["epochs"],
            "fingerprint": cell["fingerprint"],
            "mlflow_run_id": cell["mlflow_run_id"],
            "device": manifest["device"],
            "commits": tuple(manifest["commits"]),
            "dirty": manifest["dirty"],
            "torch": manifest["torch"],
            "seconds": manifest["seconds"],
            "data": canonical(manifest["data"]),
        }
        for entry in cell["entries"]
        for result, values in manifest["results"].items()
    ]
