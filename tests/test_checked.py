"""`harness status` reads the files of finished cells once, and again when one was written to."""

import os
from collections import Counter
from pathlib import Path

import pytest
from bundles import planned, without_training
from helpers import Output, Patch

from harness.plan import Plan
from harness.run.inspect import print_status
from harness.store import CellDir, Store, checked, journal
from harness.store.cell_files import Damaged


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: Patch) -> Plan:
    """A plan whose cells are done in `tmp_path`, and were written long enough ago."""
    monkeypatch.setattr(checked, "TICK", 0)
    plan = planned(tasks=None, methods=["plain", "kd"], students=[{"depth": 10, "width": 1}])
    without_training(plan, tmp_path)
    return plan


@pytest.fixture
def counts(monkeypatch: Patch) -> Counter[str]:
    """How many models were hashed and lines of journals parsed."""
    counts = Counter[str]()
    digest_of, unsealed = CellDir._digest_of, journal.unsealed

    def hashing(self: CellDir, name: str) -> str:
        counts["hashed"] += 1
        return digest_of(self, name)

    def parsing(line: bytes, cell: Path) -> bytes:
        counts["parsed"] += 1
        return unsealed(line, cell)

    monkeypatch.setattr(CellDir, "_digest_of", hashing)
    monkeypatch.setattr(journal, "unsealed", parsing)
    return counts


def rewrite(path: Path, data: bytes) -> None:
    """Write a file as a program that hides it would: with its size and mtime as they were."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_only_what_was_written_is_read_again(
    plan: Plan, tmp_path: Path, counts: Counter[str], capsys: Output
) -> None:
    print_status(plan, tmp_path)
    first = capsys.readouterr().out
    assert counts["hashed"] == len(plan.cells) and counts["parsed"]
    counts.clear()
    print_status(plan, tmp_path)
    assert capsys.readouterr().out == first and not counts
    cell = Store(tmp_path).directory(next(iter(plan.cells)))
    rewrite(cell / "model.pt", (cell / "model.pt").read_bytes())
    print_status(plan, tmp_path)
    assert counts["hashed"] == 1
    print_status(plan, tmp_path, verify=True)
    assert counts["hashed"] == 1 + len(plan.cells)


@pytest.mark.parametrize("name", checked.FILES)
def test_damage_of_equal_size_and_mtime_is_found(plan: Plan, tmp_path: Path, name: str) -> None:
    print_status(plan, tmp_path)
    path = Store(tmp_path).directory(next(iter(plan.cells))) / name
    rewrite(path, b"\xff" + path.read_bytes()[1:])
    with pytest.raises(Damaged, match=name):
        print_status(plan, tmp_path)


@pytest.mark.parametrize("name", [*checked.FILES, "predictions.npz"])
def test_verify_finds_what_no_program_has_written(plan: Plan, tmp_path: Path, name: str) -> None:
    """A failing disk changes no time: here the record is made to fit the damaged file."""
    print_status(plan, tmp_path)
    cell = Store(tmp_path).directory(next(iter(plan.cells)))
    rewrite(cell / name, b"\xff" + (cell / name).read_bytes()[1:])
    whole = checked.read_whole(tmp_path)
    known = whole[cell.path.name]
    forged = checked.Whole(checked.signature(cell.path), known.epochs, known.is_unchecked)
    checked.record_whole(tmp_path, whole | {cell.path.name: forged})
    print_status(plan, tmp_path)
    with pytest.raises(Damaged, match=name):
        print_status(plan, tmp_path, verify=True)


def test_a_file_written_just_now_may_change_unseen(
    plan: Plan, tmp_path: Path, counts: Counter[str], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(checked, "TICK", 3600 * 10**9)
    for _ in range(2):
        print_status(plan, tmp_path)
    assert counts["hashed"] == 2 * len(plan.cells)


@pytest.mark.parametrize("place", [0, 3, 40, 120, -2])
def test_a_damaged_record_vouches_for_nothing(
    plan: Plan, tmp_path: Path, counts: Counter[str], place: int
) -> None:
    print_status(plan, tmp_path)
    path = tmp_path / checked.NAME
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    counts.clear()
    print_status(plan, tmp_path)
    assert counts["hashed"] == len(plan.cells)


def test_a_store_that_may_not_be_written_is_read(
    plan: Plan, tmp_path: Path, counts: Counter[str], monkeypatch: Patch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(checked, "write_atomically", refuse)
    print_status(plan, tmp_path)
    assert counts["hashed"] == len(plan.cells)
