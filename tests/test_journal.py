"""A journal that is looked at again and again: each look reads what is new, and misses nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import mark_as_sent, planned, without_training
from helpers import Patch
from hypothesis import given
from hypothesis import strategies as st
from training import tiny

from harness.execute.scheduler import begin
from harness.run.display import Pace, running_row
from harness.store import CellDir, Store, journal
from harness.store.cell_files import Damaged, sealed
from harness.store.files import write_atomically
from harness.store.journal import Journal, read_journal
from harness.track import sync
from harness.track.sync import Tracker


@pytest.fixture
def parsed(monkeypatch: Patch) -> list[bytes]:
    """The lines that were parsed."""
    lines, unsealed = list[bytes](), journal.unsealed

    def parse(line: bytes, cell: Path) -> bytes:
        lines.append(line)
        return unsealed(line, cell)

    monkeypatch.setattr(journal, "unsealed", parse)
    return lines


def lines_of(directory: CellDir, epochs: Iterator[int] | range) -> None:
    directory.extend(
        {"event": "epoch", "time": 1.0, "epoch": n, "seconds": 0.5, "images_per_second": 9.0}
        | {"loss/total": 1.0, "validation/accuracy": 0.5}
        for n in epochs
    )


OPERATIONS = (
    "epochs",
    "again",
    "start",
    "tear",
    "complete",
    "shorter",
    "other",
    "changed",
    "longer",
    "gone",
)


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(1, 3)), max_size=12))
def test_every_look_sees_what_a_whole_reading_sees(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    directory = CellDir(tmp_path_factory.mktemp("cell"))
    path = directory / "journal.jsonl"
    watched, rest = Journal(path), b""
    for step, (operation, n) in enumerate(operations):
        data = path.read_bytes() if path.exists() else b""
        if operation in ("epochs", "again"):
            known = 0 if operation == "again" else len(read_journal(path).epochs)
            lines_of(directory, range(known + 1, known + 1 + n))
        elif operation == "start":
            directory.append("start", device="cpu")
        elif operation == "tear" and data.endswith(b"\n"):
            cut = len(data) - 5 * n
            path.write_bytes(data[:cut])
            rest = data[cut:]
        elif operation == "complete" and rest and not data.endswith(b"\n"):
            path.write_bytes(data + rest)
        elif operation == "shorter":
            path.write_bytes(b"".join(data.splitlines(keepends=True)[:n]))
        elif operation == "other":
            write_atomically(path, data.replace(b'"seconds":0.5', b'"seconds":0.7'))
        elif operation == "changed" and data:
            path.write_bytes(data.replace(b"cpu", b"gpu"))
        elif operation == "longer":
            events = [event | {"time": 2.0 + step} for event in read_journal(path).events]
            path.write_bytes(b"".join(sealed(e, directory.path) for e in [*events, *events]))
        elif operation == "gone":
            path.unlink(missing_ok=True)
        if path.exists():
            os.utime(path, ns=(step, step))  # the clock of a file system is coarse
        try:
            whole = read_journal(path)
        except Damaged:
            with pytest.raises(Damaged):
                watched.look()
            return
        watched.look()
        assert (watched.events, watched.epochs) == (whole.events, whole.epochs)
        assert watched.first == whole.first
        assert watched.seconds == pytest.approx(whole.seconds)


def test_the_live_table_and_mlflow_read_what_is_new(tmp_path: Path, parsed: list[bytes]) -> None:
    grid = tiny(tmp_path, "methods=[plain]")
    progress = begin(grid.plan, grid.store)
    (fingerprint,) = progress.plan.cells
    directory = grid.store.prepare(progress.plan.cells[fingerprint])
    lines_of(directory, range(1, 1001))
    progress.move(fingerprint, "running")
    pace, tracker = Pace(progress), Tracker(grid.plan, grid.store)

    def look() -> dict[str, str]:
        pace.look()
        assert tracker.unsent_cells() == [fingerprint]
        return running_row(progress, fingerprint)

    look()
    assert len(parsed) == 2 * 1000, "the display reads them once, and so does the tracker"
    parsed.clear()
    look()
    assert not parsed
    lines_of(directory, range(1001, 1004))
    assert look()["epoch"].startswith("1003/") and len(parsed) == 2 * 3


def test_finished_and_waiting_cells_are_no_work_for_mlflow(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mlflow.db").touch()
    looked, read = list[Path](), sync.read_sync_state
    monkeypatch.setattr(sync, "read_sync_state", lambda p, key: looked.append(p) or read(p, key))
    plan = planned(tasks=None, methods=["plain", "kd"], students=[{"depth": 10, "width": 1}])
    tracker = Tracker(plan, Store(tmp_path / "runs"))
    assert tracker.unsent_cells() == [] and not looked, "no cell has a directory"
    without_training(plan, tmp_path / "runs")
    mark_as_sent(plan, tmp_path / "runs")
    tracker._lost = set()  # MLflow was asked, and has all of them
    for _ in range(2):
        assert tracker.unsent_cells() == [] and len(looked) == len(plan.cells)
