"""Journals -> MLflow: complete, repeatable, rebuilt after any loss."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import (
    HANG,
    Interrupted,
    Output,
    call,
    cells,
    content_of,
    environment,
    mlflow_client,
    refusal,
    role,
    runs_in,
    snapshot,
)

from harness.cli import main
from harness.cli.files import read_file
from harness.run.grid import run_experiment
from harness.run.options import RunOptions
from harness.store import CellDir
from harness.track.sync import Tracker

FILE = "experiments/tiny.yaml"


@pytest.fixture
def elsewhere(finished_copy: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished store, this process in its folder, and MLFLOW_TRACKING_URI an empty other.db."""
    shutil.copy(empty_database, finished_copy / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished_copy / 'other.db'}")
    monkeypatch.chdir(finished_copy)
    return finished_copy


def sync(*more: str) -> None:
    assert main(["sync", FILE, *more]) == 0


def other(folder: Path) -> Any:
    """Return the client of other.db."""
    return mlflow_client(folder, "other.db")


def run_of(client: Any, kind: str) -> Any:
    return next(r for r in runs_in(client, "tiny") if role(r) == kind)


def n_rows(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        return int(connection.execute("select count(*) from metrics").fetchone()[0])


# -- rebuilding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "markers"), [("sync", "kept"), ("sync", "lost"), ("run", "kept")]
)
def test_a_deleted_database_is_rebuilt_without_training(
    command: str, markers: str, finished: Path, finished_copy: Path
) -> None:
    (finished_copy / "mlflow.db").unlink()
    shutil.rmtree(finished_copy / "mlartifacts")
    if markers == "lost":
        for cell in cells(finished_copy).values():
            (cell / "mlflow.json").unlink()
    done = call(finished_copy, command, FILE)
    assert done.returncode == 0, done.stderr
    rebuilt = content_of(mlflow_client(finished_copy), "tiny")
    assert rebuilt == content_of(mlflow_client(finished), "tiny")
    assert len(list((finished_copy / "mlartifacts").rglob("model.pt"))) == 4
    assert {c.manifest.attempts for c in cells(finished_copy).values()} == {1}


def test_another_uri_gets_everything_and_twice_adds_nothing(
    finished: Path, elsewhere: Path, capsys: Output
) -> None:
    database, before = elsewhere / "other.db", snapshot(elsewhere)["mlflow.db"]
    sync()
    assert capsys.readouterr().out.startswith("4 cells sent")
    client = other(elsewhere)
    assert content_of(client, "tiny") == content_of(mlflow_client(finished), "tiny")
    assert snapshot(elsewhere)["mlflow.db"] == before, "it wrote to the default database too"

    rows = n_rows(database)
    sync()
    assert capsys.readouterr().out.startswith("0 cells sent")
    assert n_rows(database) == rows

    for cell in cells(elsewhere).values():  # a marker lost in between: everything is sent again
        (cell / "mlflow.json").unlink()
    sync()
    assert capsys.readouterr().out.startswith("4 cells sent")
    assert n_rows(database) == rows
    assert len(runs_in(client, "tiny")) == 5


def test_a_broken_marker_is_no_marker(elsewhere: Path) -> None:
    sync()
    rows = n_rows(elsewhere / "other.db")
    contents = (b"", b'{"half', b"{}", b"[1]")
    for cell, content in zip(cells(elsewhere).values(), contents, strict=True):
        (cell / "mlflow.json").write_bytes(content)
    sync()
    assert n_rows(elsewhere / "other.db") == rows


def test_the_same_cells_trained_in_another_store_are_other_runs(elsewhere: Path) -> None:
    """`harness run --store NEW` makes such cells: no run holds the epochs of two trainings."""
    sync()
    shutil.copytree(elsewhere / "runs", elsewhere / "new")
    for journal in (elsewhere / "new").glob("*/journal.jsonl"):
        cell = CellDir(journal.parent)
        later = [event | {"time": event["time"] + 1000} for event in cell.events()]
        journal.unlink()
        cell.extend(later)
        (journal.parent / "mlflow.json").unlink()
    sync("--store", "new")
    client = other(elsewhere)
    runs = [r for r in runs_in(client, "tiny") if role(r) == "stage2"]
    assert len(runs) == 2
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "loss/total")) == 2


