"""Cells as tasks of a Ray cluster.

A node that sees the store trains in the cell's directory, as a worker on this machine does. To
other nodes the cell's files are sent (harness.execute.ray.transfer); this process then holds the
lease and writes what comes back. A task that is lost with its node or process restarts from the
cell's last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from harness.common.errors import LostError, UserError, one_line
from harness.common.locks import lock_file
from harness.common.os_errors import describe_os_error
from harness.common.provenance import CodeVersion
from harness.common.signals import uninterrupted
from harness.common.temporary import temporary_path
from harness.execute.ray import node
from harness.execute.ray.cluster import (
    Watch,
    connect,
    import_ray,
    lost,
    n_cells_that_fit,
    resources_of,
    wait_for_room,
)
from harness.execute.ray.datasets import DatasetRef, pack
from harness.execute.ray.options import RayOptions
from harness.execute.ray.transfer import OWN_FILES, UPSTREAM_FILES, apply_write, read_files
from harness.store import Busy, CellDir
from harness.store.cell_files import Damaged
from harness.store.files import sweep
from harness.train.data_request import DataRequest, data_request
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED, WRONG_INPUT

MOST_LOSSES = 3  # of a cell's tasks in a row, without an epoch in between; then the cell has failed
SIZE_SECONDS = 2.0  # for which the measured size of the cluster is used
MOST_UPSTREAM = 16  # cells whose models are kept in Ray's object store
POLL_SECONDS = 0.5
KILL_SECONDS = 10.0  # in which Ray reports that a killed task is dead


@dataclass
class RunningCell:
    """A cell whose task has been submitted.

    Attributes:
        directory: The cell's directory in the store.
        ref: The reference of its task.
        sender: The name of this attempt in the mailbox; "" if no files are sent.
        lacks_data: Whether a node has reported that it does not have the data.
        losses: Tasks lost in a row without an epoch in between.
        epochs: Epochs at the last loss.
        problem: Why what the task has sent could not be written to the store.
        has_lease: Whether this process holds the cell's lease.
        lease: Releases the lease when closed.
    """

    directory: CellDir
    ref: Any = None
    sender: str = ""
    lacks_data: bool = False
    losses: int = 0
    epochs: int = 0
    problem: str = ""
    has_lease: bool = False
    lease: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class RayExecutor:
    """An executor that trains as many cells at once as the cluster has room for."""

    def __init__(
        self, options: RayOptions, version: CodeVersion, body: Callable[..., int] | None = None
    ) -> None:
        """Join the cluster; tests replace a task's training by `body` (`train_on_node`).

        Raises:
            UserError: Ray is not installed, there is no cluster, or no node has room for a cell.
        """
        self._ray = ray = import_ray(options.wait)
        self._options, self._version, self._body = options, version, body
        self._joined = connect(ray, options.address, options.wait)
        self._running: dict[Any, RunningCell] = {}  # by the references of their tasks
        self._ended: list[tuple[Path, int]] = []
        self._sends_files = not options.shared_files
        self._probes: dict[Path, TextIO] = {}  # by store
        self._n_stored = 0  # messages of the mailbox that are in the store
        self._upstream: OrderedDict[Path, Any] = OrderedDict()
        self._datasets: dict[DataRequest, DatasetRef] = {}
        self._notes: set[str] = set()
        self._mailbox: Any = None
        try:
            resources = wait_for_room(ray, options)
        except UserError:
            self.close()
            raise
        self._capacity, self._measured = self._capacity_of(resources), time.monotonic()
        self._watch = Watch(ray, options.address)
        self._needs = {"num_cpus": options.cpus, "num_gpus": options.gpus, "max_retries": 0}
        self._task = ray.remote(node.train_on_node).options(**self._needs)

    # -- the protocol ------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """The number of cells that fit on the cluster now: nodes come and go."""
        if time.monotonic() - self._measured > SIZE_SECONDS:
            with self._connected():
                if not self._watch.is_there():
                    return self._capacity
                self._capacity = self._capacity_of(resources_of(self._ray.nodes()))
            self._measured = time.monotonic()
            if not self._capacity:
                self._note("no node of the Ray cluster has room for a cell; waiting for one")
        return self._capacity

    def _capacity_of(self, resources: list[dict[str, float]]) -> int:
        n = n_cells_that_fit(resources, self._options.cpus, self._options.gpus)
        return n if self._options.limit is None else min(n, self._options.limit)

    def warm_up(self, n: int) -> None:
        """Let processes on the nodes import torch; those with a GPU serve one task only."""
        if not self._options.gpus:
            task = self._ray.remote(node.import_training).options(**self._needs)
            with self._watch.telling_if_lost():
                for _ in range(min(n, self._capacity)):
                    task.remote()

    def submit(self, directory: Path) -> None:
        """Submit a cell as a task."""
        cell = RunningCell(CellDir(directory))
        with self._watch.telling_if_lost(), uninterrupted(), self._failing(cell):
            self._begin(cell)

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        """Wait for a cell to end; see `Executor.poll`."""
        if self._running and not self._ended:
            with self._connected():
                self._settle(self._ready(timeout))
        elif not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, grace: float = 15.0) -> None:
        """Stop every running cell, and forget those on nodes that no longer answer."""
        for force, seconds in ((False, grace), (True, KILL_SECONDS)):
            for ref in self._running:
                self._ray.cancel(ref, force=force, recursive=False)
            deadline = time.monotonic() + seconds
            while self._running and time.monotonic() < deadline:
                self._settle(self._ready(POLL_SECONDS), restart=False)
        self._forget()

    def close(self) -> None:
        """Stop every cell, and leave the cluster."""
        self.cancel()
        for file in self._probes.values():
            Path(file.name).unlink(missing_ok=True)
            file.close()
        self._probes.clear()
        if self._mailbox is not None:
            with contextlib.suppress(Exception):  # it may be gone
                self._ray.kill(self._mailbox)
            self._mailbox = None
        if self._joined:
            self._ray.shutdown()
            self._joined = False

    def _forget(self) -> None:
        for cell in self._running.values():
            cell.lease.close()
        self._running.clear()
        self._ended.clear()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Run a block that needs the cluster.

        Raises:
            LostError: The cluster, or the mailbox next to this process, no longer answers.
        """
        try:
            with self._watch.telling_if_lost():
                yield
        except (OSError, self._ray.exceptions.RayActorError) as error:
            for ref in self._running:
                with contextlib.suppress(Exception):
                    self._ray.cancel(ref, force=True, recursive=False)
            self._forget()
            raise LostError(lost(self._options.address, error)) from None

    @contextlib.contextmanager
    def _failing(self, cell: RunningCell) -> Iterator[None]:
        """Run a block, and end the cell if its files or data cannot be used; the others go on."""
        errors, path = self._ray.exceptions, cell.directory.path
        try:
            yield
        except ConnectionError:
            raise
        except (UserError, OSError, errors.ObjectStoreFullError, errors.OutOfDiskError) as error:
            why = describe_os_error(error, path) if isinstance(error, OSError) else one_line(error)
            _log(cell.directory, f"error: {why}\n".encode())
            self._fail(cell, why, WRONG_INPUT if isinstance(error, UserError) else FAILED)

    # -- the course of a cell ----------------------------------------------------------------------

    def _begin(self, cell: RunningCell) -> None:
        directory = cell.directory
        try:
            payload = self._payload(cell) if self._sends_files else None
        except Busy:
            self._end(cell, BUSY)
        else:
            if directory.is_done:
                self._end(cell, DONE)
                return
            path = Path(os.path.abspath(directory.path))
            probe = self._probe(path.parent)
            options = self._options
            job = node.Job(path, options.device, options.cpus, self._version, probe, payload)
            cell.sender = payload.sender if payload else ""
            if payload and self._mailbox is None:
                self._mailbox = node.make_mailbox(self._ray)
            cell.ref = self._task.remote(job, self._mailbox, self._body)
            self._running[cell.ref] = cell

    def _payload(self, cell: RunningCell) -> node.CellPayload:
        """Return the files that a node needs to train the cell, and hold its lease from now on.

        Raises:
            Busy: Another process trains the cell.
            UserError: A file is damaged, or the data are not here.
        """
        directory = cell.directory
        if not cell.has_lease:
            cell.lease.enter_context(directory.lease())
            cell.has_lease = True
        sweep(directory.path)
        directory.read_checkpoint()  # checks its digest
        upstream = {
            f[:16]: self._model(CellDir(directory.path.parent / f[:16]))
            for f in directory.cell.upstream.values()
        }
        request = data_request(directory)
        if cell.lacks_data and request not in self._datasets:
            self._datasets[request] = pack(request.load(), self._ray.put)
        files = read_files(directory, OWN_FILES)
        return node.CellPayload(files, upstream, secrets.token_hex(8), self._datasets.get(request))

    def _model(self, source: CellDir) -> Any:
        """Return a reference to the files of an upstream cell."""
        if source.path not in self._upstream:
            self._upstream[source.path] = self._ray.put(read_files(source, UPSTREAM_FILES))
        self._upstream.move_to_end(source.path)
        if len(self._upstream) > MOST_UPSTREAM:
            self._upstream.popitem(last=False)
        return self._upstream[source.path]

    def _probe(self, store: Path) -> tuple[str, str]:
        """Return name and content of a file in the store.

        `close` removes the file; if this process is killed, `Store.create` does.
        """
        if store not in self._probes:
            path = temporary_path(store / "ray")
            file: TextIO = open(path, "x+")  # noqa: SIM115 - open until `close`
            self._probes[store] = file
            lock_file(file)
            file.write(secrets.token_hex(16))
            file.flush()
            os.fsync(file.fileno())
        file = self._probes[store]
        file.seek(0)
        return Path(file.name).name, file.read()

    def _ready(self, timeout: float) -> list[Any]:
        """Wait for a task to end, and return the references of all that have."""
        refs = list(self._running)
        self._ray.wait(refs, num_returns=1, timeout=timeout)
        return self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _settle(self, ready: list[Any], restart: bool = True) -> None:
        """Store what was sent, then handle ended tasks; if `restart`, resubmit the lost ones."""
        with uninterrupted():
            self._receive()
            for ref in ready:
                cell = self._running.pop(ref)
                with self._failing(cell):
                    self._finish_task(cell, restart)

    def _receive(self) -> None:
        """Write into the store what sent cells have written.

        What an attempt sends after it was given up is dropped.
        """
        cells = {cell.sender: cell for cell in self._running.values() if cell.sender}
        if not cells:
            return
        messages = self._ray.get(self._mailbox.take.remote(self._n_stored))
        for number, sender, write, content in messages:
            cell = cells.get(sender)
            if cell is not None and not cell.problem:
                try:
                    apply_write(cell.directory, write, content)
                except (OSError, Damaged) as error:
                    cell.problem = one_line(error)
                    self._ray.cancel(cell.ref, force=True, recursive=False)
            self._n_stored = number

    def _finish_task(self, cell: RunningCell, restart: bool) -> None:
        errors = self._ray.exceptions
        if cell.problem:
            return self._fail(cell, f"cannot be written to the store: {cell.problem}")
        try:
            report: node.Report = self._ray.get(cell.ref)
        except errors.TaskCancelledError:
            self._end(cell, STOPPED)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            _log(cell.directory, f"{error}\n".encode())
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, errors.RaySystemError):  # the code on a node was not complete
                self._handle_loss(cell, one_line(cause), restart)
            else:
                self._fail(cell, one_line(cause))
        except errors.RayError as error:
            self._handle_loss(cell, one_line(error), restart)
        else:
            _log(cell.directory, report.output)
            if report.lacks and restart:
                self._provide(cell, report)
                self._begin(cell)
            else:
                self._end(cell, STOPPED if report.lacks else report.status)

    def _provide(self, cell: RunningCell, report: node.Report) -> None:
        """Send from now on what a node has reported that it lacks."""
        if report.lacks == "data":
            cell.lacks_data = True
        else:
            self._sends_files = True
            store = cell.directory.path.parent
            self._note(f"node {report.node} does not see {store}; the files of cells are sent")

    def _handle_loss(self, cell: RunningCell, why: str, restart: bool) -> None:
        """Submit a cell again whose task was lost with its process or node, or give up."""
        epochs = len(cell.directory.epochs())
        cell.losses = 1 if epochs > cell.epochs else cell.losses + 1
        cell.epochs = epochs
        _log(cell.directory, f"lost after epoch {epochs}: {why}\n".encode())
        if not restart:
            self._end(cell, STOPPED)
        elif cell.losses < MOST_LOSSES:
            self._begin(cell)
        else:
            self._fail(cell, f"lost {MOST_LOSSES} times without an epoch between: {why}")

    def _fail(self, cell: RunningCell, why: str, status: int = FAILED) -> None:
        """End a cell, with the reason in its journal.

        A damaged journal stays as it is, and so does that of a lost task that holds the lease.
        """
        with contextlib.suppress(Busy, Damaged, OSError):
            if not cell.has_lease:
                cell.lease.enter_context(cell.directory.lease())
            cell.directory.events()
            cell.directory.append("failed", error=why)
        self._end(cell, status)

    def _end(self, cell: RunningCell, status: int) -> None:
        cell.lease.close()
        self._ended.append((cell.directory.path, status))

    def _note(self, text: str) -> None:
        """Print a note, but only once."""
        if text not in self._notes:
            self._notes.add(text)
            print(f"note: {text}", file=sys.stderr, flush=True)


def _log(directory: CellDir, text: bytes) -> None:
    with contextlib.suppress(OSError), open(directory / "log.txt", "ab") as file:
        file.write(text)
