"""Cells stopped, killed and continued: the same bits every time."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import HANG, ROOT, Output, epochs_of, wait_until, weights
from training import (
    KINDS,
    VERSION,
    Grid,
    StopAfter,
    assert_same_result,
    command,
    copy_without,
    go,
    same_state,
    start_process,
    tiny,
)

from harness.store import CellDir
from harness.train import loop
from harness.train.checkpoint import from_bytes
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED, WRONG_INPUT

# The same seed, the same bits


def test_other_seed_other_weights(trained: Grid, tmp_path: Path) -> None:
    other = tiny(tmp_path, "seeds=[1]", "training.epochs=1").directory("supervised")
    assert go(other) == DONE
    assert not same_state(weights(other), weights(trained.directory("supervised")))


def test_dropout_differs_between_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeding each epoch must not give each the same dropout."""
    seeds = []
    real = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda s: seeds.append(s) or real(s))
    assert go(tiny(tmp_path).directory("supervised")) == DONE
    assert len(set(seeds)) == 4  # initial weights and three epochs


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_in_an_epoch_and_continued(trained: Grid, tmp_path: Path, kind: str) -> None:
    _, directory = copy_without(trained, kind, tmp_path)
    assert go(directory, StopAfter(7)) == STOPPED  # five batches an epoch
    assert directory.events()[-1]["event"] == "stopped"
    assert epochs_of(directory) == [1]
    assert go(directory, StopAfter(7)) == STOPPED
    assert go(directory) == DONE
    assert_same_result(directory, trained.directory(kind))
    assert directory.manifest.attempts == 3


@pytest.mark.parametrize(
    ("kind", "written"), [("supervised", 0), ("stage1", 0), ("supervised", 40)]
)
def test_stopped_between_checkpoint_and_journal(
    trained: Grid, tmp_path: Path, kind: str, written: int
) -> None:
    """A power cut may leave part of the epoch's line, which the next start must not append to."""
    _, directory = copy_without(trained, kind, tmp_path)
    assert go(directory, StopAfter(12)) == STOPPED
    journal = directory / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(lines[-2])["epoch"] == 2
    journal.write_text("".join(lines[:-2]) + lines[-2][:written])
    assert go(directory) == DONE
    assert epochs_of(directory) == [1, 2, 3]
    assert_same_result(directory, trained.directory(kind))
    assert [e["event"] for e in directory.events()].count("start") == 2


def test_trained_from_the_start_after_its_checkpoint_was_deleted(
    trained: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the message about a broken checkpoint advises."""
    _, directory = copy_without(trained, "supervised", tmp_path)
    with monkeypatch.context() as unknown:
        unknown.setitem(VERSION, "dirty", None)
        assert go(directory, StopAfter(12)) == STOPPED
    (directory / "checkpoint.pt").unlink()
    assert go(directory) == DONE
    assert epochs_of(directory) == [1, 2, 3]
    assert_same_result(directory, trained.directory("supervised"))
    assert directory.manifest.dirty is None


# Not after every epoch


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint is due between the first epoch's and the last one's."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 3600.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 10**9)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs after which a checkpoint was written."""
    epochs: list[int] = []
    real = CellDir.write_checkpoint

    def counted(directory: CellDir, data: bytes) -> None:
        epochs.append(from_bytes(data, directory.path)["epoch"])
        real(directory, data)

    monkeypatch.setattr(CellDir, "write_checkpoint", counted)
    return epochs


FIVE = ("training.epochs=5",)


@pytest.mark.usefixtures("rarely")
def test_stopped_between_checkpoints(tmp_path: Path, saved: list[int]) -> None:
    directory = tiny(tmp_path / "a", *FIVE).directory("supervised")
    assert go(directory, StopAfter(17)) == STOPPED  # in the fourth epoch
    assert epochs_of(directory) == saved == [1]
    assert go(directory) == DONE
    assert saved == [1, 2, 5], "the first one's cost says when the next is due"
    assert epochs_of(directory) == [1, 2, 3, 4, 5]
    other = tiny(tmp_path / "b", *FIVE).directory("supervised")
    assert go(other) == DONE and saved[3:] == [1, 5]
    assert_same_result(directory, other)
    times = [line["time"] for line in other.epochs()]
    assert len(set(times)) == 5, "each line has the time of its epoch's end"


@pytest.mark.usefixtures("rarely")
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_stopped_between_checkpoint_and_journals_lines(
    tmp_path: Path, saved: list[int], kept: int
) -> None:
    directory = tiny(tmp_path / "a", *FIVE).directory("supervised")
    directory.pause_after = 4
    assert go(directory) == STOPPED
    assert saved == [1, 4] and epochs_of(directory) == [1, 2, 3, 4]
    journal = directory / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: 1 + kept]))  # after `start`
    directory.pause_after = None
    assert go(directory) == DONE
    assert epochs_of(directory) == [1, 2, 3, 4, 5]
    other = tiny(tmp_path / "b", *FIVE).directory("supervised")
    assert go(other) == DONE
    assert_same_result(directory, other)