def test_a_training_begun_anew_is_another_run(elsewhere: Path) -> None:
    """Users delete a broken checkpoint, as the error message tells them to."""
    cell = cells(elsewhere)["kd"]
    events, manifest = cell.events(), (cell / "manifest.json").read_bytes()
    start, first, _second, _end = events
    (cell / "manifest.json").unlink()
    anew = [e | {"time": e["time"] + 1000} for e in events]

    def write(lines: list[dict[str, Any]]) -> None:
        (cell / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))

    write([start, first])
    sync()
    write([start, first, *anew])
    (cell / "manifest.json").write_bytes(manifest)
    sync()
    client = other(elsewhere)
    runs = [r for r in runs_in(client, "tiny") if role(r) == "kd"]
    steps = {
        r.info.status: [m.step for m in client.get_metric_history(r.info.run_id, "loss/total")]
        for r in runs
    }
    assert steps == {"KILLED": [1], "FINISHED": [1, 2]}


def test_a_finished_cell_that_is_trained_again_is_sent_again(elsewhere: Path) -> None:
    cell = cells(elsewhere)["kd"]
    whole = (cell / "model.pt").read_bytes()
    (cell / "model.pt").write_bytes(whole[:-1])
    assert main(["repair", cell.path.name, "--yes"]) == 0
    assert main(["run", FILE, "--no-bar", "--device", "cpu"]) == 0
    assert (cell / "model.pt").read_bytes() == whole
    status_of = {
        r.data.tags["started"]: r.info.status
        for r in runs_in(other(elsewhere), "tiny")
        if role(r) == "kd"
    }
    assert status_of.pop(str(cell.events()[cell.journal().first]["time"])) == "FINISHED"
    assert set(status_of.values()) <= {"KILLED"}


def test_a_training_that_begins_anew_ends_the_run_of_the_earlier_one(elsewhere: Path) -> None:
    """The lease is taken before the journal says that it does not go on."""
    cell = cells(elsewhere)["kd"]
    (cell / "manifest.json").unlink()
    start, epoch, *_ = cell.events()
    with cell.lease():
        sync()
        assert run_of(other(elsewhere), "kd").info.status == "RUNNING"
        cell.extend([{**event, "time": time.time()} for event in (start, epoch)])
        sync()
        runs = [r for r in runs_in(other(elsewhere), "tiny") if role(r) == "kd"]
        assert sorted(run.info.status for run in runs) == ["KILLED", "RUNNING"]


