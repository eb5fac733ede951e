"""What MLflow has of a cell already: `mlflow.json` in its directory says so, without asking MLflow.

One entry a server, experiment and grid: the run's id, its parent, the training it shows (`started`,
of the journal), how many of the journal's lines it has, and its status.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.canonical import canonical
from harness.store import CellDir, write_atomically

FILE = "mlflow.json"


def key_of(place: str, experiment: str, grid: str) -> str:
    """place: the server's address or the database's URL, without a password."""
    return f"{place} {experiment} {grid}"


def read(path: Path) -> dict[str, Any]:
    """A file of entries; nothing where there is none, or a broken one: it is derived."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def mark(path: Path, key: str, **fields: Any) -> None:
    """Replace one entry of a file."""
    write_atomically(path, canonical(read(path) | {key: fields}).encode())


def run_id(directory: CellDir, experiment: str, grid: str, place: str) -> str | None:
    """The run that shows the cell's present training: on this server and in this grid if it is
    there, else wherever the experiment was logged. None where it never was."""
    sent, wanted = read(directory / FILE), key_of(place, experiment, grid)
    started = str(next(iter(current_training(directory)), {}).get("time"))
    for key in sorted(sent, key=lambda k: (k != wanted, not k.endswith(f" {grid}"), k)):
        if key.split(" ")[-2:-1] == [experiment] and sent[key].get("started") == started:
            return str(sent[key]["run_id"])
    return None


def current_training(directory: CellDir) -> list[dict[str, Any]]:
    """The journal's events since the training that counts began. One that began anew, as its
    checkpoint was lost, has every epoch again: it is another MLflow run."""
    events = directory.events()
    first = start = 0
    seen = False
    for i, event in enumerate(events):
        if event["event"] == "start":
            start = i
        elif event["event"] == "epoch" and event["epoch"] == 1:
            first, seen = (start if seen else 0), True
    return events[first:]
