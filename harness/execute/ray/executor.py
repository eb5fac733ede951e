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
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from harness.common.errors import UserError, one_line
from harness.common.locks import lock_file
from harness.data import load, using_data_root
from harness.execute.ray.cluster import check_room, connect, import_ray, places, resources_of
from harness.execute.ray.datasets import DataKey, DatasetRef, data_key, pack
from harness.execute.ray.node import CellPayload, Job, Mailbox, Report, train_on_node
from harness.execute.ray.options import RayOptions
from harness.execute.ray.transfer import OWN, UPSTREAM, read_files, receive
from harness.store import Busy, CellDir
from harness.store.cell_files import Damaged
from harness.store.files import sweep
from harness.train.data_request import data_request
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED, WRONG_INPUT

LOSSES = 3  # of a cell without an epoch between them, then it has failed
LOOK = 2.0  # seconds for which the cluster's size is believed
KEPT_UPSTREAM = 16  # cells whose models are kept in Ray's object store
POLL = 0.5  # seconds
AFTER_KILL = 10.0  # seconds in which Ray says that a task is dead


@dataclass
class RunningCell:
    """A cell that is on its way. ref: of its task. sender: of this attempt's messages.
    losses, epochs: tasks lost in a row without an epoch between, and epochs at the last one."""

    directory: CellDir
    ref: Any = None
    sender: str = ""
    lacks_data: bool = False
    losses: int = 0
    epochs: int = 0
    problem: str = ""  # in writing to the store
    has_lease: bool = False
    lease: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class RayExecutor:
    """As many cells at once as the cluster has room for."""

    def __init__(
        self,
        options: RayOptions,
        version: dict[str, Any],
        body: Callable[..., int] | None = None,
    ) -> None:
        """
        Args:
            version: of the code, for the cells' manifests.
            body: of a task, for tests (`train_on_node`).

        Raises:
            UserError: Ray is not installed, there is no cluster, or no node has room for a cell.
        """
        self._ray = ray = import_ray()
        self._options, self._version, self._body = options, version, body
        self._joined = connect(ray, options.address)
        self._flights: dict[Any, RunningCell] = {}  # by their refs
        self._ended: list[tuple[Path, int]] = []
        self._travels = not options.shared_files
        self._probes: dict[Path, TextIO] = {}  # of each store
        self._known = 0  # number of the last message that is in the store
        self._upstream: OrderedDict[Path, Any] = OrderedDict()
        self._parcels: dict[DataKey, DatasetRef] = {}
        self._said: set[str] = set()
        self._mailbox: Any = None
        try:
            resources = resources_of(ray.nodes())
            check_room(resources, options)
        except UserError:
            self.close()
            raise
        self._room, self._looked = self._places(resources), time.monotonic()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        here = On(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        asked = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        self._task = ray.remote(train_on_node).options(max_retries=0, **asked)

    # -- the protocol ------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Nodes come and go."""
        if time.monotonic() - self._looked > LOOK:
            with self._connected():
                self._room = self._places(resources_of(self._ray.nodes()))
            self._looked = time.monotonic()
            if not self._room:
                self._say("no node of the Ray cluster has room for a cell; waiting for one")
        return self._room

    def _places(self, resources: list[dict[str, float]]) -> int:
        n = places(resources, self._options.cpus, self._options.gpus)
        return n if self._options.limit is None else min(n, self._options.limit)

    def warm_up(self) -> None:
        """Ray starts a process for the first cell that comes."""

    def submit(self, directory: Path) -> None:
        with uninterrupted():
            self._begin(RunningCell(CellDir(directory)))

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        if self._flights and not self._ended:
            with self._connected():
                self._settle(self._ready(timeout))
        elif not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, grace: float = 15.0) -> None:
        for force, seconds in ((False, grace), (True, AFTER_KILL)):
            for ref in self._flights:
                self._ray.cancel(ref, force=force, recursive=False)
            deadline = time.monotonic() + seconds
            while self._flights and time.monotonic() < deadline:
                self._settle(self._ready(POLL), again=False)
        self._forget()  # who is left is on a node that does not answer any more

    def close(self) -> None:
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
        for flight in self._flights.values():
            flight.lease.close()
        self._flights.clear()
        self._ended.clear()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """
        Raises:
            UserError: the cluster, or the actor beside this process, does not answer any more.
        """
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RayActorError) as error:
            for ref in self._flights:
                with contextlib.suppress(Exception):
                    self._ray.cancel(ref, force=True, recursive=False)
            self._forget()
            raise UserError(
                f"--ray-address: lost the Ray cluster at {self._options.address} "
                f"({one_line(error)}); the same command goes on from the last epochs"
            ) from None

    # -- a cell's way ------------------------------------------------------------------------------

    def _begin(self, flight: RunningCell) -> None:
        directory = flight.directory
        try:
            luggage = self._luggage(flight) if self._travels else None
        except Busy:
            self._end(flight, BUSY)
        except Damaged as error:
            _log(directory, f"error: {error}\n".encode())
            self._end(flight, WRONG_INPUT)
        except UserError as error:
            self._fail(flight, str(error), WRONG_INPUT)
        else:
            if directory.is_done:
                self._end(flight, DONE)
                return
            path = Path(os.path.abspath(directory.path))
            probe = self._probe(path.parent)
            o = self._options
            job = Job(path, o.device, o.cpus, self._version, probe, luggage)
            flight.sender = luggage.sender if luggage else ""
            flight.ref = self._task.remote(job, self._mailbox, self._body)
            self._flights[flight.ref] = flight

    def _luggage(self, flight: RunningCell) -> CellPayload:
        """What the cell takes along; its lease is held here from now on.

        Raises:
            Busy: another process trains it.
            UserError: a file is damaged, or the data are not here.
        """
        directory = flight.directory
        if not flight.has_lease:
            flight.lease.enter_context(directory.lease())
            flight.has_lease = True
        sweep(directory.path)
        directory.repair_journal()
        directory.read_checkpoint()  # it fits its digest, and the journal is whole
        upstream = {
            f[:16]: self._model(CellDir(directory.path.parent / f[:16]))
            for f in directory.description["upstream"].values()
        }
        wanted = data_request(directory)
        key = data_key(wanted)
        if flight.lacks_data and key not in self._parcels:
            with using_data_root(wanted.root):
                self._parcels[key] = pack(load(wanted.options, wanted.with_test), self._ray.put)
        own = read_files(directory, OWN)
        return CellPayload(own, upstream, secrets.token_hex(8), self._parcels.get(key))

    def _model(self, source: CellDir) -> Any:
        """A reference to the files of an upstream cell."""
        if source.path not in self._upstream:
            self._upstream[source.path] = self._ray.put(read_files(source, UPSTREAM))
        self._upstream.move_to_end(source.path)
        if len(self._upstream) > KEPT_UPSTREAM:
            self._upstream.popitem(last=False)
        return self._upstream[source.path]

    def _probe(self, store: Path) -> tuple[str, str]:
        """A file in the store, and what it says (`Store.create` removes it, should we not)."""
        if store not in self._probes:
            name = f".ray-{secrets.token_hex(8)}.{os.getpid()}.tmp"
            file: TextIO = open(store / name, "w+")  # noqa: SIM115 - until `close`
            self._probes[store] = file
            lock_file(file)
            file.write(secrets.token_hex(16))
            file.flush()
            os.fsync(file.fileno())
        file = self._probes[store]
        file.seek(0)
        return Path(file.name).name, file.read()

    def _ready(self, timeout: float) -> list[Any]:
        """Tasks that ended; waits for one."""
        refs = list(self._flights)
        self._ray.wait(refs, num_returns=1, timeout=timeout)
        return self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _settle(self, ready: list[Any], again: bool = True) -> None:
        """Write what came, then look at the tasks that ended. again: lost ones begin again."""
        with uninterrupted():
            self._receive()
            for ref in ready:
                flight = self._flights.pop(ref)
                self._arrive(flight, again)

    def _receive(self) -> None:
        """What travelling cells have written, into the store. What an attempt sends after it was
        given up is dropped."""
        flights = {flight.sender: flight for flight in self._flights.values() if flight.sender}
        if not flights:
            return
        for number, sender, write, content in self._ray.get(self._mailbox.take.remote(self._known)):
            flight = flights.get(sender)
            if flight is not None and not flight.problem:
                try:
                    receive(flight.directory, write, content)
                except (OSError, Damaged) as error:
                    flight.problem = one_line(error)
                    self._ray.cancel(flight.ref, force=True, recursive=False)
            self._known = number

    def _arrive(self, flight: RunningCell, again: bool) -> None:
        errors = self._ray.exceptions
        if flight.problem:
            self._fail(flight, f"cannot be written to the store: {flight.problem}")
            return
        try:
            report: Report = self._ray.get(flight.ref)
        except errors.TaskCancelledError:
            self._end(flight, STOPPED)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            self._fail(flight, one_line(getattr(error, "cause", None) or error))
            _log(flight.directory, f"{error}\n".encode())
        except errors.RayError as error:
            self._lose(flight, one_line(error), again)
        else:
            _log(flight.directory, report.log)
            if report.lacks and again:
                self._provide(flight, report)
                self._begin(flight)
            else:
                self._end(flight, STOPPED if report.lacks else report.status)

    def _provide(self, flight: RunningCell, report: Report) -> None:
        if report.lacks == "data":
            flight.lacks_data = True
        else:
            self._travels = True
            place = flight.directory.path.parent
            self._say(f"node {report.node} does not see {place}; cells' files travel")

    def _lose(self, flight: RunningCell, why: str, again: bool) -> None:
        """The task went with its process or node."""
        epochs = len(flight.directory.epochs())
        flight.losses = 1 if epochs > flight.epochs else flight.losses + 1
        flight.epochs = epochs
        _log(flight.directory, f"lost after epoch {epochs}: {why}\n".encode())
        if not again:
            self._end(flight, STOPPED)
        elif flight.losses < LOSSES:
            self._begin(flight)
        else:
            self._fail(flight, f"lost {LOSSES} times without an epoch between: {why}")

    def _fail(self, flight: RunningCell, why: str, status: int = FAILED) -> None:
        """With the reason in the journal, unless a lost task still holds the lease."""
        with contextlib.suppress(Busy, Damaged, OSError):
            if not flight.has_lease:
                flight.lease.enter_context(flight.directory.lease())
            flight.directory.repair_journal()
            flight.directory.append("failed", error=why)
        self._end(flight, status)

    def _end(self, flight: RunningCell, status: int) -> None:
        flight.lease.close()
        self._ended.append((flight.directory.path, status))

    def _say(self, what: str) -> None:
        """Once."""
        if what not in self._said:
            self._said.add(what)
            print(f"note: {what}", file=sys.stderr, flush=True)


def _log(directory: CellDir, text: bytes) -> None:
    with open(directory / "log.txt", "ab") as file:
        file.write(text)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that come inside the block are handled after it: what is written in it is written
    whole. Only for the main thread; others get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda which, _: came.append(which)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    for which in came:
        signal.raise_signal(which)
