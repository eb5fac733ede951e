"""Commands that have nothing to do answer at once: what they import and start, without a clock."""

from pathlib import Path

import pytest
from bundles import mark_as_sent, without_training
from helpers import ROOT, run_python, snapshot, write_experiment

from harness.experiment.file import read
from harness.run.grid import plan_of

# Each takes a tenth of a second to some seconds to import, and so does a process.
HEAVY = (
    *("torch", "torchvision", "sklearn", "scipy.stats", "pandas", "matplotlib", "PIL", "pyarrow"),
    *("mlflow", "sqlalchemy", "alembic", "optuna", "ray", "harness.analysis"),
)
PROGRAM = f"""
import subprocess, sys
import harness.cli
def refuse(*arguments, **keywords):
    raise AssertionError("started a process")
subprocess.Popen = refuse
status = harness.cli.main(sys.argv[1:])
print([m for m in {HEAVY} if m in sys.modules])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `tiny.yaml` is trained, and all of it sent to mlflow.db."""
    folder = tmp_path_factory.mktemp("finished")
    plan = plan_of(read(write_experiment(folder / "tiny.yaml")))
    without_training(plan, folder / "runs")
    (folder / "mlflow.db").touch()
    mark_as_sent(plan, folder / "runs")
    return folder


def imported_by(folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """Return what a command prints, and which of HEAVY it has imported."""
    done = run_python(PROGRAM, *arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    *said, found = done.stdout.splitlines()
    return "\n".join(said), eval(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "tiny.yaml"), "2/2"),
        (("plan", "tiny.yaml", "--no-estimate"), "tiny: 4 cells, 4 done, 0 to train"),
        (("plan", "tiny.yaml"), "tiny: 4 cells, 4 done, 0 to train"),
        (("run", "tiny.yaml"), "tiny: nothing to do, all 4 cells are done"),
    ],
    ids=["status", "plan-no-estimate", "plan", "run"],
)
def test_nothing_to_do_imports_nothing_heavy(
    finished_copy: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = snapshot(finished_copy)
    text, found = imported_by(finished_copy, *arguments)
    assert said in text
    assert found == []
    after = snapshot(finished_copy)
    after.pop("runs/checked.json", None)  # which files `status` need not read again
    assert after == before


def test_tables_import_what_they_need_alone() -> None:
    text, found = imported_by(ROOT, "tables", "--check")
    assert text.endswith("tables match the results")
    # The modules that draw figures also write the captions on the pages.
    assert found == ["matplotlib", "PIL", "harness.analysis"]