def test_a_kill_after_the_summary_leaves_no_grid_running(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command has nothing to do, and asks no server."""
    monkeypatch.setattr("harness.track.sync.Tracker.close", lambda *_, **__: None)
    assert main(["run", FILE, "--no-bar", "--device", "cpu"]) == 0
    assert run_of(other(elsewhere), "grid").info.status == "FINISHED"


def test_a_killed_call_without_a_summary_leaves_no_grid_running(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `ablate` and `train` have none. The kill comes when all cells were sent."""
    experiment, options = read_file(Path(FILE), None), RunOptions(device="cpu", no_bar=True)
    with monkeypatch.context() as killed:
        for name in ("end_grid", "close"):
            killed.setattr(Tracker, name, lambda *_, **__: None)
        assert run_experiment(experiment, options) == 0
    assert run_of(other(elsewhere), "grid").info.status == "RUNNING"
    assert run_experiment(experiment, options) == 0
    assert run_of(other(elsewhere), "grid").info.status == "FINISHED"


def test_a_journal_without_a_whole_line_is_not_sent(elsewhere: Path) -> None:
    cell = cells(elsewhere)["stage2"]
    (cell / "manifest.json").unlink()
    (cell / "journal.jsonl").write_text('{"event":"sta')  # power cut in the first line
    sync()
    runs = runs_in(other(elsewhere), "tiny")
    assert sorted(role(r) for r in runs) == ["grid", "kd", "stage1", "teacher"]
    assert next(r for r in runs if role(r) == "grid").info.status == "KILLED"


def test_a_failed_cell_is_failed_with_its_error(elsewhere: Path) -> None:
    cell = cells(elsewhere)["stage2"]
    (cell / "manifest.json").unlink()
    # Somebody has set the clock back.
    cell.extend([{"event": "failed", "time": 1.0, "error": "loss/total is nan in epoch 2"}])
    sync()
    runs = runs_in(other(elsewhere), "tiny")
    run = next(r for r in runs if role(r) == "stage2")
    assert run.info.status == "FAILED" and "nan in epoch 2" in run.data.tags["error"]
    assert run.info.end_time >= run.info.start_time


def test_the_grid_does_not_end_before_it_started(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has set the clock back meanwhile."""
    clock = SimpleNamespace(time=lambda: time.time() - 3600)
    monkeypatch.setattr("harness.track.client.time", clock)
    sync()
    (grid,) = (run for run in runs_in(other(elsewhere), "tiny") if role(run) == "grid")
    assert grid.info.end_time >= grid.info.start_time


# -- interrupted runs ------------------------------------------------------------------------------


def test_an_interrupted_run_is_killed_then_finished(interrupted: Interrupted) -> None:
    before = {
        v["tags"].get("stage", v["tags"]["kind"]): v for v in interrupted.mlflow_before.values()
    }
    assert before["student"]["status"] == "KILLED" and before["grid"]["status"] == "KILLED"
    sent = before["student"]["metrics"]["loss/total"]
    assert [step for step, _, _ in sent] == interrupted.before["supervised"]

    after = content_of(mlflow_client(interrupted.folder), "slow")
    kinds = {v["tags"].get("stage", v["tags"]["kind"]): v for v in after.values()}
    assert {v["status"] for v in after.values()} == {"FINISHED"} and len(after) == 5
    history = kinds["student"]["metrics"]["loss/total"]
    assert [step for step, _, _ in history] == list(range(1, 13))
    assert history[: len(sent)] == sent
    assert kinds["student"]["tags"]["attempts"] == "2"


def test_a_deleted_experiment_is_one_clear_line(elsewhere: Path, capsys: Output) -> None:
    sync()
    client = other(elsewhere)
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    capsys.readouterr()
    line = refusal(capsys, "sync", FILE)
    assert line.startswith("error: MLflow: ") and "'tiny'" in line


CONNECT = """
import sys
from pathlib import Path
from harness.run.grid import plan_of
from harness.experiment.file import read
from harness.store import Store
from harness.track.sync import Tracker
tracker = Tracker(plan_of(read(Path("experiments/tiny.yaml"))), Store(Path(sys.argv[1])))
import mlflow
print("ready", flush=True)
sys.stdin.readline()
tracker.connect()
tracker.sync()
"""


def test_two_processes_create_one_experiment(finished_copy: Path) -> None:
    """They create database, experiment, parent and runs at once, and even from two stores."""
    (finished_copy / "mlflow.db").unlink()
    shutil.copytree(finished_copy / "runs", finished_copy / "other")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options = {"cwd": finished_copy, "env": environment(), "text": True, **pipes}
    both = [
        subprocess.Popen([sys.executable, "-c", CONNECT, store], **options)
        for store in ("runs", "other")
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [p.communicate(timeout=HANG)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    client = mlflow_client(finished_copy)
    assert [e.name for e in client.search_experiments()].count("tiny") == 1
    kinds = sorted(role(r) for r in runs_in(client, "tiny"))
    assert kinds == ["grid", "kd", "stage1", "stage2", "teacher"]


# -- what MLflow has lost --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["one", "one and its marker", "all", "grid", "rows", "state"])
def test_what_is_lost_is_sent_again(loss: str, elsewhere: Path, finished: Path) -> None:
    sync()
    there = other(elsewhere)
    run_id = run_of(there, "kd").info.run_id
    if loss.startswith("one"):
        there.delete_run(run_id)
        if loss != "one":
            (cells(elsewhere)["kd"] / "mlflow.json").unlink()
    elif loss == "all":
        for run in runs_in(there, "tiny"):
            there.delete_run(run.info.run_id)
    elif loss == "grid":
        there.delete_run(run_of(there, "grid").info.run_id)
    elif loss == "state":
        there.set_terminated(run_id, "KILLED")
    else:
        last = "step = (select max(step) from metrics)"
        with sqlite3.connect(elsewhere / "other.db") as connection:
            connection.execute(f"delete from metrics where run_uuid = '{run_id}' and {last}")
            connection.execute(f"update latest_metrics set step = 1 where run_uuid = '{run_id}'")
    sync()
    assert content_of(there, "tiny") == content_of(mlflow_client(finished), "tiny")


def test_a_renamed_experiment_is_said(elsewhere: Path, capsys: Output) -> None:
    sync()
    there = other(elsewhere)
    there.rename_experiment(there.get_experiment_by_name("tiny").experiment_id, "paper")
    sync()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("note: MLflow: ") and "'tiny'" in line and "'paper'" in line
    assert len(runs_in(there, "paper")) == len(runs_in(there, "tiny")) == 5


def test_runs_of_an_earlier_version_get_their_places(elsewhere: Path) -> None:
    """It gave them none, and did not note the plan's cells at the grid's run."""
    sync()
    there = other(elsewhere)
    before = {
        run.info.run_id: run.data.tags["place"]
        for run in runs_in(there, "tiny")
        if role(run) != "grid"
    }
    for run in runs_in(there, "tiny"):
        for tag in {"place", "pages", "cells"} & run.data.tags.keys():
            there.delete_tag(run.info.run_id, tag)
    (elsewhere / "runs/mlflow.json").unlink(missing_ok=True)
    assert main(["run", FILE]) == 0
    after = {run.info.run_id: run.data.tags.get("place") for run in runs_in(there, "tiny")}
    assert before and before.items() <= after.items()
