"""Copies the journals of a plan's cells to another tracker than MLflow; safe to repeat and to kill.

Like MLflow, such a tracker is derived: `sent.json` in the run's folder below the store records what
was sent, and deleting that folder sends the run again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.common.canonical_json import flatten
from harness.common.locks import locked
from harness.plan import Plan
from harness.store import CellDir, Store
from harness.track import sync_state
from harness.track.run_fields import epoch_metrics, final_metrics, main_entry, status_of, tags_of

FILE = "sent.json"


@dataclass(frozen=True)
class Run:
    """A cell's training, as a tracker shows it.

    key: the same whenever it is sent, another one for a training that began anew.
    name, group, experiment: of the cell, of its grid, and of that's experiment. folder: its own,
    below the store.
    tags: to filter and group by. spec: field -> value. started: seconds since 1970.
    """

    key: str
    name: str
    group: str
    experiment: str
    folder: Path
    tags: Mapping[str, str]
    spec: Mapping[str, Any]
    started: float


class Line(NamedTuple):
    """Of an epoch, from 1. time: seconds since 1970, of the journal."""

    epoch: int
    time: float
    metrics: Mapping[str, float]


class Sink(Protocol):
    """All that is to be written for another tracker.

    name: as its users know it. address: where it writes, without secrets, once it is checked.
    """

    name: str
    address: str

    def check(self) -> None:
        """Before anything is trained, and without a network.

        Raises:
            UserError: it cannot be used.
        """
        ...

    def send(self, run: Run, lines: Sequence[Line]) -> None:
        """Further epochs of a run, which is made or opened first; nothing of them stays in memory
        alone."""
        ...

    def end(self, run: Run, status: str, results: Line | None) -> None:
        """The run has ended, for now. status: FINISHED, FAILED or KILLED. results: of a finished
        one, under MLflow's names, and its last epoch."""
        ...

    def close(self) -> None:
        """Runs that are still open end with the command."""
        ...


class Mirror:
    """Sends one plan's cells to one sink, which has been checked.

    name, address: of the sink. last_answer: when it last took something, as time.monotonic().
    is_open: whether it ever did.
    """

    def __init__(self, plan: Plan, store: Store, sink: Sink, name: str) -> None:
        """name: of the sink's folder below the store."""
        self.plan, self.store, self.sink = plan, store, sink
        self.name, self.address, self.last_answer, self.is_open = (
            sink.name,
            sink.address,
            0.0,
            False,
        )
        self.remedy = f"`harness sync` with the same file and `--tracker {name}`"
        self.root = store.root / name
        self.group = f"{plan.experiment.name}-{plan.experiment.grid[:6]}"
        self.key = sync_state.sync_key(sink.address, plan.experiment.name, plan.experiment.grid)
        self._finished: set[str] = set()

    @property
    def server(self) -> Mirror:
        return self

    def check(self) -> None:
        """Nothing that the sink's own has left."""

    def connect(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    def unsent_cells(self) -> list[str]:
        """Fingerprints of the cells whose journal holds more than was sent."""
        return [f for f in self.plan.cells if f not in self._finished and self._has_unsent(f)]

    def _has_unsent(self, fingerprint: str) -> bool:
        directory = self.store.directory(fingerprint)
        marker = self._marker(fingerprint, directory)
        if marker.get("status") == "FINISHED":
            self._finished.add(fingerprint)  # of thousands of cells most are: looked at once
        return sync_state.has_unsent(directory, marker)

    def sync(self) -> int:
        """Send what is missing; how many cells were behind.

        Raises:
            Exception: whatever the tracker's client raises; nothing is lost, sync again later.
        """
        self.connect()
        if not self.unsent_cells():
            return 0
        with locked(self.root / ".lock"):  # another command may send the same
            unsent = self.unsent_cells()
            for fingerprint in unsent:
                self._send(fingerprint)
        return len(unsent)

    def close(self, finished: bool) -> None:
        self.sink.close()

    def _folder(self, fingerprint: str) -> Path:
        name = self.plan.name_of(fingerprint).replace(" ", "_").replace("/", "-")
        return self.root / self.group / f"{name}_{fingerprint[:8]}"

    def _marker(self, fingerprint: str, directory: CellDir) -> dict[str, Any]:
        """What was sent of the present training."""
        known = sync_state.read_sync_state(self._folder(fingerprint) / FILE).get(self.key, {})
        events = sync_state.current_training(directory) if known else []
        return known if events and known.get("started") == str(events[0]["time"]) else {}

    def _send(self, fingerprint: str) -> None:
        directory, folder = self.store.directory(fingerprint), self._folder(fingerprint)
        status = status_of(directory)  # before the events: it may end meanwhile
        events = sync_state.current_training(directory)
        known, started = self._marker(fingerprint, directory), events[0]["time"]
        cell, entry = self.plan.cells[fingerprint], main_entry(self.plan, fingerprint)
        run = Run(
            key=f"{fingerprint[:16]}-{int(1000 * started)}",
            name=entry.name,
            group=self.group,
            experiment=self.plan.experiment.name,
            folder=folder,
            tags=tags_of(self.plan, entry) | {"fingerprint": fingerprint},
            spec=flatten(cell.spec),
            started=started,
        )
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            Line(event["epoch"], event["time"], epoch_metrics(event))
            for event in events[known.get("lines", 0) :]
            if event["event"] == "epoch"
        ]
        self.sink.send(run, lines)
        if status != "RUNNING":
            results = None
            if status == "FINISHED":
                manifest = directory.manifest
                final = final_metrics(self.plan, fingerprint, manifest)
                results = Line(manifest["epochs"], events[-1]["time"], final)
            self.sink.end(run, status, results)
        said = {"started": str(started), "lines": len(events), "status": status}
        sync_state.record_sent(folder / FILE, self.key, **said)
        self.last_answer, self.is_open = time.monotonic(), True
