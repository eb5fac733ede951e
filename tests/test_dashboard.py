"""Optuna's dashboard: which study it opens, and the notes that it shows."""

import os
import socket
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from helpers import TINY, Output, end_processes_in, refusal, start, wait_until
from optuna_dashboard import get_note, save_note

from harness.tune.dashboard import DESCRIPTION, describe, find_journals, place_to_open, show_notes
from harness.tune.storage import open_storage
from harness.tune.tuning_file import Tuning, read_tuning

TUNING: dict[str, Any] = {
    "name": "tiny",
    "description": "What it is for.",
    "experiment": "tiny.yaml",
    "methods": {"kd": {"kd.alpha": {"low": 0.1, "high": 1}, "training.lr": [0.1, 0.3]}},
    "trials": 4,
    "batch": 2,
    "startup_trials": 2,
    "top_k": 1,
    "fresh_seeds": [7, 8],
}


@pytest.fixture
def tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuning:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    for path, raw in (("tiny.yaml", TINY), ("tuning.yaml", TUNING)):
        Path(path).write_text(yaml.safe_dump(raw))
    return read_tuning(Path("tuning.yaml"))


def study_in(path: Path, tuning: Tuning) -> optuna.Study:
    study = optuna.create_study(
        study_name="tiny/kd", storage=open_storage(str(path), ""), load_if_exists=True
    )
    describe(study, tuning, "kd")
    return study


def test_a_study_describes_itself_once(tuning: Tuning, tmp_path: Path) -> None:
    path = tmp_path / "runs/tuning/tiny.journal"
    study = study_in(path, tuning)
    assert study.metric_names == ["validation/accuracy"]
    description = study.user_attrs[DESCRIPTION]
    facts = [
        "What it is for.",
        "`kd.alpha`, `training.lr`",
        "`kd`",
        "`tiny.yaml`",
        "4 trials",
        "7, 8",
    ]
    facts += ["`tiny.tuned.yaml`", "`study tiny/kd`", "`tiny-tuning`"]
    assert [fact for fact in facts if fact not in description] == []
    size = path.stat().st_size
    study_in(path, tuning)
    assert path.stat().st_size - size < 400, "opening it writes little, and no description"


def test_a_users_note_stays(tuning: Tuning, tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    study = study_in(path, tuning)
    assert not get_note(study)
    show_notes(str(path))
    assert get_note(study) == study.user_attrs[DESCRIPTION]
    save_note(study, "mine")
    show_notes(str(path))
    assert get_note(study) == "mine"


def test_opening_it_does_not_repair_a_journal_that_is_written(
    tuning: Tuning, tmp_path: Path
) -> None:
    path = tmp_path / "x.journal"
    study_in(path, tuning)
    show_notes(str(path))
    with open(path, "a") as file:
        file.write('{"op_code":')
    before = path.read_bytes()
    show_notes(str(path))
    assert path.read_bytes() == before


def test_the_newest_study_is_opened(
    tuning: Tuning, tmp_path: Path, capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = tmp_path / "runs"
    for n, name in enumerate(("old", "tasks/overlap-2", "empty")):
        path = root / "tuning" / f"{name}.journal"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty" else "{}\n")
        os.utime(path, (n, n))
    assert list(find_journals(root)) == ["tasks/overlap-2", "old"]
    assert place_to_open(root, None) == str(root / "tuning/tasks/overlap-2.journal")
    out = capsys.readouterr().out
    assert out.startswith("tasks/overlap-2") and "old" in out and "empty" not in out
    assert place_to_open(root, "old") == str(root / "tuning/old.journal")
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///x.db")
    assert place_to_open(root, None) == "sqlite:///x.db"
    assert place_to_open(root, "old") == str(root / "tuning/old.journal")
    error = refusal(capsys, "studies", "odl")
    assert error.startswith("error: NAME: ") and error.endswith("tasks/overlap-2, old")


def test_without_a_study_one_line_says_so(tuning: Tuning, capsys: Output) -> None:
    error = refusal(capsys, "studies")
    assert error.startswith("error: runs/tuning: ") and "`harness tune FILE`" in error


def test_the_dashboard_shows_it(tuning: Tuning, tmp_path: Path) -> None:
    study_in(tmp_path / "runs/tuning/tiny.journal", tuning)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(tmp_path, "studies", "--port", str(port))
    address = f"http://127.0.0.1:{port}/api/studies/0"

    def answer() -> str:
        try:
            return str(urllib.request.urlopen(address, timeout=5).read().decode())
        except OSError:
            return ""

    try:
        assert wait_until(answer), process.communicate()
        assert "What it is for." in answer() and "validation/accuracy" in answer()
    finally:
        end_processes_in(tmp_path)
        process.communicate()