@pytest.mark.usefixtures("rarely")
def test_a_journal_without_older_lines_is_damaged(tmp_path: Path) -> None:
    directory = tiny(tmp_path, *FIVE).directory("supervised")
    directory.pause_after = 4
    assert go(directory) == STOPPED
    journal = directory / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    assert go(directory) == WRONG_INPUT


def test_a_checkpoint_is_due_when_its_share_is_over(
    tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 10.0)
    clock = iter(range(1000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 2)
    directory = tiny(tmp_path, "training.epochs=9").directory("supervised")
    assert go(directory) == DONE
    # Looked at once an epoch, and once more after writing, which takes 1: due every 2.
    assert saved == [1, 3, 5, 7, 9]


@pytest.mark.usefixtures("rarely")
def test_a_training_that_diverges_shows_how(tmp_path: Path) -> None:
    directory = tiny(tmp_path, *FIVE).directory("supervised")
    real = loop.train_epoch

    def diverging(*arguments: Any) -> dict[str, Any]:
        if arguments[5] == 3:
            raise loop.Diverged("loss/ce is nan in epoch 4; lower the learning rate")
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_epoch", diverging)
        assert go(directory) == FAILED
    assert epochs_of(directory) == [1, 2, 3]
    assert go(directory) == DONE  # from the checkpoint after epoch 1
    assert epochs_of(directory) == [1, 2, 3, 4, 5]


# Real processes

EPOCHS = 25
LONG = (f"training.epochs={EPOCHS}",)
# A cell's process whose journal has every epoch at once, however slow the disk is.
SAVING = (
    "import sys, harness.train.cell, harness.train.loop\n"
    "harness.train.loop.CHECKPOINT_SECONDS = 0.0\n"
    "sys.exit(harness.train.cell.main())"
)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> CellDir:
    directory = tiny(tmp_path_factory.mktemp("long"), *LONG).directory("supervised")
    assert go(directory) == DONE
    return directory


def signalled_after_two_epochs(directory: CellDir, number: signal.Signals) -> int:
    """Exit status of a cell's process that got a signal in the middle."""
    arguments = [sys.executable, "-c", SAVING, *command(directory)[3:]]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: len(directory.epochs()) >= 2 or process.poll() is not None)
        process.send_signal(number)
        process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert 2 <= len(directory.epochs()) < EPOCHS
    return process.returncode


def test_killed_and_continued(uninterrupted: CellDir, tmp_path: Path) -> None:
    directory = tiny(tmp_path, *LONG).directory("supervised")
    assert signalled_after_two_epochs(directory, signal.SIGKILL) == -signal.SIGKILL
    assert not directory.is_leased
    assert go(directory) == DONE
    assert epochs_of(directory) == list(range(1, EPOCHS + 1))
    assert_same_result(directory, uninterrupted)
    assert directory.manifest.attempts == 2
    assert not list(directory.path.glob("*checkpoint*"))


def test_sigterm_stops_cleanly_and_a_process_continues(
    uninterrupted: CellDir, tmp_path: Path
) -> None:
    directory = tiny(tmp_path, *LONG).directory("supervised")
    assert signalled_after_two_epochs(directory, signal.SIGTERM) == STOPPED
    assert directory.events()[-1]["event"] == "stopped"

    # Goes on in a process that shows what it imported: a bare node has none of these.
    code = (
        "import sys, harness.train.cell\n"
        "status = harness.train.cell.main()\n"
        "print([m for m in ('mlflow', 'optuna', 'typer', 'harness.analysis') if m in sys.modules])"
        "\nsys.exit(status)"
    )
    arguments = [sys.executable, "-c", code, *command(directory)[3:]]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (DONE, "[]")
    assert_same_result(directory, uninterrupted)


def test_command_without_a_cell(tmp_path: Path) -> None:
    process = start_process(CellDir(tmp_path))
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == WRONG_INPUT
    assert err == f"{tmp_path}: no cell.json here; `harness run` prepares it\n"


def test_done_cell_is_not_trained_again(trained: Grid) -> None:
    directory = trained.directory("supervised")
    before = (directory / "journal.jsonl").read_bytes()
    assert go(directory, lambda: pytest.fail("trains")) == DONE
    assert (directory / "journal.jsonl").read_bytes() == before


def test_leased_cell_is_left_alone(trained: Grid, tmp_path: Path, capsys: Output) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    with directory.lease():
        assert go(directory) == BUSY
    assert directory.events() == []
    assert '"pid":' in capsys.readouterr().err


def test_a_cell_that_went_on_with_other_threads_says_so(tmp_path: Path) -> None:
    """Its sums have other last digits from there, so its number stands in no table of one kind."""
    directory = tiny(tmp_path, "training.epochs=2").directory("supervised")
    assert go(directory, StopAfter(7)) == STOPPED
    first = directory.events()[0]
    assert first["threads"] == 1 and first["processor"]
    events = directory.events()
    (directory / "journal.jsonl").unlink()
    directory.extend([first | {"threads": 4}, *events[1:]])
    assert go(directory) == DONE
    assert directory.manifest.threads == [1, 4]
    assert directory.manifest.processor == first["processor"]
