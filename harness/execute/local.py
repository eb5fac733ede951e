"""Worker processes on this machine, forked from a warm server.

Importing torch costs seconds: a fork server imports it once. A worker has a slot, a place on one of
the devices: it trains one cell there, and then the next; if it crashes or is killed, its cell fails
alone, and another worker takes its slot.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.util
import os
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from harness.common.errors import UserError
from harness.common.provenance import n_cores
from harness.execute.slots import next_slot
from harness.train.exit_status import FAILED, STOPPED


def work(orders: Connection, device: str, threads: int | None, version: dict[str, Any]) -> None:
    """Body of a worker: trains the cells whose directories it is sent, one after the other, and
    answers with the exit status of each. What it has loaded of a data set serves the next, too.
    Output goes to the cell's log.txt; there is no life after the orchestrator's."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    gc.freeze()  # what the fork server has imported
    import torch

    from harness.store import CellDir
    from harness.train.cell import Loaded, StopFlag, run_cell

    should_stop, loaded = StopFlag(), Loaded()
    while not should_stop():
        try:
            directory = CellDir(orders.recv())
        except EOFError:
            return
        log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        status = run_cell(directory, device, threads, version, should_stop, loaded)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # other jobs of the same GPU may want it
        with contextlib.suppress(OSError):  # nobody listens any more
            orders.send(status)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(143)  # a checkpoint is on disk


def threads_for(jobs: int) -> int:
    """CPU threads of each of `jobs` cells, so that together they do not exceed the cores."""
    return max(1, n_cores() // jobs)


# What a worker's libraries read when they start, unless the user has set it (docs/design.md).
ENVIRONMENT = {
    # How long OpenMP's threads spin at a barrier before they sleep. With its default of 300,000
    # they spin even for threads whose core another process has got: two commands of one job each
    # on two cores took almost three times as long.
    "GOMP_SPINCOUNT": "3000",
    # glibc gives freed memory back to the system, so each training step, or each batch of an
    # evaluation, may ask for it anew, page by page. So: keep up to 1 GB, and take from it what is
    # smaller than 32 MB, glibc's limit. The second alone would fix the first at 128 kB.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


MAX_TEMPORARY = 60  # characters of a folder: a socket's whole path may have 107
SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def shorten_socket_paths() -> None:
    """Python puts the server's socket into TMPDIR, which may be too long for one (clusters). Its
    processes, and their processes, inherit the folder that is made here instead.

    Raises:
        UserError: no short folder can be written.
    """
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) <= MAX_TEMPORARY:
        return
    short = next((place for place in SHORT if os.access(place, os.W_OK | os.X_OK)), None)
    if short is None:
        raise UserError(
            f"TMPDIR: {given} is too long for sockets ({len(given)} characters, up to "
            f"{MAX_TEMPORARY} do); set a shorter one"
        )
    try:
        tempfile.tempdir = short
        multiprocessing.util.get_temp_dir()  # made once a process, removed at its end
    finally:
        tempfile.tempdir = given


class Worker:
    """A process that trains one cell at a time. directory: of that cell, None while it waits."""

    def __init__(self, context: ForkServerContext, arguments: tuple[Any, ...]) -> None:
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *arguments))
        self.process.start()
        theirs.close()
        self.directory: Path | None = None

    def begin(self, directory: Path) -> None:
        """
        Raises:
            OSError: the process is gone.
        """
        self.orders.send(directory)
        self.directory = directory

    def ended(self) -> int | None:
        """The status of its cell, None while it is trained."""
        is_over = self.process.exitcode is not None  # then it has said its last word
        with contextlib.suppress(EOFError, OSError):
            if self.orders.poll():
                return int(self.orders.recv())
            if not is_over:
                return None
        self.process.join()
        return self.process.exitcode or FAILED  # it never ends well before its cell

    @property
    def signs(self) -> list[Any]:
        """What to wait for until its cell has ended."""
        return [self.orders, self.process.sentinel]


class LocalExecutor:
    """One cell at a time in each slot.

    Args:
        slots: the device of each (harness.execute.slots).
        version: of the code, for the cells' manifests.
    """

    def __init__(self, slots: Sequence[str], version: dict[str, Any]) -> None:
        self.capacity = len(slots)
        self._slots = slots
        self._arguments = (threads_for(len(slots)), version)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._context = multiprocessing.get_context("forkserver")
        forkserver.set_forkserver_preload(["harness.execute.preload"])
        self._workers: dict[int, Worker] = {}  # by place in slots

    def _busy(self) -> dict[int, Worker]:
        return {p: worker for p, worker in self._workers.items() if worker.directory is not None}

    def warm_up(self) -> None:
        """Start importing torch in the server, while the caller does something else.

        Raises:
            UserError: no folder for its socket.
        """
        shorten_socket_paths()
        forkserver.ensure_running()

    def submit(self, directory: Path) -> None:
        place = next_slot(self._slots, self._busy(), self._workers)
        if place in self._workers:
            with contextlib.suppress(OSError):  # killed while it had nothing to do
                self._workers[place].begin(directory)
                return
        shorten_socket_paths()
        worker = Worker(self._context, (self._slots[place], *self._arguments))
        self._workers[place] = worker
        worker.begin(directory)

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        busy = self._busy()
        if not busy:
            time.sleep(timeout)
            return []
        connection.wait([sign for worker in busy.values() for sign in worker.signs], timeout)
        ended = []
        for place, worker in busy.items():
            status = worker.ended()
            if status is not None:
                assert worker.directory is not None
                ended.append((worker.directory, status))
                worker.directory = None
                # Who was asked to stop takes no other.
                if status == STOPPED or not worker.process.is_alive():
                    del self._workers[place]
        return ended

    def cancel(self, grace: float = 15.0) -> None:
        self._end(self._busy(), grace)

    def close(self) -> None:
        self._end(dict(self._workers), grace=15.0)

    def _end(self, workers: dict[int, Worker], grace: float) -> None:
        end(workers.values(), grace)
        for place in workers:
            del self._workers[place]


def end(workers: Collection[Worker], grace: float) -> None:
    """Ask these to stop, and kill those that are left after `grace` seconds."""
    for worker in workers:
        worker.process.terminate()
        worker.orders.close()  # who has nothing to do waits for this
    deadline = time.monotonic() + grace
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
