"""`harness repair`: after any damage, what can be kept is kept, and the cell ends with the same
bits."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import FILE
from helpers import Output, cells, refusal
from training import StopAfter, assert_same_result, go, tiny

from harness.analysis.export import curves_of
from harness.cli import main
from harness.common.errors import UserError
from harness.execute.scheduler import begin
from harness.plan import Plan
from harness.run.repair import Events, reachable, repair, with_gaps
from harness.store import CellDir, Store
from harness.store.cell_files import Damaged
from harness.train import loop
from harness.train.exit_status import DONE, STOPPED, WRONG_INPUT

Damage = Callable[[CellDir], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, CellDir]:
    """Trained to its end without any damage."""
    grid = tiny(tmp_path_factory.mktemp("whole"), "methods=[plain]")
    directory = grid.directory("supervised")
    assert go(directory) == DONE
    return grid.plan, directory


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> CellDir:
    """The cell of `done`, stopped in its third epoch."""
    directory = tiny(tmp_path_factory.mktemp("stopped"), "methods=[plain]").directory("supervised")
    assert go(directory, StopAfter(12)) == STOPPED
    assert len(directory.epochs()) == 2
    return directory


def copy(source: CellDir, root: Path) -> CellDir:
    shutil.copytree(source.path, root / source.path.name)
    return CellDir(root / source.path.name)


def files(directory: CellDir) -> dict[str, bytes]:
    found = directory.path.rglob("*")
    return {str(p.relative_to(directory.path)): p.read_bytes() for p in found if p.is_file()}


def journal(change: Callable[[list[bytes]], None]) -> Damage:
    def damage(directory: CellDir) -> None:
        path = directory / "journal.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        change(lines)
        path.write_bytes(b"".join(lines))

    return damage


def write(name: str, content: bytes) -> Damage:
    return lambda directory: (directory / name).write_bytes(content) and None


def flip(name: str) -> Damage:
    def damage(directory: CellDir) -> None:
        data = bytearray((directory / name).read_bytes())
        data[len(data) // 2] ^= 1
        (directory / name).write_bytes(data)

    return damage


def halve(name: str) -> Damage:
    def damage(directory: CellDir) -> None:
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[: len(data) // 2])

    return damage


def line(number: int, content: bytes) -> Damage:
    def change(lines: list[bytes]) -> None:
        lines[number] = content

    return journal(change)


# Of an unfinished cell: its journal has start, epoch 1, epoch 2, stopped. -> epochs that are kept
UNFINISHED: dict[str, tuple[Damage, int]] = {
    "start is broken": (line(0, b'{"event":"sta\n'), 2),
    "start is not UTF-8": (line(0, b'{"event":"start","time":1,"device":"\xff"}\n'), 2),
    "a blank line": (journal(lambda lines: lines.insert(2, b"\n")), 2),
    "zeros between": (journal(lambda lines: lines.insert(2, bytes(4096) + b"\n")), 2),
    "epoch 1 is broken": (line(1, b'{"event":"epoch","epoch":1\n'), 0),
    "epoch 1 is lost": (line(1, b""), 0),
    "epoch 2 is zeros": (line(2, bytes(64) + b"\n"), 2),
    "epoch 2 has no number": (line(2, b'{"event":"epoch","time":1}\n'), 2),
    "zeros at its end": (journal(lambda lines: lines.__setitem__(slice(1, 9), [bytes(99)])), 0),
    "the journal is lost": (lambda directory: (directory / "journal.jsonl").unlink(), 0),
    "the journal is zeros": (write("journal.jsonl", bytes(600)), 0),
    "the checkpoint is flipped": (flip("checkpoint.pt"), 0),
    "the checkpoint is half": (halve("checkpoint.pt"), 0),
    "the checkpoint is empty": (write("checkpoint.pt", b""), 0),
    "its digest is lost": (lambda directory: (directory / "checkpoint.sha256").unlink(), 2),
    "its digest is zeros": (write("checkpoint.sha256", bytes(65)), 2),
    "its digest is not UTF-8": (write("checkpoint.sha256", b"\xff\xfe\n"), 2),
    "cell.json is empty": (write("cell.json", b""), 2),
    "cell.json is half": (halve("cell.json"), 2),
    "cell.json is a list": (write("cell.json", b"[]"), 2),
    "pause is empty": (write("pause", b""), 2),
    "pause is no number": (write("pause", b"-1\n"), 2),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFINISHED)
def test_an_unfinished_cell(
    whole: tuple[Plan, CellDir], stopped: CellDir, tmp_path: Path, capsys: Output, case: str
) -> None:
    plan, undamaged = whole
    directory = copy(stopped, tmp_path)
    damage, kept = UNFINISHED[case]
    damage(directory)
    before = files(directory)
    with pytest.raises(UserError, match="harness repair"):
        begin(plan, Store(tmp_path))
        for cell in plan.cells.values():
            Store(tmp_path).prepare(cell)
        # What only the checkpoint's content shows, its training refuses. It writes why, and cuts a
        # half-written line first.
        assert go(directory) == WRONG_INPUT
        raise UserError(directory.events()[-1]["error"])
    for file in ("checkpoint.pt", "model.pt"):
        assert files(directory).get(file) == before.get(file)

    before = files(directory)
    name = directory.path.name
    assert main(["repair", name[:6], "--store", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "damaged: " in said and "--yes" in said
    assert files(directory) == before, "a dry run"

    assert main(["repair", name, "--store", str(tmp_path), "--yes"]) == 0
    assert "mended" in capsys.readouterr().out
    lost = set(before.values()) - set(files(directory).values()) - {before["lease"]}
    assert not lost, "moved aside, not deleted"
    assert main(["repair", name, "--store", str(tmp_path)]) == 0
    assert "nothing is damaged" in capsys.readouterr().out

    begin(plan, Store(tmp_path))
    (cell,) = plan.cells.values()
    assert Store(tmp_path).prepare(cell).path == directory.path
    n_lines = sum(e["event"] == "epoch" for e in directory.events())
    assert go(directory) == DONE
    trained = sum(e["event"] == "epoch" for e in directory.events()) - n_lines
    rest = len(directory.epochs()) - kept
    assert trained == rest or (case.startswith("epoch 2") and trained == rest + 1)
    assert_same_result(directory, undamaged)
    assert (directory / "model.pt").read_bytes() == (undamaged / "model.pt").read_bytes()


# Of a finished cell -> whether its model is kept.
FINISHED: dict[str, tuple[Damage, bool]] = {
    "the manifest is empty": (write("manifest.json", b""), False),
    "the manifest is half": (halve("manifest.json"), False),
    "the manifest has no digest": (write("manifest.json", b"{}"), False),
    "the manifest is no object": (write("manifest.json", b"null"), False),
    "the model is flipped": (flip("model.pt"), False),
    "the model is lost": (lambda directory: (directory / "model.pt").unlink(), False),
    "the predictions are flipped": (flip("predictions.npz"), True),
    "the predictions are empty": (write("predictions.npz", b""), True),
    "the predictions are lost": (lambda directory: (directory / "predictions.npz").unlink(), True),
    "a line is broken": (line(0, b"}\n"), True),
    "a line is not UTF-8": (line(4, b"\xff\xfe\n"), True),
}


@pytest.mark.parametrize("case", FINISHED)
def test_a_finished_cell(
    whole: tuple[Plan, CellDir], tmp_path: Path, capsys: Output, case: str
) -> None:
    _, undamaged = whole
    directory = copy(undamaged, tmp_path)
    damage, kept = FINISHED[case]
    damage(directory)
    before = files(directory)
    command = ["repair", directory.path.name[:8], "--store", str(tmp_path)]
    assert main(command) == 0
    assert "damaged: " in capsys.readouterr().out
    assert files(directory) == before
    assert main([*command, "--yes"]) == 0
    assert not set(before.values()) - set(files(directory).values()) - {before["lease"]}
    assert main(command) == 0
    assert "nothing is damaged" in capsys.readouterr().out.splitlines()[-1]
    assert directory.is_done == kept
    n_starts = len(directory.events())
    assert go(directory) == DONE
    assert (len(directory.events()) == n_starts) == kept, "trained again"
    assert_same_result(directory, undamaged)
    for name in ("model.pt", "predictions.npz"):
        assert (directory / name).read_bytes() == (undamaged / name).read_bytes()


RESULTS = ["model.pt", "predictions.npz"]


class Crash(BaseException):
    pass


def crash_at(step: int) -> Callable[..., None]:
    """Return an os.replace that kills the process before or after one of its calls."""
    steps, real = itertools.count(), os.replace

    def replace(*names: Path) -> None:
        if next(steps) == step:
            raise Crash
        real(*names)
        if next(steps) == step:
            raise Crash

    return replace


@pytest.mark.parametrize("case", [*UNFINISHED, *FINISHED])
def test_a_repair_that_was_killed_is_done_by_the_next_one(
    whole: tuple[Plan, CellDir], stopped: CellDir, tmp_path: Path, case: str
) -> None:
    """Killed before and after each file that it moves or writes."""

    def mended(name: str, patch: pytest.MonkeyPatch | None = None) -> dict[str, bytes]:
        directory = copy(whole[1] if case in FINISHED else stopped, tmp_path / name)
        (FINISHED | UNFINISHED)[case][0](directory)
        before = files(directory)
        if patch is not None:
            patch.setattr("os.replace", crash_at(int(name)))
            with contextlib.suppress(Crash):
                repair(directory.path.name, tmp_path / name, True)
                crashed.remove(True)
            patch.undo()
            left = files(directory)
            if "manifest.json" in left:
                assert not before.keys() & {*RESULTS} - left.keys(), "at no moment without them"
        repair(directory.path.name, tmp_path / name, True)
        after = files(directory)
        assert not set(before.values()) - set(after.values()) - {before["lease"]}
        after = {name: data for name, data in after.items() if "/" not in name}
        for first, rest in (("checkpoint.pt", ["checkpoint.sha256"]), ("manifest.json", RESULTS)):
            if first not in after:  # without it, the others count for nothing
                after = {name: data for name, data in after.items() if name not in rest}
        return after

    expected, crashed = mended("whole"), [True]
    for step in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            assert mended(str(step), patch) == expected, f"killed at step {step}"
        if not crashed:
            break
    assert step > 1


def test_predictions_that_cannot_be_made_here_are_still_missing(
    whole: tuple[Plan, CellDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def without_data(*_: object) -> None:
        raise UserError("dataset: not here")

    directory = copy(whole[1], tmp_path)
    flip("predictions.npz")(directory)
    monkeypatch.setattr("harness.train.predictions.load_dataset", without_data)
    for _ in range(2):
        repair(directory.path.name, tmp_path, True)
        assert "no predictions: dataset: not here" in capsys.readouterr().out
        assert not (directory / "predictions.npz").exists(), "tables can be made without it"
    monkeypatch.undo()
    repair(directory.path.name, tmp_path, True)
    assert_same_result(directory, whole[1])
    assert files(directory)["predictions.npz"] == files(whole[1])["predictions.npz"]


def test_a_finished_cell_keeps_its_model_without_the_line_of_an_epoch(
    whole: tuple[Plan, CellDir], tmp_path: Path, capsys: Output
) -> None:
    _, undamaged = whole
    directory = copy(undamaged, tmp_path)
    line(2, b"{\n")(directory)
    assert main(["repair", directory.path.name, "--store", str(tmp_path), "--yes"]) == 0
    assert "epochs 2 are gaps in its curves" in capsys.readouterr().out
    assert directory.manifest == undamaged.manifest
    assert [len(e) > 3 for e in directory.epochs()] == [True, False, True]
    assert curves_of(directory)["loss/total"][1] is None


def test_a_checkpoint_that_was_about_to_be_renamed_is_the_last_good_one(
    whole: tuple[Plan, CellDir], stopped: CellDir, tmp_path: Path
) -> None:
    directory = copy(stopped, tmp_path)
    good = (directory / "checkpoint.pt").read_bytes()
    (directory / ".checkpoint.pt.4194305.tmp").write_bytes(good)
    flip("checkpoint.pt")(directory)
    assert main(["repair", directory.path.name, "--store", str(tmp_path), "--yes"]) == 0
    assert directory.read_checkpoint() == good
    assert go(directory) == DONE
    assert_same_result(directory, whole[1])


def test_another_cells_description_is_refused(
    whole: tuple[Plan, CellDir], stopped: CellDir, tmp_path: Path
) -> None:
    directory = copy(stopped, tmp_path)
    text = (directory / "cell.json").read_text()
    (directory / "cell.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    (cell,) = whole[0].cells.values()
    with pytest.raises(Damaged, match=r"cell\.json is of another cell"):
        Store(tmp_path).prepare(cell)
    assert main(["repair", directory.path.name, "--store", str(tmp_path), "--yes"]) == 0
    assert Store(tmp_path).prepare(cell).cell.config.seed == 0


def test_a_checkpoint_that_holds_the_missing_lines_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """Killed between the checkpoint and its epochs' lines, and then damaged elsewhere."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 3600.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 10**9)
    directory = tiny(tmp_path, "training.epochs=5", "methods=[plain]").directory("supervised")
    directory.pause_after = 4
    assert go(directory) == STOPPED
    directory.pause_after = None
    journal(lambda lines: lines.__setitem__(slice(2, None), []))(directory)  # epochs 2 to 4
    (directory / "checkpoint.sha256").unlink()
    assert main(["repair", directory.path.name, "--store", str(tmp_path), "--yes"]) == 0
    assert "the checkpoint after epoch 4" in capsys.readouterr().out
    assert go(directory) == DONE
    assert [line["epoch"] for line in directory.epochs()] == [1, 2, 3, 4, 5]


