"""What the journal's side knows of MLflow, without asking it."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment

from harness.errors import UserError
from harness.measures import FORMS
from harness.plan import Cell
from harness.spec.file import parse
from harness.store import CellDir, Store
from harness.track import sent


@pytest.fixture
def trained(tmp_path: Path) -> CellDir:
    directory = Store(tmp_path).prepare(Cell("kd", {}))
    directory.append("start")
    directory.append("epoch", epoch=1)
    return directory


def started(directory: CellDir) -> str:
    return str(sent.current_training(directory)[0]["time"])


def test_the_run_on_this_server_comes_first(trained: CellDir) -> None:
    path, now = trained / sent.FILE, started(trained)
    assert sent.run_id(trained, "digits", "grid", "here") is None
    for key, run in (("there digits grid", "b"), ("here digits grid", "c"), ("a digits old", "d")):
        sent.mark(path, key, run_id=run, started=now, parent="p")
    assert sent.run_id(trained, "digits", "grid", "here") == "c"
    # Pointed at a server that knows nothing of it, a bundle keeps its ids: same grid before others.
    assert sent.run_id(trained, "digits", "grid", "elsewhere") in ("b", "c")
    assert sent.run_id(trained, "digits", "new", "elsewhere") in ("b", "c", "d")
    assert sent.run_id(trained, "other", "grid", "here") is None


def test_a_run_of_an_earlier_training_does_not_count(trained: CellDir) -> None:
    sent.mark(trained / sent.FILE, "here digits grid", run_id="a", started=started(trained))
    assert sent.run_id(trained, "digits", "grid", "here") == "a"
    trained.append("start")
    trained.append("epoch", epoch=1)  # anew, as its checkpoint was lost
    assert sent.run_id(trained, "digits", "grid", "here") is None


@pytest.mark.parametrize("content", ["", "{", "[1]", "7"])
def test_a_broken_file_is_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "mlflow.json").write_text(content)
    assert sent.read(tmp_path / "mlflow.json") == {}


def test_reading_an_experiment_asks_no_server() -> None:
    raw = {"name": "x", "dataset": "digits", "teacher": "models:/x@teacher"}
    raw |= {"students": [{"network": "wide_resnet", "depth": 10, "width": 1}]}
    with pytest.raises(UserError, match="models:/x@teacher"):
        parse(raw)


def test_tables_need_no_mlflow() -> None:
    program = (
        "import sys, harness.cli; harness.cli.main(['tables', '--check']); "
        "print([m for m in ('mlflow', 'torch', 'optuna') if m in sys.modules])"
    )
    env = environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_forms_are_the_three() -> None:
    assert FORMS == ("last", "selected", "best_on_test")
