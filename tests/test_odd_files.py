"""A pipe, a folder, a link to nothing or an empty file in the place of each file of a store."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import HANG
from helpers import Output, cells
from PIL import Image

from harness.cli import main
from harness.common.locks import is_locked, locked, try_lock
from harness.common.reading import NotAFile, open_file
from harness.store import CellDir, Store

FILE = "experiments/tiny.yaml"
KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "empty": Path.touch,
}
READERS = {
    "status": (FILE,),
    "run": (FILE, "--no-bar", "--device", "cpu"),
    "tables": (FILE, "--print"),
    "verdicts": (FILE,),
    "predict": (FILE, "picture.png", "--method", "kd"),
    "sync": (FILE,),
    "explain": ("CELL", FILE),
    "repair": ("CELL",),
    "gc": (),
}
HELD = ("cell.json", "journal.jsonl", "manifest.json", "model.pt", "predictions.npz")
OTHERS = ("options.json", "lease", "log.txt", "mlflow.json", "pause", "checkpoint.pt")


@pytest.fixture
def limited() -> Iterator[None]:
    """End a test that waits for a pipe."""

    def hangs(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def called(capsys: Output, name: str, cell: CellDir) -> tuple[int, str]:
    """Call a reader within the time limit; its errors are single lines."""
    words = [cell.path.name if word == "CELL" else word for word in READERS[name]]
    signal.alarm(int(HANG))
    status = main([name, *words])
    signal.alarm(0)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and "this is a bug" not in err, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 or (not errors and status != 2), err
    return status, out + err


def mended(capsys: Output, cell: CellDir) -> bool:
    """Return whether `harness repair` says that it has mended a cell."""
    assert main(["repair", cell.path.name, "--yes"]) == 0
    return ": mended\n" in capsys.readouterr().out


def some_readers(kind: str, number: int) -> list[str]:
    """Return all readers for a pipe, on which each could wait; else three, and a third of the rest.

    Every reader still meets every kind, in the place of some of the files.
    """
    if kind == "pipe":
        return [*READERS]
    always = ("status", "repair", "tables")
    others = [reader for reader in READERS if reader not in always]
    return [*always, *others[(number + [*KINDS].index(kind)) % 3 :: 3]]


@pytest.mark.parametrize("kind", KINDS)
def test_no_reader_waits_and_each_names_the_file(
    project_copy: Path, kind: str, capsys: Output, limited: None
) -> None:
    cell, whole = cells(project_copy)["kd"], project_copy / "whole"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("picture.png")
    shutil.copytree(cell.path, whole)
    for number, name in enumerate((*HELD, *OTHERS)):
        (cell / name).unlink(missing_ok=True)
        KINDS[kind](cell / name)
        refused = set()
        for reader in some_readers(kind, number):
            status, text = called(capsys, reader, cell)
            if status == 2:
                refused.add(reader)
                assert name in text and cell.path.name in text, text
        if name in HELD:
            assert refused, name
            assert mended(capsys, cell), name
            aside = [path.name for path in cell.path.glob("damaged-*/*")]
            assert name in aside, "it is moved, not deleted"
        shutil.rmtree(cell.path)
        shutil.copytree(whole, cell.path)


@pytest.mark.parametrize("kind", KINDS)
def test_bundles_and_the_journal_of_a_study(
    project_copy: Path, kind: str, capsys: Output, limited: None
) -> None:
    (project_copy / "README.md").touch()
    bundle = project_copy / "experiments/results/tiny.jsonl"
    study = project_copy / "runs/tuning/tiny.journal"
    tuning = project_copy / "tuning.yaml"
    tuning.write_text(
        "{name: tiny, experiment: experiments/tiny.yaml, trials: 2, batch: 1, startup_trials: 1,"
        " top_k: 1, methods: {kd: {kd.alpha: {low: 0.1, high: 1}}}}"
    )
    for path, command in ((bundle, ["tables"]), (study, ["tune", str(tuning), "--max-time", "1s"])):
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[kind](path)
        signal.alarm(int(HANG))
        status = main(command)
        signal.alarm(0)
        text = capsys.readouterr().err
        if path == bundle or kind != "empty":
            assert status == 2 and path.name in text and len(text.splitlines()) == 1, text


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing", "socket", "link", "loop"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str, limited: None) -> None:
    path, target = tmp_path / "x", tmp_path / "target"
    target.write_text("mine")
    with socket.socket(socket.AF_UNIX) as server:
        make = KINDS | {
            "socket": lambda p: server.bind(str(p)),
            "link": lambda p: p.symlink_to("target"),
            "loop": lambda p: p.symlink_to("x"),
        }
        make[kind](path)
        signal.alarm(int(HANG))
        for lock in (locked(path), try_lock(path, "holder")):
            with pytest.raises(NotAFile), lock:
                pass
        if kind != "link":
            with pytest.raises(NotAFile) as caught:
                open_file(path)
            assert str(path) in str(caught.value)
            with pytest.raises(NotAFile):
                is_locked(path)
    assert target.read_text() == "mine" and not Path("/nowhere").exists()


@pytest.mark.parametrize("name", ["lease", "log.txt"])
def test_a_cell_whose_log_is_a_pipe_fails_before_it_is_trained(
    project_copy: Path, name: str, capsys: Output, limited: None
) -> None:
    cell = cells(project_copy)["kd"]
    (cell / "manifest.json").unlink()
    (cell / name).unlink(missing_ok=True)
    os.mkfifo(cell / name)
    status, text = called(capsys, "run", cell)
    assert status == 1 and f"{cell.path.name}/{name}: a pipe, not a file; move it away" in text
    assert Store(project_copy / "runs").directory(cell.path.name).events()