def test_a_cell_that_is_being_trained_is_left_alone(
    stopped: CellDir, tmp_path: Path, capsys: Output
) -> None:
    directory = copy(stopped, tmp_path)
    flip("checkpoint.pt")(directory)
    before = files(directory)
    for more in ([], ["--yes"]):
        with directory.lease():
            assert "is being trained" in refusal(
                capsys, "repair", directory.path.name, "--store", str(tmp_path), *more
            )
    assert files(directory) | {"lease": b""} == before | {"lease": b""}


@pytest.mark.parametrize("prefix", ["", "ffff", "../", "nothing"])
def test_no_such_cell(tmp_path: Path, capsys: Output, prefix: str) -> None:
    assert "no cell" in refusal(capsys, "repair", prefix, "--store", str(tmp_path))


def test_epochs_that_cannot_be_reached_and_gaps() -> None:
    def events(*epochs: int) -> Events:
        return [{"event": "epoch", "epoch": epoch, "time": 1.0} for epoch in epochs]

    assert reachable(events(1, 2, 4, 5)) == (events(1, 2), 2)
    assert reachable(events(1, 2, 3, 1, 2)) == (events(1, 2, 3, 1, 2), 2)
    filled, lost = with_gaps(events(2, 4), 5)
    assert [e["epoch"] for e in filled] == [1, 2, 3, 4, 5] and lost == [1, 3, 5]
    filled, lost = with_gaps(events(1, 3, 1, 2, 3), 3)
    assert [e["epoch"] for e in filled] == [1, 2, 3, 1, 2, 3] and lost == []


# Every command that reads a store


@pytest.mark.parametrize("name", ["journal.jsonl", "manifest.json", "cell.json"])
def test_every_command_names_the_damaged_cell(
    project_copy: Path, capsys: Output, name: str
) -> None:
    cell = cells(project_copy)["kd"]
    (cell / name).write_bytes(b"\xff" + (cell / name).read_bytes())
    before = files(cell)
    readers = {
        "journal.jsonl": ["status", "tables"],
        "manifest.json": ["status", "tables", "plan", "run", "sync", "explain"],
        "cell.json": ["status", "explain"],
    }
    for command in readers[name]:
        argument = cell.path.name if command == "explain" else FILE
        error = refusal(capsys, command, argument)
        assert name in error and f"`harness repair {cell.path.name} --store runs`" in error
    assert files(cell) == before
