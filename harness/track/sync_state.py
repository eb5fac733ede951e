"""Records of what a tracker has received of each cell, so that nobody has to ask the server.

`mlflow.json` in a cell's directory holds one entry per server, experiment and grid; the file of the
same name in the store's root holds the summaries of grids. Other trackers
(`harness.track.mirrors`) keep such entries in `sent.json`. All of these files are derived: losing
one sends its cell again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import StrictBool, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.common.canonical_json import canonical
from harness.common.reading import NotAFile, read_file
from harness.plan import Plan
from harness.store import CellDir, Store
from harness.store.cell_files import parse_json
from harness.store.cells import WatchedCell
from harness.store.files import write_atomically
from harness.track.run_fields import status_of

SYNC_FILE = "mlflow.json"


@dataclass(frozen=True)
class SyncState:
    """The record of what a tracker has received of one cell, or of a grid's summary.

    Attributes:
        run_id: The cell's run in MLflow.
        parent: The grid's run in MLflow.
        started: The start of the training that the run shows, as the journal has it.
        lines: How many of the journal's lines have been sent.
        status: The run's status.
        cells: A digest of the cells with which a grid's run has ended.
        has_summary: Whether that run shows their result.
    """

    run_id: StrictStr | None = None
    parent: StrictStr | None = None
    started: StrictStr | None = None
    lines: StrictInt | None = None
    status: StrictStr | None = None
    cells: StrictStr | None = None
    has_summary: StrictBool | None = None


NOTHING_SENT = SyncState()
_ENTRY, _ENTRIES = TypeAdapter(SyncState), TypeAdapter(dict[str, SyncState])


def sync_key(address: str, experiment: str, grid: str) -> str:
    """Return the key of an entry; `address` is the server or database, without a password."""
    return f"{address} {experiment} {grid}"


def read_sync_states(path: Path) -> dict[str, SyncState]:
    """Return all valid entries of a file by key; none if the file is missing or broken."""
    try:
        content = parse_json(read_file(path))
    except (FileNotFoundError, NotAFile, ValueError):
        return {}
    states = {}
    for key, entry in content.items() if isinstance(content, dict) else ():
        try:
            states[key] = _ENTRY.validate_python(entry)
        except ValidationError:
            continue
    return states


def read_sync_state(path: Path, key: str) -> SyncState:
    """Return one entry of a file; `NOTHING_SENT` if there is no such entry."""
    return read_sync_states(path).get(key, NOTHING_SENT)


def record_sent(path: Path, key: str, state: SyncState) -> None:
    """Replace one entry of a file."""
    states = read_sync_states(path) | {key: state}
    content = _ENTRIES.dump_python(states, exclude_none=True)
    write_atomically(path, canonical(content).encode())


class OpenCells:
    """The cells of a plan of which a tracker may lack something: each look reads what is new."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._watched: dict[str, WatchedCell] = {}
        self._finished: set[str] = set()

    def look(self) -> Iterator[tuple[str, WatchedCell]]:
        """Yield fingerprint and directory of the cells that are there and not finished."""
        there = self._store.names()
        for fingerprint in self._plan.cells:
            if fingerprint not in self._finished and fingerprint[:16] in there:
                yield fingerprint, self.watch(fingerprint)

    def watch(self, fingerprint: str) -> WatchedCell:
        """Return the directory of a cell."""
        if fingerprint not in self._watched:
            self._watched[fingerprint] = self._store.watch(fingerprint)
        return self._watched[fingerprint]

    def finish(self, fingerprint: str, for_good: bool = True) -> None:
        """Forget a cell that the tracker has whole; unless `for_good`, the next look has it."""
        self._watched.pop(fingerprint, None)
        if for_good:
            self._finished.add(fingerprint)


def has_unsent(directory: CellDir, sent: SyncState) -> bool:
    """Return whether the cell's journal or status says more than what was sent."""
    if sent.status == "FINISHED":
        return False
    n_lines = len(current_training(directory))
    return n_lines > 0 and (sent.lines, sent.status) != (n_lines, status_of(directory))


def find_run_id(directory: CellDir, experiment: str, grid: str, address: str) -> str | None:
    """Return the run that shows the cell's present training, or None if it was never logged.

    A run of this grid on this server is preferred, then one of this grid on another server, then
    any other run of the experiment.
    """
    preferred = sync_key(address, experiment, grid)
    started = str(next(iter(current_training(directory)), {}).get("time"))
    states = read_sync_states(directory / SYNC_FILE)
    for key in sorted(states, key=lambda k: (k != preferred, not k.endswith(f" {grid}"), k)):
        is_current = states[key].started == started and states[key].run_id is not None
        if is_current and key.split(" ")[-2:-1] == [experiment]:
            return states[key].run_id
    return None


def current_training(directory: CellDir) -> list[dict[str, Any]]:
    """Return the journal's events of the training that counts; an earlier one is another run."""
    journal = directory.journal()
    return journal.events[journal.first :] if journal.first else journal.events
