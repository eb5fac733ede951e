"""Worker processes on this machine, forked from a warm server.

Importing torch takes seconds, so a fork server imports it once. A worker trains one cell after the
other in its slot (harness.execute.slots). If it crashes or is killed, only its cell fails, and
another worker takes its slot.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import multiprocessing.util
import os
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from harness.common.errors import UserError
from harness.common.provenance import CodeVersion, n_cores
from harness.common.signals import held_back, stop_on_request
from harness.execute.slots import next_slot
from harness.train.exit_status import FAILED, NO_MEMORY, STOPPED


def serve_cells(orders: Connection, device: str, threads: int | None, version: CodeVersion) -> None:
    """Train the cells whose directories arrive, and answer with the exit status of each.

    This is the body of a worker. The data set stays loaded for the next cell, output goes to the
    cell's log.txt, and the process ends with its parent.
    """
    threading.Thread(target=die_with_parent, daemon=True).start()
    gc.freeze()  # the modules that the fork server has imported
    import torch

    from harness.store import CellDir
    from harness.train.cell import run_cell
    from harness.train.data_request import DatasetCache

    should_stop, datasets = stop_on_request(), DatasetCache()
    while not should_stop():
        try:
            directory = CellDir(orders.recv())
        except EOFError:
            return
        log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        status = run_cell(directory, device, threads, version, should_stop, datasets)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # other jobs of the same GPU may want it
        with contextlib.suppress(OSError):  # the parent no longer listens
            orders.send(status)


def die_with_parent() -> None:
    """Wait for the parent to end, then end this process at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(143)  # a checkpoint is on disk


