"""The code that runs on the nodes of a Ray cluster: a task trains one cell.

Importing this module imports neither Ray nor torch.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.locks import Busy, lock_file, locked, try_lock
from harness.common.provenance import CodeVersion
from harness.common.signals import StopSignal
from harness.common.temporary import user_folder
from harness.execute.ray.datasets import DatasetRef, NoData, data_on_node
from harness.execute.ray.transfer import Files, RemoteCell, write_files
from harness.store import CellDir
from harness.store.teacher_cache import FOLDER as TEACHER_CACHE
from harness.train.data_request import DatasetCache, data_request

MOST_OUTPUT = 1 << 20  # bytes of a sent cell's output that are returned, the last ones


@dataclass(frozen=True)
class CellPayload:
    """The files and data that a node without access to the store needs to train a cell.

    Attributes:
        files: The cell's files.
        upstream: directory name -> a reference to the files of that upstream cell.
        sender: The name of this attempt in the mailbox.
        dataset: None if the node is expected to have the data.
    """

    files: Files
    upstream: dict[str, Any]
    sender: str
    dataset: DatasetRef | None = None


@dataclass(frozen=True)
class Job:
    """A cell to train.

    Attributes:
        directory: The cell's directory in the store.
        device: The device to train on.
        threads: The number of CPU threads.
        version: The code's version, for the manifest.
        probe: Name and content of a file in the store, to see whether a node sees the store.
        payload: None if the node is to train in the store itself.
    """

    directory: Path
    device: str
    threads: int
    version: CodeVersion
    probe: tuple[str, str]
    payload: CellPayload | None = None


@dataclass(frozen=True)
class Report:
    """The end of a task.

    Attributes:
        status: The cell's exit status.
        lacks: What the node lacks, so that nothing was trained: "files" (it does not see the
            store) or "data"; or "".
        node: The node's name, if it lacks something.
        output: What a sent cell printed.
    """

    status: int = 0
    lacks: str = ""
    node: str = ""
    output: bytes = b""


class Mailbox:
    """An actor next to the command; it keeps what sent cells write until that is in the store."""

    def __init__(self) -> None:
        self._n = 0
        self._messages: deque[tuple[int, str, str, Any]] = deque()

    def put(self, sender: str, write: str, content: Any) -> None:
        """Add a message."""
        self._n += 1
        self._messages.append((self._n, sender, write, content))

    def take(self, n_stored: int) -> list[tuple[int, str, str, Any]]:
        """Forget the first `n_stored` messages, which are in the store, and return the others.

        Returns:
            (number, sender, write, content) of each message.
        """
        while self._messages and self._messages[0][0] <= n_stored:
            self._messages.popleft()
        return list(self._messages)


def make_mailbox(ray: Any) -> Any:
    """Return a new actor `Mailbox` on the node of this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    here = On(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


def import_training() -> None:
    """Import what a training needs; this is a Ray task, sent ahead of the cells."""
    import torch._dynamo  # noqa: F401

    import harness.train.cell  # noqa: F401


def train_on_node(job: Job, mailbox: Any, body: Callable[..., int] | None = None) -> Report:
    """Train a cell; this is a Ray task.

    `mailbox` is the actor `Mailbox`, None if no cell has been sent; tests replace
    `harness.train.cell.run_cell` by `body`.
    """
    with StopSignal(signal.SIGINT) as should_stop:  # Ray cancels a task as Ctrl-C would
        if job.payload is None:
            if not _sees_store(job):
                return Report(lacks="files", node=os.uname().nodename)
            with _output_to(job.directory / "log.txt"):
                return Report(_train(CellDir(job.directory), job, should_stop, body))
        with _temporary_store() as root:
            try:
                directory = _unpack(job.payload, job.directory.name, root, mailbox)
            except NoData:
                return Report(lacks="data", node=os.uname().nodename)
            log = root / "log.txt"
            with _output_to(log):
                status = _train(directory, job, should_stop, body)
            return Report(status, output=log.read_bytes()[-MOST_OUTPUT:])


def _train(
    directory: CellDir, job: Job, should_stop: StopSignal, body: Callable[..., int] | None
) -> int:
    from harness.train.cell import run_cell

    return (body or run_cell)(
        directory, job.device, job.threads, job.version, should_stop, _datasets()
    )


def _sees_store(job: Job) -> bool:
    """Return whether this node can work in the store.

    It can if it sees a file that was just made there, and the cell's directory is writable.
    """
    name, content = job.probe
    try:
        sees_probe = (job.directory.parent / name).read_text() == content
    except OSError:
        return False
    return sees_probe and os.access(job.directory, os.W_OK)


def _unpack(payload: CellPayload, name: str, root: Path, mailbox: Any) -> CellDir:
    """Write a sent cell into the store at `root`, and return its directory.

    Raises:
        NoData: The data were not sent, and are not here.
    """
    import ray

    def send(write: str, content: Any) -> None:
        ray.get(mailbox.put.remote(payload.sender, write, content))  # returns once it has arrived

    directory = RemoteCell(root / name, send)
    write_files(directory, payload.files)
    for source, files in payload.upstream.items():
        write_files(CellDir(root / source), ray.get(files))
    (root / TEACHER_CACHE).symlink_to(_made(_node_folder() / TEACHER_CACHE))
    request = data_request(directory)
    _datasets().get(
        request, lambda: data_on_node(request, payload.dataset, ray.get, _node_folder() / "data")
    )
    return directory


# -- what the cells of one process and of one node share -------------------------------------------


@functools.cache
def _datasets() -> DatasetCache:
    """Return the data set that this process has loaded."""
    return DatasetCache()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _node_folder() -> Path:
    """Return this user's folder on this node."""
    return _made(user_folder() / "ray")


@contextlib.contextmanager
def _temporary_store() -> Iterator[Path]:
    """Make an empty folder, and remove it afterwards.

    Folders that killed processes have left are removed, too.
    """
    with locked(_node_folder() / "cells.lock", "it makes a cell's folder"):
        for abandoned in _made(_node_folder() / "cells").iterdir():
            with contextlib.suppress(OSError, Busy), try_lock(abandoned / "lock"):
                shutil.rmtree(abandoned, ignore_errors=True)
        root = Path(tempfile.mkdtemp(dir=_node_folder() / "cells"))
        lock = open(root / "lock", "w")  # noqa: SIM115 - held until the end of the block
        lock_file(lock)
    with lock:
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append what this process prints to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    saved = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(file, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(saved, 1):
            os.dup2(original, number)
            os.close(original)
        os.close(file)
