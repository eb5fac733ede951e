"""What runs on the nodes of a Ray cluster: a task trains one cell. Nothing here imports Ray before
it runs there, or torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from harness.common.locks import Busy, lock_file, locked, try_lock
from harness.execute.ray.datasets import DatasetRef, NoData, data_key, data_on_node
from harness.execute.ray.transfer import Files, SentCell, write_files
from harness.store import CellDir
from harness.store.teacher_cache import FOLDER as TEACHER_CACHE
from harness.train.data_request import data_request

LOG = 1 << 20  # bytes of a travelling cell's output that come back, the last ones


@dataclass(frozen=True)
class CellPayload:
    """What a cell takes with it to a node that does not see the store.

    own: its files. upstream: directory name -> a reference to its files. sender: of this attempt.
    data: left out where the nodes are believed to have them.
    """

    own: Files
    upstream: dict[str, Any]
    sender: str
    data: DatasetRef | None = None


@dataclass(frozen=True)
class Job:
    """A cell to train. directory: in the store. probe: a file in the store, and what it says.
    luggage: None where the node is to train in the store itself."""

    directory: Path
    device: str
    threads: int
    version: dict[str, Any]
    probe: tuple[str, str]
    luggage: CellPayload | None = None


@dataclass(frozen=True)
class Report:
    """How a task ended: the cell's exit status; or what the node lacks, `files` (it does not see
    the store) or `data`, and nothing was trained. log: what a cell that travelled printed."""

    status: int = 0
    lacks: str = ""
    node: str = ""
    log: bytes = b""


class Mailbox:
    """An actor beside the command: keeps what travelling cells write until it is in the store."""

    def __init__(self) -> None:
        self._n = 0
        self._messages: deque[tuple[int, str, str, Any]] = deque()

    def put(self, sender: str, write: str, content: Any) -> None:
        self._n += 1
        self._messages.append((self._n, sender, write, content))

    def take(self, known: int) -> list[tuple[int, str, str, Any]]:
        """(number, sender, write, content) of all messages after number `known`: those up to there
        are in the store, and forgotten."""
        while self._messages and self._messages[0][0] <= known:
            self._messages.popleft()
        return list(self._messages)


class Asked:
    """True once Ray's cancel came: it interrupts the task as Ctrl-C would."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self) -> bool:
        return self.is_set

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True

    def __enter__(self) -> Asked:
        self._before = signal.signal(signal.SIGINT, self._set)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)


def train_on_node(job: Job, mailbox: Any, body: Callable[..., int] | None = None) -> Report:
    """The task.

    Args:
        mailbox: the actor.
        body: as `harness.train.cell.run_cell`, which it is.
    """
    with Asked() as should_stop:
        if job.luggage is None:
            if not _sees(job):
                return Report(lacks="files", node=os.uname().nodename)
            with _output_to(job.directory / "log.txt"):
                return Report(_train(CellDir(job.directory), job, should_stop, body))
        with _store_of_its_own() as root:
            luggage = job.luggage
            try:
                directory = _unpack(luggage, job.directory.name, root, mailbox)
            except NoData:
                return Report(lacks="data", node=os.uname().nodename)
            log = root / "log.txt"
            with _output_to(log):
                status = _train(directory, job, should_stop, body)
            return Report(status, log=log.read_bytes()[-LOG:])


def _train(
    directory: CellDir, job: Job, should_stop: Asked, body: Callable[..., int] | None
) -> int:
    from harness.train.cell import run_cell

    return (body or run_cell)(
        directory, job.device, job.threads, job.version, should_stop, _loaded()
    )


def _sees(job: Job) -> bool:
    """Whether this node can work in the store: a file that was made there a moment ago is here,
    too, and the cell's directory can be written."""
    name, content = job.probe
    try:
        seen = (job.directory.parent / name).read_text() == content
    except OSError:
        return False
    return seen and os.access(job.directory, os.W_OK)


def _unpack(luggage: CellPayload, name: str, root: Path, mailbox: Any) -> CellDir:
    """The cell's directory in a store of its own.

    Raises:
        NoData: neither here nor in the luggage.
    """
    import ray

    def send(write: str, content: Any) -> None:
        ray.get(mailbox.put.remote(luggage.sender, write, content))  # it has arrived

    directory = SentCell(root / name, send)
    write_files(directory, luggage.own)
    for source, files in luggage.upstream.items():
        write_files(CellDir(root / source), ray.get(files))
    (root / TEACHER_CACHE).symlink_to(_made(_folder() / TEACHER_CACHE))
    wanted = data_request(directory)
    _loaded().bring(
        *data_key(wanted), lambda: data_on_node(wanted, luggage.data, ray.get, _folder() / "data")
    )
    return directory


# -- what cells of one process and of one node share -----------------------------------------------

_of_process: list[Any] = []


def _loaded() -> Any:
    """Of this process: what cells before have loaded."""
    if not _of_process:
        from harness.train.cell import Loaded

        _of_process.append(Loaded())
    return _of_process[0]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folder() -> Path:
    """This user's, on this node."""
    folder = Path(tempfile.gettempdir()) / f"harness-ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _store_of_its_own() -> Iterator[Path]:
    """An empty folder, which goes with the block; and those go that killed processes left."""
    with locked(_folder() / "cells.lock", "it makes a cell's folder"):
        for left in _made(_folder() / "cells").iterdir():
            with contextlib.suppress(OSError, Busy), try_lock(left / "lock"):
                shutil.rmtree(left, ignore_errors=True)
        root = Path(tempfile.mkdtemp(dir=_folder() / "cells"))
        held = open(root / "lock", "w")  # noqa: SIM115 - to the end of the block
        lock_file(held)
    with held:
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """What this process prints goes to the end of that file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(file, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in enumerate(kept, 1):
            os.dup2(before, number)
            os.close(before)
        os.close(file)
