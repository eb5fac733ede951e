"""The store: files that a crash cannot break, leases that a death frees, digests that are checked.

A crash is simulated by an os.replace that fails: what lies on disk then is what a power cut leaves.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import HANG
from helpers import Patch, some_manifest, wrong

from harness.cell import Cell, CellConfig, CellData, network_options
from harness.common.errors import UserError
from harness.methods import SECTIONS
from harness.store import Busy, CellDir, Store
from harness.store.files import write_atomically
from harness.store.manifest import CellOptions

ROOT = Path(__file__).resolve().parent.parent
CONFIG = CellConfig(
    data=CellData(digest=""),
    network=network_options({"network": "resnet", "depth": 8}),
    sections={name: SECTIONS[name]() for name in ("training", "kd")},
)


@pytest.fixture
def cell(tmp_path: Path) -> CellDir:
    return CellDir(tmp_path)


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


class Crash(BaseException):
    pass


def crash_before_renaming(monkeypatch: Patch, name: str) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise Crash
        real(source, target)

    monkeypatch.setattr("harness.common.files.os.replace", replace)


# Files


def test_write_atomically_leaves_only_the_file(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        write_atomically(tmp_path / "x", data)
        assert (tmp_path / "x").read_bytes() == data
        assert names(tmp_path) == ["x"]


def test_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: Patch) -> None:
    write_atomically(tmp_path / "x", b"old")
    crash_before_renaming(monkeypatch, "x")
    with pytest.raises(Crash):
        write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: Patch) -> None:
    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("harness.common.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "x", b"new")
    assert names(tmp_path) == []


WRITER = """
import os, sys
from pathlib import Path
from harness.store import Store
from harness.store.files import write_atomically
os.getpid, os.fsync = lambda: 7, lambda _: None
path, byte = Path(sys.argv[1]), sys.argv[2].encode()
for n in range(500):
    write_atomically(path, byte * (100_000 + n))
    data = path.read_bytes()
    assert len(set(data)) == 1 and len(data) >= 100_000, (len(data), set(data))
    Store(path.parent).create()
"""


@pytest.mark.parametrize("locks", ["", "import fcntl; fcntl.flock = lambda *_: None\n"])
def test_writers_of_equal_process_id_do_not_disturb_each_other(tmp_path: Path, locks: str) -> None:
    """Two containers on one volume, whose locks reach from one to the other, or do not."""
    commands = [[sys.executable, "-c", locks + WRITER, str(tmp_path / "x"), c] for c in "ab"]
    writers = [subprocess.Popen(c, cwd=ROOT, stderr=subprocess.PIPE, text=True) for c in commands]
    for writer in writers:
        assert writer.communicate(timeout=HANG)[1] == ""
    assert names(tmp_path) == ["x"]


# Journal


def test_journal_keeps_every_event_in_order(cell: CellDir) -> None:
    before = time.time()
    cell.append("start", device="cpu")
    cell.append("epoch", epoch=1, value=0.1)
    cell.append("epoch", epoch=2, value=1 / 3)
    assert [e["event"] for e in cell.events()] == ["start", "epoch", "epoch"]
    assert [e["value"] for e in cell.epochs()] == [0.1, 1 / 3]
    assert before - 1 <= cell.events()[0]["time"] <= time.time() + 1


def test_no_journal_means_no_events(cell: CellDir) -> None:
    assert cell.events() == cell.epochs() == []


@pytest.mark.parametrize("n_whole", [0, 1])
@pytest.mark.parametrize("torn", ["", '{"event":"epo', '{"event":"epoch","epoch":2}', "{"])
def test_torn_last_line_is_ignored_and_cut(cell: CellDir, n_whole: int, torn: str) -> None:
    """It is cut by whoever appends, be it a training or the report that it failed."""
    (cell / "journal.jsonl").touch()
    for _ in range(n_whole):
        cell.append("epoch", epoch=1)
    whole = (cell / "journal.jsonl").read_text()
    (cell / "journal.jsonl").write_text(whole + torn)
    assert [e["epoch"] for e in cell.events()] == [1] * n_whole
    cell.append("failed", error="no space")
    assert (cell / "journal.jsonl").read_text().startswith(whole + '{"sum":')
    assert [e["event"] for e in cell.events()] == ["epoch"] * n_whole + ["failed"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_does_not_reach_the_journal(cell: CellDir, value: float) -> None:
    cell.append("start")
    with pytest.raises(ValueError, match="JSON"):
        cell.append("epoch", epoch=1, loss=value)
    assert [e["event"] for e in cell.events()] == ["start"]


def test_an_epoch_that_comes_again_replaces_itself_and_its_successors(cell: CellDir) -> None:
    for epoch, value in ((1, 0), (2, 0), (3, 0), (1, 1), (2, 1)):
        cell.append("epoch", epoch=epoch, value=value)
    assert [(e["epoch"], e["value"]) for e in cell.epochs()] == [(1, 1), (2, 1)]


# Checkpoints


def test_checkpoint_round_trip(cell: CellDir) -> None:
    assert cell.read_checkpoint() is None
    for data in (b"one", b"two", b"three"):
        cell.write_checkpoint(data)
        assert cell.read_checkpoint() == data
    assert names(cell.path) == ["checkpoint.pt", "checkpoint.sha256"]


def test_a_checkpoint_older_than_a_crash_is_refused(cell: CellDir) -> None:
    for data in (b"one", b"two", b"three"):
        cell.write_checkpoint(data)
    (cell / "checkpoint.pt").write_bytes(b"one")
    with pytest.raises(UserError):
        cell.read_checkpoint()


@pytest.mark.parametrize("before", ["checkpoint.sha256", "checkpoint.pt"])
@pytest.mark.parametrize("n_crashes", [1, 2, 3])
def test_crash_while_checkpointing_keeps_the_old_one(
    cell: CellDir, monkeypatch: Patch, before: str, n_crashes: int
) -> None:
    cell.write_checkpoint(b"older")
    cell.write_checkpoint(b"old")
    with monkeypatch.context() as patch:
        crash_before_renaming(patch, before)
        for i in range(n_crashes):
            with pytest.raises(Crash):
                cell.write_checkpoint(b"new %d" % i)
            assert cell.read_checkpoint() == b"old"
    cell.write_checkpoint(b"new")
    assert cell.read_checkpoint() == b"new"


def test_crash_in_the_first_checkpoint(cell: CellDir, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        crash_before_renaming(patch, "checkpoint.pt")
        with pytest.raises(Crash):
            cell.write_checkpoint(b"first")
    assert cell.read_checkpoint() is None
    cell.write_checkpoint(b"again")
    assert cell.read_checkpoint() == b"again"


def test_finish_removes_the_checkpoint_and_what_kills_left_of_it(cell: CellDir) -> None:
    cell.write_checkpoint(b"data")
    (cell / ".checkpoint.pt.123.tmp").touch()
    (cell / ".mlflow.json.123.tmp").touch()  # another process may be about to rename it
    assert not cell.is_done
    cell.finish(some_manifest())
    assert cell.is_done
    assert cell.manifest == some_manifest()
    assert names(cell.path) == [".mlflow.json.123.tmp", "manifest.json"]


# Finished models


# Leases

HOLDER = """
import sys, time
from pathlib import Path
from harness.store import CellDir
with CellDir(Path(sys.argv[1])).lease():
    print("held", flush=True)
    time.sleep(1e6)
