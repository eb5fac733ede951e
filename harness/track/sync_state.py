"""What MLflow has of a cell already: `mlflow.json` in its directory says so, without asking MLflow.
Other trackers (harness.track.mirrors) keep such a file, too.

One entry a server, experiment and grid: the run's id, its parent, the training it shows (`started`,
of the journal), how many of the journal's lines it has, and its status.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.common.canonical_json import canonical
from harness.store import CellDir
from harness.store.cell_files import SENT, parse_json, problem
from harness.store.files import write_atomically
from harness.track.run_fields import status_of

SYNC_FILE = "mlflow.json"


def sync_key(place: str, experiment: str, grid: str) -> str:
    """place: the server's address or the database's URL, without a password."""
    return f"{place} {experiment} {grid}"


def read_sync_state(path: Path) -> dict[str, Any]:
    """A file of entries, without those that are broken; nothing where there is no such file, or a
    broken one: it is derived."""
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: entry for key, entry in entries if problem(entry, SENT) is None}


def record_sent(path: Path, key: str, **fields: Any) -> None:
    """Replace one entry of a file."""
    write_atomically(path, canonical(read_sync_state(path) | {key: fields}).encode())


def has_unsent(directory: CellDir, known: dict[str, Any]) -> bool:
    """Whether the cell's journal, or its state, says more than what was sent."""
    if known.get("status") == "FINISHED":
        return False
    n_lines = len(current_training(directory))
    now = {"lines": n_lines, "status": status_of(directory)}
    return n_lines > 0 and now != {key: known.get(key) for key in now}


def find_run_id(directory: CellDir, experiment: str, grid: str, place: str) -> str | None:
    """The run that shows the cell's present training: on this server and in this grid if it is
    there, else wherever the experiment was logged. None where it never was."""
    sent, wanted = read_sync_state(directory / SYNC_FILE), sync_key(place, experiment, grid)
    started = str(next(iter(current_training(directory)), {}).get("time"))
    for key in sorted(sent, key=lambda k: (k != wanted, not k.endswith(f" {grid}"), k)):
        entry = sent[key]
        shows_it = entry.get("started") == started and "run_id" in entry
        if shows_it and key.split(" ")[-2:-1] == [experiment]:
            return str(entry["run_id"])
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
