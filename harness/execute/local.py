"""One process a cell on this machine, forked from a warm server.

Importing torch costs seconds. A fork server imports it once, and every cell is a fork of it: still
a process of its own, which can crash or be killed alone.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import sys
import tempfile
import threading
import time
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from harness.errors import UserError


def cell_process(
    directory: Path, device: str, threads: int | None, version: dict[str, Any]
) -> None:
    """Body of a cell's process: output to log.txt, and no life after the orchestrator's."""
    log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    from harness.store import CellDir
    from harness.train.cell import run_cell

    sys.exit(run_cell(CellDir(directory), device, threads, version))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(143)  # the last epoch's checkpoint is on disk


def threads_for(jobs: int) -> int:
    """CPU threads of each of `jobs` cells, so that together they do not exceed the cores."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


# How long OpenMP's threads spin at a barrier before they sleep. With its default of 300,000 they
# spin even for threads whose core another process has got: two commands of one job each on two
# cores took almost three times as long (docs/design.md).
SPIN = ("GOMP_SPINCOUNT", "3000")


# harness.cli is what a child would import again as the main script; the others are what a cell
# imports, some on first use, which would cost each of them seconds.
PRELOADED = [
    "harness.train.cell",
    "harness.cli",
    "sklearn.datasets",
    "torch._dynamo",
    "torch._inductor",
]


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


class LocalExecutor:
    """Up to `capacity` cells at once."""

    def __init__(self, jobs: int, device: str, version: dict[str, Any]) -> None:
        self.capacity = jobs
        self._arguments = (device, threads_for(jobs), version)
        os.environ.setdefault(*SPIN)
        self._context = multiprocessing.get_context("forkserver")
        forkserver.set_forkserver_preload(PRELOADED)
        self._running: dict[Path, ForkServerProcess] = {}

    def warm_up(self) -> None:
        """Start importing torch in the server, while the caller does something else.

        Raises:
            UserError: no folder for its socket.
        """
        shorten_socket_paths()
        forkserver.ensure_running()

    def submit(self, directory: Path) -> None:
        process = self._context.Process(
            target=cell_process, args=(directory, *self._arguments), name=directory.name
        )
        shorten_socket_paths()
        process.start()
        self._running[directory] = process

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        if not self._running:
            time.sleep(timeout)
            return []
        connection.wait([p.sentinel for p in self._running.values()], timeout)
        ended = []
        for directory, process in list(self._running.items()):
            if process.exitcode is not None:
                process.join()
                del self._running[directory]
                ended.append((directory, process.exitcode))
        return ended

    def cancel(self, grace: float = 15.0) -> None:
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + grace
        for process in self._running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        self._running.clear()