def threads_for(jobs: int) -> int:
    """Return the CPU threads per cell with which `jobs` cells do not exceed the cores."""
    return max(1, n_cores() // jobs)


# Variables that a worker's libraries read when they start, unless the user has set them
# (docs/design.md).
ENVIRONMENT = {
    # How often OpenMP's threads spin at a barrier before they sleep. With the default of 300,000
    # they spin even for threads whose core another process occupies: two commands of one job each
    # on two cores took almost three times as long.
    "GOMP_SPINCOUNT": "3000",
    # glibc returns freed memory to the system, so each training step, or each batch of an
    # evaluation, may request it again, page by page. So keep up to 1 GB, and serve from it whatever
    # is smaller than 32 MB, glibc's limit. The second setting alone would fix the first at 128 kB.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


MAX_TEMPORARY = 60  # characters of a folder; the whole path of a socket may have 107
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def shorten_socket_paths() -> None:
    """Make multiprocessing put its sockets into a folder with a short path.

    Python puts them into TMPDIR, whose path may be too long for a socket on clusters. Child
    processes inherit the folder that is made here.

    Raises:
        UserError: No short folder can be written.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= MAX_TEMPORARY:
        return
    short = next((path for path in SHORT_FOLDERS if os.access(path, os.W_OK | os.X_OK)), None)
    if short is None:
        raise UserError(
            f"TMPDIR: {folder} is too long for sockets ({len(folder)} characters, at most "
            f"{MAX_TEMPORARY} work); set a shorter one"
        )
    try:
        tempfile.tempdir = short
        multiprocessing.util.get_temp_dir()  # made once per process, removed at its end
    finally:
        tempfile.tempdir = folder


def start_server() -> None:
    """Start the fork server, unless it runs. Until it ignores signals, it gets none.

    Raises:
        UserError: There is no folder for its socket.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    forkserver.set_forkserver_preload(["harness.execute.preload"])
    shorten_socket_paths()
    resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    with held_back():
        forkserver.ensure_running()


@contextlib.contextmanager
def _without_program() -> Iterator[None]:
    """Keep workers from running the user's program again, which they do not need.

    It may have no file (`python -`, a notebook), or train without `if __name__ == "__main__"`.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def start_process(
    body: Callable[..., None], *arguments: object
) -> tuple[ForkServerProcess, Connection]:
    """Start `body(connection, *arguments)` in a process that has imported torch.

    Returns:
        The process, and the other end of its connection.

    Raises:
        UserError: There is no folder for the fork server's socket.
        ChildProcessError: The fork server is killed again and again.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=body, args=(theirs, *arguments))
    for _ in range(3):
        start_server()
        with contextlib.suppress(EOFError, ConnectionError):  # it was killed just now
            with _without_program(), held_back():  # half of an order is a traceback in the worker
                process.start()
            theirs.close()
            return process, ours
        time.sleep(0.2)  # until the system has noticed
    raise ChildProcessError(errno.ECHILD, "the server that forks workers was killed three times")


class Worker:
    """A process that trains one cell at a time.

    Attributes:
        directory: The directory of that cell; None while the worker waits.
        has_shared: Whether another cell has trained on its device meanwhile.
    """

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.process, self.orders = start_process(serve_cells, *arguments)
        self.directory: Path | None = None
        self.has_shared = False

    def begin(self, directory: Path) -> None:
        """Start the cell in `directory`.

        Raises:
            OSError: The process is gone.
        """
        self.orders.send(directory)
        self.directory = directory

    def ended(self) -> int | None:
        """Return the exit status of its cell, or None while the cell is being trained."""
        is_over = (
            self.process.exitcode is not None
        )  # read before the pipe: its last message is there
        with contextlib.suppress(EOFError, OSError):
            if self.orders.poll():
                return int(self.orders.recv())
            if not is_over:
                return None
        self.process.join()
        return self.process.exitcode or FAILED  # a worker never ends well before its cell

    @property
    def events(self) -> list[Any]:
        """The objects to wait for (multiprocessing.connection.wait) until its cell has ended."""
        return [self.orders, self.process.sentinel]


class LocalExecutor:
    """An executor that trains one cell at a time in each slot (`harness.execute.slots`)."""

    def __init__(self, slots: Sequence[str], version: CodeVersion) -> None:
        self._slots = slots
        self._closed: set[int] = set()  # indices of slots for which the memory was too small
        self._arguments = (threads_for(len(slots)), version)
        self._workers: dict[int, Worker] = {}  # by index of their slot

    def _busy(self) -> dict[int, Worker]:
        return {i: worker for i, worker in self._workers.items() if worker.directory is not None}

    @property
    def capacity(self) -> int:
        """The number of cells that can train at once; fewer if the memory did not hold as many."""
        return len(self._slots) - len(self._closed)

    def warm_up(self, n: int) -> None:
        """Start importing torch in the server while the caller does something else.

        Raises:
            UserError: There is no folder for its socket.
        """
        start_server()

    def submit(self, directory: Path) -> None:
        """Start the cell in the least busy slot."""
        busy = self._busy()
        slot = next_slot(self._slots, busy.keys() | self._closed, self._workers)
        try:
            self._workers[slot].begin(directory)
        except (KeyError, OSError):  # there is none, or it was killed while it waited
            self._workers[slot] = Worker((self._slots[slot], *self._arguments))
            self._workers[slot].begin(directory)
        beside = [w for i, w in busy.items() if self._slots[i] == self._slots[slot]]
        for worker in (*beside, self._workers[slot]) if beside else ():
            worker.has_shared = True

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        """Wait for a cell to end; see `Executor.poll`."""
        busy = self._busy()
        if not busy:
            time.sleep(timeout)
            return []
        connection.wait([event for worker in busy.values() for event in worker.events], timeout)
        ended = []
        for slot, worker in busy.items():
            status = worker.ended()
            if status is not None:
                assert worker.directory is not None
                if status == NO_MEMORY and worker.has_shared:
                    status = self._try_again(slot, worker.directory)
                ended.append((worker.directory, status))
                worker.directory, worker.has_shared = None, False
                # A worker that was asked to stop accepts no other cell.
                if status == STOPPED or not worker.process.is_alive():
                    del self._workers[slot]
        return ended

    def _try_again(self, slot: int, directory: Path) -> int:
        """Let fewer cells share the device of a slot, and return the status of a cell that waits.

        One that had the device to itself is not tried again.
        """
        device = self._slots[slot]
        n = sum(d == device and i not in self._closed for i, d in enumerate(self._slots))
        if n > 1:
            self._closed.add(slot)
            n -= 1
        print(
            f"note: {directory.name}: out of memory beside other cells on {device}; it is tried "
            f"again, and from now on at most {n} train there at once",
            file=sys.stderr,
            flush=True,
        )
        return STOPPED

    def cancel(self, grace: float = 15.0) -> None:
        """Stop the running cells; workers that wait stay."""
        self._end(self._busy(), grace)

    def close(self) -> None:
        """Stop all workers."""
        self._end(dict(self._workers), grace=15.0)

    def _end(self, workers: dict[int, Worker], grace: float) -> None:
        end(workers.values(), grace)
        for slot in workers:
            del self._workers[slot]


def end(workers: Collection[Worker], grace: float) -> None:
    """Ask the workers to stop, and kill those that are left after `grace` seconds."""
    for worker in workers:
        worker.process.terminate()
        worker.orders.close()  # ends a worker that waits for a cell
    deadline = time.monotonic() + grace
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
