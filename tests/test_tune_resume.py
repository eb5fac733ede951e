"""Tuning with real processes: killed and started again, and what the cells can see."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import TINY, call, environment, mlflow_client, one_error_line, start, wait_until
from PIL import Image

from harness.data import load, using_data_root
from harness.experiment.file import read
from harness.plan import make_plan
from harness.store import Store
from harness.store.manifest import CellOptions
from harness.tune.trials import cells_of
from harness.tune.tuning_file import read_tuning

TUNING: dict[str, Any] = {
    "name": "tiny",
    "experiment": "../tiny.yaml",
    "set": {"training": {"epochs": 3}, "stage2": {"epochs": 3}, "stage1": {"epochs": 1}},
    "methods": {
        "plain": {"training.lr": {"low": 0.01, "high": 0.5, "log": True}},
        "refilled": {
            "stage1.tau1": [1, 4],
            "stage2.lambd": {"low": 0.1, "high": 100, "log": True},
        },
    },
    "trials": 4,
    "batch": 2,
    "startup_trials": 2,
    "pruning": {"rungs": [0.3], "keep": 0.5},
    "top_k": 1,
    "fresh_seeds": [7],
}
COMMAND = ("tune", "experiments/tuning/tiny.yaml", "--no-bar", "--device", "cpu")


def prepare(folder: Path, database: Path) -> Path:
    (folder / "experiments/tuning").mkdir(parents=True)
    (folder / "experiments/tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "experiments/tuning/tiny.yaml").write_text(yaml.safe_dump(TUNING))
    (folder / "mlflow.db").write_bytes(database.read_bytes())
    return folder


def bundle(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "runs/tuning/tiny.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def winners(folder: Path) -> dict[str, Any]:
    """Read the tuned file without the commits, as somebody may be working here."""
    raw = yaml.safe_load((folder / "experiments/tiny.tuned.yaml").read_text())
    for method in raw["tuned"].values():
        del method["commits"]
    return raw


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Return a folder where the tuning has run to its end."""
    folder = prepare(tmp_path_factory.mktemp("tuned"), empty_database)
    done = call(folder, *COMMAND)
    assert done.returncode == 0, done.stderr
    assert "pruned at 1" in done.stdout
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Return one where it was killed while it trained, its journal torn, and started again."""
    folder = prepare(tmp_path_factory.mktemp("killed"), empty_database)
    process = start(folder, *COMMAND)
    store = Store(folder / "runs")
    assert wait_until(lambda: "stage2" in [d.cell.kind for d in store.all() if d.epochs()]), (
        process.communicate()
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    journal = folder / "runs/tuning/tiny.journal"
    with open(journal, "a") as file:
        file.write('{"op_code":')
    again = call(folder, *COMMAND)
    assert again.returncode == 0, again.stderr
    (line,) = again.stderr.strip().splitlines()
    assert "tiny.journal" in line
    return folder


def test_same_trials_after_sigkill(tuned: Path, killed: Path) -> None:
    assert bundle(killed) == bundle(tuned)
    states = {line["state"] for line in bundle(killed) if "trial" in line}
    assert states == {"COMPLETE", "PRUNED"}
    assert winners(killed) == winners(tuned)


def test_again_is_nothing_to_do(tuned: Path) -> None:
    before = {p: p.read_bytes() for p in (tuned / "runs").rglob("journal.jsonl")}
    again = call(tuned, *COMMAND)
    assert again.returncode == 0, again.stderr
    assert {p: p.read_bytes() for p in (tuned / "runs").rglob("journal.jsonl")} == before


def test_no_test_number_anywhere(tuned: Path) -> None:
    for directory in Store(tuned / "runs").all():
        assert directory.cell.config.data.without_test is True
        assert not any("test/" in key for line in directory.epochs() for key in line)
        if directory.is_done:
            assert directory.manifest.results == {}
            assert "test" not in directory.manifest.data
        assert not list(directory.path.glob("checkpoint*"))


def test_mlflow_has_studies_and_trials(tuned: Path, killed: Path) -> None:
    for folder in (tuned, killed):
        client = mlflow_client(folder)
        runs = client.search_runs([client.get_experiment_by_name("tiny-tuning").experiment_id])
        parents = {r.data.tags["study"]: r for r in runs if r.data.tags["kind"] == "study"}
        assert set(parents) == {"tiny/plain", "tiny/refilled"}
        trials = [r for r in runs if r.data.tags["kind"] == "trial"]
        by_key = {(r.data.tags["method"], r.data.tags["trial"]): r for r in trials}
        assert len(trials) == len(by_key) == 8
        assert {r.info.status for r in runs} == {"FINISHED"}
        assert not any("test" in key for r in runs for key in r.data.metrics)
        for line in (line for line in bundle(folder) if "trial" in line):
            run = by_key[line["method"], str(line["trial"])]
            parent = parents[f"tiny/{line['method']}"]
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["state"] == line["state"]
            assert dict(run.data.params) == {k: str(v) for k, v in line["params"].items()}
            for stage, fingerprint in line["cells"].items():
                assert run.data.tags[f"cell.{stage}"] == fingerprint
            history = client.get_metric_history(run.info.run_id, "validation/accuracy")
            assert {str(m.step): m.value for m in history} == line["curve"]
        figures = client.list_artifacts(parents["tiny/refilled"].info.run_id, "figures")
        assert {f.path.rpartition("-")[2] for f in figures} >= {"history.png", "slice.png"}


def test_the_final_experiment_reads_the_test_set_once(tuned: Path) -> None:
    experiment = read(tuned / "experiments/tiny.tuned.yaml")
    final = make_plan(experiment, load(experiment.dataset))
    tuning_cells = {d.path.name for d in Store(tuned / "runs").all()}
    assert not {f[:16] for f in final.cells} & tuning_cells
    assert experiment.protocol.reported == "last"
    assert experiment.training.epochs == TINY["training"]["epochs"]  # not those of `set:`


def test_another_space_is_refused(tuned: Path) -> None:
    again = call(tuned, *COMMAND, "--set", "methods.refilled.stage1.tau1=[1, 8]")
    assert again.returncode == 2
    error = one_error_line(again.stderr)
    assert "space.stage1.tau1.choices: [1, 4] -> [1, 8]" in error


def test_test_files_are_never_opened(tmp_path: Path) -> None:
    """Run a tuning cell on folders: its process opens no file below test/, which has no images."""
    random = np.random.RandomState(0)
    for name in ("a", "b"):
        train, test = (tmp_path / "data" / part / name for part in ("train", "test"))
        train.mkdir(parents=True)
        test.mkdir(parents=True)
        for i in range(30):
            Image.fromarray(random.randint(0, 255, (8, 8, 3), np.uint8)).save(train / f"{i}.png")
        (test / "0.png").write_bytes(b"no image")
    data = {"name": "folder", "path": str(tmp_path / "data"), "image_size": 8, "validation": 20}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"dataset": data}))
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(TUNING | {"experiment": "tiny.yaml"}))
    tuning = read_tuning(tmp_path / "tuning.yaml")
    with using_data_root(tmp_path):
        dataset = load(tuning.base.dataset, with_test=False)
        options = CellOptions.on_this_machine(tuning.base)
    assert (len(dataset.train), len(dataset.validation), dataset.test) == (40, 20, None)
    trial = cells_of(tuning, dataset, "plain", 0, {"training.lr": 0.1})
    store = Store(tmp_path / "runs")
    store.create()
    directory = store.prepare(trial.plan.cells[trial.final], options)
    program = f"""
import sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
sys.argv = ["cell", {str(directory.path)!r}, "--device", "cpu"]
from harness.train.cell import main
status = main()
assert status == 0, status
assert any("journal.jsonl" in path for path in opened)
bad = [path for path in opened if path.startswith({str(tmp_path / "data" / "test")!r} + "/")]
assert not bad, bad
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),  # the cell's directory says where the data are
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert directory.manifest.results == {}