"""


def test_lease_is_exclusive_and_ends_with_its_process(cell: CellDir) -> None:
    assert not cell.is_leased
    command = [sys.executable, "-c", HOLDER, str(cell.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert cell.is_leased
        with pytest.raises(Busy, match=rf'"pid":{holder.pid}\b'), cell.lease():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not cell.is_leased
    with cell.lease():
        assert json.loads((cell / "lease").read_text())["pid"] == os.getpid()
        with pytest.raises(Busy), cell.lease():
            pass
    assert not cell.is_leased


def test_lease_ends_with_an_error(cell: CellDir) -> None:
    with pytest.raises(ZeroDivisionError), cell.lease():
        _ = 1 / 0
    with cell.lease():
        pass


def test_a_cell_that_is_not_there_is_not_leased(tmp_path: Path) -> None:
    assert not CellDir(tmp_path / "nothing").is_leased
    assert names(tmp_path) == []


# The folder of cells


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        line = wrong(Store(root).create, "choose a folder you may write to")
        assert line.startswith(f"--store: cannot write to {root} (")


def test_create_leaves_an_empty_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    store.create()
    store.create()
    assert names(store.root) == []
    assert store.all() == []


def test_prepare_writes_what_the_fingerprint_covers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = [
        Cell("kd", CONFIG.model_copy(update={"seed": i}), {"teacher": "f" * 64}) for i in range(3)
    ]
    for cell in (*cells, *cells):
        directory = store.prepare(cell)
        assert directory.path.name == cell.fingerprint[:16]
        assert directory.cell.fingerprint == cell.fingerprint
    assert len(store.all()) == 3


def test_prepare_keeps_what_is_there(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), Cell("kd", CONFIG)
    first = store.prepare(cell)
    first.append("start")
    written = (first / "cell.json").stat().st_ino
    assert [e["event"] for e in store.prepare(cell).events()] == ["start"]
    assert (first / "cell.json").stat().st_ino == written
    assert store.directory(cell.fingerprint).path == first.path


def test_prepare_keeps_the_options_beside_the_cell(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), Cell("kd", CONFIG)
    before = (store.prepare(cell) / "cell.json").read_bytes()
    assert names(store.directory(cell.fingerprint).path) == ["cell.json"]
    for path in ("/here", "/there"):
        options = CellOptions(data_root=path)
        directory = store.prepare(cell, options)
        assert directory.options == options
        assert (directory / "cell.json").read_bytes() == before


# Litter


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Those that are locked stay, as their processes live, and so does a checkpoint, which may be
    the last good one."""
    store, cell = Store(tmp_path), Cell("kd", CONFIG)
    directory = store.prepare(cell)
    litter = (".cell.json.0123abcd.tmp", f".options.json.{os.getppid()}.tmp")
    stay = [".cell.json.deadbeef.tmp", ".checkpoint.pt.0123abcd.tmp"]
    for name in (*litter, *stay):
        (directory / name).touch()
    (tmp_path / ".mlflow.json.0123abcd.tmp").touch()
    with open(directory / stay[0]) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.create()
        store.prepare(cell)
    assert names(directory.path) == sorted(["cell.json", *stay])
    assert names(tmp_path) == [directory.path.name]


def test_a_temporary_file_is_locked_until_it_has_its_name(
    cell: CellDir, monkeypatch: Patch
) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        with open(source) as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        real(source, target)

    monkeypatch.setattr("harness.common.files.os.replace", replace)
    write_atomically(cell / "x", b"new")
    assert names(cell.path) == ["x"]
