"""Copies the journals of a plan's cells to a tracker besides MLflow; safe to repeat and to kill.

Like MLflow's database, what such a tracker holds is derived: `sent.json` in the run's folder below
the store records what has been sent, and deleting that folder sends the run again.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.common.canonical_json import flatten
from harness.common.locks import locked
from harness.plan import Plan
from harness.store import CellDir, Store
from harness.track.asking import Asking
from harness.track.run_fields import (
    end_of,
    epoch_metrics,
    final_metrics,
    main_entry,
    status_of,
    tags_of,
)
from harness.track.sync_state import (
    NOTHING_SENT,
    OpenCells,
    SyncState,
    current_training,
    has_unsent,
    read_sync_state,
    record_sent,
    sync_key,
)

SENT_FILE = "sent.json"


@dataclass(frozen=True)
class Run:
    """One training of a cell, as a tracker shows it.

    Attributes:
        key: The run's identity: the same whenever it is sent, another for a training begun anew.
        name: The cell's name.
        group: The grid's name.
        experiment: The experiment's name.
        folder: The run's own folder, below the store.
        tags: What to filter and group by.
        config: The cell's settings by field.
        started: The start of the training in seconds since 1970.
    """

    key: str
    name: str
    group: str
    experiment: str
    folder: Path
    tags: Mapping[str, str]
    config: Mapping[str, Any]
    started: float


class EpochMetrics(NamedTuple):
    """The numbers of one epoch.

    Attributes:
        epoch: The epoch, counted from 1.
        time: The journal's time in seconds since 1970.
        metrics: Number by name, with the names that MLflow has.
    """

    epoch: int
    time: float
    metrics: Mapping[str, float]


class Sink(abc.ABC):
    """A tracker besides MLflow: all that has to be written to add one.

    Attributes:
        name: The tracker's name, as its users know it.
        address: Where it writes, without secrets; known once `check` has returned.
    """

    name: str
    address: str

    def __init__(self, root: Path) -> None:
        """Keep the root of the store; do nothing that may fail."""
        self.root = root

    def check(self) -> None:  # noqa: B027
        """Check that the tracker can be used, without a network and before anything is trained.

        A tracker that needs a package asks for it here (`environment.require_package`).

        Raises:
            UserError: It cannot be used.
        """

    @abc.abstractmethod
    def send(self, run: Run, epochs: Sequence[EpochMetrics]) -> None:
        """Write further epochs of a run, which is created or opened first.

        What has been written must survive a kill after this call.
        """

    @abc.abstractmethod
    def end(self, run: Run, status: str, results: EpochMetrics | None) -> None:
        """End a run, for now: FINISHED (with its results and its last epoch), FAILED or KILLED."""

    def close(self) -> None:  # noqa: B027
        """Close the runs that are still open; the command ends."""


class Mirror(Asking):
    """Sends one plan's cells to one sink, which has been checked.

    Attributes:
        name: The sink's name.
        address: The sink's address.
        is_open: Whether the sink ever took something.
        remedy: The command that sends what is missing.
    """

    def __init__(self, plan: Plan, store: Store, sink: Sink, name: str) -> None:
        """Keep what to send and where; `name` is that of the sink's folder below the store."""
        self.plan, self.store, self.sink = plan, store, sink
        self.name, self.address = sink.name, sink.address
        self.is_open = False
        self.remedy = f"`harness sync` with the same file and `--tracker {name}`"
        self.root = store.root / name
        self.group = f"{plan.experiment.name}-{plan.experiment.grid[:6]}"
        self.key = sync_key(sink.address, plan.experiment.name, plan.experiment.grid)
        self._open = OpenCells(plan, store)

    @property
    def server(self) -> Mirror:
        """The mirror itself, which answers for its sink."""
        return self

    def check(self) -> None:
        """Do nothing: the sink has been checked."""

    def connect(self) -> None:
        """Create the sink's folder below the store."""
        self.root.mkdir(parents=True, exist_ok=True)

    def unsent_cells(self) -> list[str]:
        """Return the fingerprints of the cells whose journal holds more than was sent."""
        unsent = []
        for fingerprint, directory in self._open.look():
            sent = self._sent(fingerprint, directory)
            if sent.status == "FINISHED":
                self._open.finish(fingerprint)
            elif has_unsent(directory, sent):
                unsent.append(fingerprint)
        return unsent

    def sync(self) -> int:
        """Send what is missing, and return the number of cells that lacked something.

        Raises:
            Exception: Whatever the tracker's client raises; sync again later.
        """
        self.connect()
        if not self.unsent_cells():
            return 0
        with contextlib.ExitStack() as stack:
            with self.asking():  # another command may send the same
                stack.enter_context(locked(self.root / ".lock"))
            unsent = self.unsent_cells()
            for fingerprint in unsent:
                self._send(fingerprint)
        return len(unsent)

    def close(self, finished: bool) -> None:
        """Close the sink, whether or not the grid has finished."""
        with self.asking():
            self.sink.close()

    def _folder(self, fingerprint: str) -> Path:
        name = self.plan.name_of(fingerprint).replace(" ", "_").replace("/", "-")
        return self.root / self.group / f"{name}_{fingerprint[:8]}"

    def _sent(self, fingerprint: str, directory: CellDir) -> SyncState:
        """Return the record of what was sent of the present training."""
        sent = read_sync_state(self._folder(fingerprint) / SENT_FILE, self.key)
        events = current_training(directory) if sent.started else []
        return sent if events and sent.started == str(events[0]["time"]) else NOTHING_SENT

    def _send(self, fingerprint: str) -> None:
        directory, folder = self._open.watch(fingerprint), self._folder(fingerprint)
        status = status_of(directory)  # before the events: it may end meanwhile
        events = current_training(directory)
        n_sent, started = self._sent(fingerprint, directory).lines or 0, events[0]["time"]
        cell, entry = self.plan.cells[fingerprint], main_entry(self.plan, fingerprint)
        run = Run(
            key=f"{fingerprint[:16]}-{int(1000 * started)}",
            name=entry.name,
            group=self.group,
            experiment=self.plan.experiment.name,
            folder=folder,
            tags=tags_of(self.plan, entry) | {"fingerprint": fingerprint},
            config=flatten(cell.config.as_json()),
            started=started,
        )
        folder.mkdir(parents=True, exist_ok=True)
        epochs = [
            EpochMetrics(event["epoch"], event["time"], epoch_metrics(event))
            for event in events[n_sent:]
            if event["event"] == "epoch"
        ]
        with self.asking():
            self.sink.send(run, epochs)
        if status != "RUNNING":
            results = None
            if status == "FINISHED":
                manifest = directory.manifest
                final = final_metrics(self.plan, fingerprint, manifest)
                results = EpochMetrics(manifest.epochs, end_of(events), final)
            with self.asking():
                self.sink.end(run, status, results)
        sent = SyncState(started=str(started), lines=len(events), status=status)
        record_sent(folder / SENT_FILE, self.key, sent)
        self.is_open = True
