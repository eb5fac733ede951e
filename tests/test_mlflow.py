"""Journals -> MLflow: complete, repeatable, rebuilt after any loss; and `harness ui`."""

import getpass
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from bundles import TASKS, planned, without_training
from helpers import (
    HANG,
    Interrupted,
    call,
    cells,
    content_of,
    environment,
    mlflow_client,
    one_error_line,
    processes_in,
    role,
    runs_in,
    snapshot,
    start,
    wait_until,
    write_experiment,
)

import harness.run.session
import harness.track.system_metrics as system_metrics_module
from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.mlflow_summary import conditions
from harness.analysis.tables.rows import columns_of, rows_of, select
from harness.cli import main
from harness.common.canonical_json import canonical
from harness.store import Store
from harness.track.client import mlflow_name
from harness.track.saved_views import TAG, runs_page
from harness.track.sync import Tracker

FILE = "experiments/tiny.yaml"
EVERY_EPOCH = {"loss/total", "lr", "images_per_second", "seconds"}
LOSSES = {
    "teacher": {"loss/ce"},
    "kd": {"loss/ce", "loss/kd"},
    "stage1": {"loss/relation"},
    "stage2": {"loss/ce", "loss/teaching"},
}
RESULTS = {
    "teacher": {"teacher/test_accuracy": "accuracy", "student/test_accuracy": "accuracy"},
    "kd": {"kd/test_accuracy": "accuracy"},
    "stage1": {
        "stage1/ncm_train_centers": "ncm_train_centers",
        "stage1/ncm_eval_centers": "ncm_eval_centers",
    },
    "stage2": {"stage2/test_accuracy": "accuracy"},
}


@pytest.fixture(scope="session")
def logged(finished: Path) -> dict[str, Any]:
    """Kind -> run of the finished experiment; 'grid' is their parent."""
    return {role(r): r for r in runs_in(mlflow_client(finished), "tiny")}


@pytest.fixture
def elsewhere(finished_copy: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished store, this process in its folder, and MLFLOW_TRACKING_URI a new database."""
    other = finished_copy / "elsewhere"
    other.mkdir()
    shutil.copy(empty_database, other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other / 'mlflow.db'}")
    monkeypatch.chdir(finished_copy)
    return finished_copy


def n_rows(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        return int(connection.execute("select count(*) from metrics").fetchone()[0])


# -- a finished run --------------------------------------------------------------------------------


def test_one_parent_and_one_child_a_cell(finished: Path, logged: dict[str, Any]) -> None:
    runs = runs_in(mlflow_client(finished), "tiny")
    assert sorted(role(r) for r in runs) == [
        "grid",
        "kd",
        "stage1",
        "stage2",
        "teacher",
    ]
    assert {r.info.status for r in runs} == {"FINISHED"}
    parent = logged["grid"].info.run_id
    children = [r for r in runs if r.info.run_id != parent]
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent}
    for run in children:
        assert run.info.end_time >= run.info.start_time


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_tags_say_what_a_run_is(finished: Path, logged: dict[str, Any], kind: str) -> None:
    cell = cells(finished)["supervised" if kind == "teacher" else kind]
    tags = logged[kind].data.tags
    expected = {
        "kind": "cell",
        "stage": {"teacher": "student"}.get(kind, kind),  # its cell is the plain student's, too
        "result": "ncm_train_centers" if kind == "stage1" else "accuracy",
        "teacher": "wrn-10-1",
        "student": "wrn-10-1",
        "method": {"teacher": "plain", "kd": "kd"}.get(kind, "refilled"),
        "protocol": "strict",
        "seed": "0",
        "attempts": "1",
        "commit": cell.manifest["commits"][0],
        "dirty": str(cell.manifest["dirty"]),
        "selected_epoch": str(cell.manifest["selected_epoch"]),
        "mlflow.source.name": "harness",
        "mlflow.source.git.commit": cell.manifest["commits"][0],
        "mlflow.user": getpass.getuser(),
    }
    assert {k: tags.get(k) for k in expected} == expected
    assert tags["fingerprint"].startswith(cell.path.name) and len(tags["fingerprint"]) == 64
    assert tags["roles"] == ("student, teacher" if kind == "teacher" else kind)
    at = datetime.fromisoformat(tags["started_at"])
    assert abs(at.timestamp() - float(tags["started"])) <= 1 and at.tzinfo is UTC


def test_params_are_the_cells_settings(logged: dict[str, Any]) -> None:
    params = logged["stage2"].data.params
    assert params["stage2.lambd"] == "100.0" and params["network.depth"] == "10"
    assert params["optimizer.batch_size"] == "64" and params["seed"] == "0"
    assert "stage1.tau1" not in params
    assert logged["grid"].data.params["stage1.tau1"] == "4.0"


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_one_row_an_epoch(finished: Path, logged: dict[str, Any], kind: str) -> None:
    client, run = mlflow_client(finished), logged[kind]
    cell = cells(finished)["supervised" if kind == "teacher" else kind]
    expected = EVERY_EPOCH | LOSSES[kind]
    if kind != "stage1":
        expected |= {f"{part}/accuracy" for part in ("train", "validation", "test")}
    assert expected <= run.data.metrics.keys()
    for name in expected:
        history = client.get_metric_history(run.info.run_id, name)
        lines = [(e["epoch"], e[name], int(e["time"] * 1000)) for e in cell.epochs()]
        assert [(m.step, m.value, m.timestamp) for m in history] == lines, name
        assert len(lines) == 2


@pytest.mark.parametrize("kind", sorted(RESULTS))
def test_results_in_all_three_forms(finished: Path, logged: dict[str, Any], kind: str) -> None:
    cell = cells(finished)["supervised" if kind == "teacher" else kind]
    metrics = logged[kind].data.metrics
    for name, result in RESULTS[kind].items():
        values = cell.manifest["results"][result]
        for form in ("last", "selected", "best_on_test"):
            assert metrics[f"{name}_{form}"] == pytest.approx(values[form], abs=0)
        assert metrics[name] == values["selected"], "strict reports the epoch chosen on validation"
    assert "no result" in logged[kind].data.tags["best_on_test"]


def test_artifacts_and_data_set(finished: Path, logged: dict[str, Any]) -> None:
    client, cell = mlflow_client(finished), cells(finished)["stage2"]
    run = logged["stage2"]
    names = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"cell.json", "model"} <= names
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (folder / "model/model.pt").read_bytes() == (cell / "model.pt").read_bytes()
    assert folder.is_relative_to(finished), "weights must not land outside the project"
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "digits"
    digest = cell.cell.config.data.digest
    assert digest.startswith(given.dataset.digest) and len(given.dataset.digest) >= 32
    assert run.data.params["data.digest"] == digest
    from mlflow.data.schema import TensorDatasetSchema

    schema = TensorDatasetSchema.from_dict(json.loads(given.dataset.schema))
    ((images,), (labels,)) = schema.features.inputs, schema.targets.inputs
    assert (images.name, images.shape, images.type) == ("images", (-1, 8, 8, 3), np.dtype("uint8"))
    assert (labels.name, labels.shape, labels.type) == ("labels", (-1,), np.dtype("int64"))
    sizes = {"train": 297, "validation": 100, "test": 1400, "classes": 10}
    assert json.loads(given.dataset.profile) == sizes
    (of_grid,) = logged["grid"].inputs.dataset_inputs
    assert of_grid.dataset.digest == given.dataset.digest
    assert "experiment.resolved.json" in {
        a.path for a in client.list_artifacts(logged["grid"].info.run_id)
    }


# -- tasks -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> tuple[Tracker, Bundle, dict[str, Any]]:
    """A grid with tasks in a database of its own; its runs by fingerprint. The second student has
    the teacher's network, so that a cell is three stages'."""
    folder = tmp_path_factory.mktemp("cross")
    shutil.copy(empty_database, folder)
    tuned = {"plain@both": {"settings": {"training": {"lr": 0.05}}}}
    plan = planned(students=[TASKS["students"][0], TASKS["teacher"]], seeds=[0], tuned=tuned)
    bundle = read_bundle(folder / "x.jsonl", without_training(plan, folder / "runs"))
    tracker = Tracker(plan, Store(folder / "runs"), f"sqlite:///{folder / 'mlflow.db'}")
    tracker.sync()
    runs = runs_in(tracker.connect(), plan.experiment.name)
    return tracker, bundle, {run.data.tags.get("fingerprint", "grid"): run for run in runs}


def test_cells_have_their_task_as_tags(cross: tuple[Tracker, Bundle, dict[str, Any]]) -> None:
    tracker, _, runs = cross
    plan = tracker.plan
    several = 0
    for fingerprint in plan.cells:
        tags, entries = runs[fingerprint].data.tags, plan.entries_of(fingerprint)
        expected = next((e.dimensions for e in entries if e.dimensions), {})
        several += bool(expected) and any(not e.dimensions for e in entries)
        found = {name: tags[name] for name in ("overlap", "shots") if name in tags}
        assert found == {name: str(value) for name, value in expected.items()}
        own = next((e for e in entries if e.method != "teacher"), entries[0])
        of_teacher = own.method in ("teacher", "teacher_ncm")
        assert tags["student"] == ("wrn-16-2" if of_teacher else own.student)
    assert several, "the teacher's cell is a student's, too"
    assert not {"overlap", "shots"} & runs["grid"].data.tags.keys()


def test_names_that_mlflow_refuses_are_written_otherwise(
    cross: tuple[Tracker, Bundle, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, _, runs = cross
    params = runs["grid"].data.params
    assert params["tuned.plain-both.settings.training.lr"] == "0.05"
    asked: list[str] = []
    client = tracker.connect()
    monkeypatch.setattr("mlflow.MlflowClient.log_dict", lambda *a: asked.append(a[-1]))
    tracker._find_parent(client)
    assert not asked, "it has all of them: nothing is sent again"
    assert mlflow_name("tuned.kd+vid.x") == "tuned.kd-vid.x"


def test_views_of_one_data_set_differ(cross: tuple[Tracker, Bundle, dict[str, Any]]) -> None:
    tracker, _, runs = cross

    def digest(key: str) -> str:
        (given,) = runs[key].inputs.dataset_inputs
        return str(given.dataset.digest)

    seen = {canonical(c.config.data.as_json()): digest(f) for f, c in tracker.plan.cells.items()}
    assert len(set(seen.values())) == len(seen) == 4, "the teacher has one of the four"
    for text, found in seen.items():
        assert found == hashlib.sha256(text.encode()).hexdigest()[:32]
    first = next(iter(tracker.plan.cells.values()))
    assert first.config.data.digest.startswith(digest("grid")), "the grid has all of it"


def test_links_of_the_grids_page_lead_to_a_numbers_runs(
    cross: tuple[Tracker, Bundle, dict[str, Any]],
) -> None:
    tracker, bundle, _ = cross
    client, experiment = tracker.connect(), tracker.server.experiment_id
    n = 0
    for row in rows_of(bundle):
        for column in columns_of(bundle):
            address = urlsplit(runs_page(experiment, conditions(row, column))).fragment
            (text,) = parse_qs(urlsplit(address).query)["searchFilter"]
            found = {r.data.tags["fingerprint"] for r in client.search_runs([experiment], text)}
            numbers = select(bundle, row, column)
            fingerprints = {number.cell.fingerprint for number in numbers}
            assert found == fingerprints, (row.label, column.label, text)
            n += len(numbers)
    assert n > 50


def test_the_views_of_a_grid_with_tasks_have_their_columns(
    cross: tuple[Tracker, Bundle, dict[str, Any]],
) -> None:
    tracker, _, _ = cross
    tags = tracker.connect().get_experiment(tracker.server.experiment_id).tags
    assert any("tags.`overlap`" in v for k, v in tags.items() if k.startswith(TAG))


# -- rebuilding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("markers", ["kept", "lost"])
def test_a_deleted_database_is_rebuilt(finished: Path, finished_copy: Path, markers: str) -> None:
    (finished_copy / "mlflow.db").unlink()
    shutil.rmtree(finished_copy / "mlartifacts")
    if markers == "lost":
        for cell in cells(finished_copy).values():
            (cell / "mlflow.json").unlink()
    done = call(finished_copy, "sync", FILE)
    assert done.returncode == 0 and done.stdout.startswith("4 cells sent"), done.stderr
    rebuilt = content_of(mlflow_client(finished_copy), "tiny")
    assert rebuilt == content_of(mlflow_client(finished), "tiny")
    assert len(list((finished_copy / "mlartifacts").rglob("model.pt"))) == 4


def test_run_rebuilds_a_deleted_database_without_training(finished_copy: Path) -> None:
    (finished_copy / "mlflow.db").unlink()
    done = call(finished_copy, "run", FILE, "--no-bar", "--device", "cpu")
    assert done.returncode == 0 and "0 to train" in done.stdout, done.stderr
    assert len(runs_in(mlflow_client(finished_copy), "tiny")) == 5
    assert {c.manifest["attempts"] for c in cells(finished_copy).values()} == {1}


def test_another_uri_gets_everything_and_twice_adds_nothing(
    finished: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database, before = elsewhere / "elsewhere" / "mlflow.db", snapshot(elsewhere)["mlflow.db"]
    assert main(["sync", FILE]) == 0
    assert capsys.readouterr().out.startswith("4 cells sent")
    client = mlflow_client(elsewhere / "elsewhere")
    assert content_of(client, "tiny") == content_of(mlflow_client(finished), "tiny")
    assert snapshot(elsewhere)["mlflow.db"] == before, "it wrote to the default database too"

    rows = n_rows(database)
    assert main(["sync", FILE]) == 0
    assert capsys.readouterr().out.startswith("0 cells sent")
    assert n_rows(database) == rows

    for cell in cells(elsewhere).values():  # a marker lost in between: everything is sent again
        (cell / "mlflow.json").unlink()
    assert main(["sync", FILE]) == 0
    assert capsys.readouterr().out.startswith("4 cells sent")
    assert n_rows(database) == rows
    assert len(runs_in(client, "tiny")) == 5


@pytest.mark.parametrize("content", [b"", b'{"half', b"{}"])
def test_a_broken_marker_is_no_marker(elsewhere: Path, content: bytes) -> None:
    assert main(["sync", FILE]) == 0
    rows = n_rows(elsewhere / "elsewhere" / "mlflow.db")
    for cell in cells(elsewhere).values():
        (cell / "mlflow.json").write_bytes(content)
    assert main(["sync", FILE]) == 0
    assert n_rows(elsewhere / "elsewhere" / "mlflow.db") == rows


def test_a_deleted_run_is_made_again(elsewhere: Path) -> None:
    assert main(["sync", FILE]) == 0
    client = mlflow_client(elsewhere / "elsewhere")
    whole = content_of(client, "tiny")
    victim = next(r for r in runs_in(client, "tiny") if role(r) == "kd")
    client.delete_run(victim.info.run_id)
    (cells(elsewhere)["kd"] / "mlflow.json").unlink()
    assert main(["sync", FILE]) == 0
    assert content_of(client, "tiny") == whole


def test_the_same_cells_trained_in_another_store_are_other_runs(elsewhere: Path) -> None:
    """As `harness run --store NEW` makes them: no run holds the epochs of two trainings."""
    assert main(["sync", FILE]) == 0
    shutil.copytree(elsewhere / "runs", elsewhere / "new")
    for journal in (elsewhere / "new").glob("*/journal.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        later = [line | {"time": line["time"] + 1000} for line in lines]
        journal.write_text("".join(json.dumps(line) + "\n" for line in later))
        (journal.parent / "mlflow.json").unlink()
    assert main(["sync", FILE, "--store", "new"]) == 0
    client = mlflow_client(elsewhere / "elsewhere")
    runs = [r for r in runs_in(client, "tiny") if role(r) == "stage2"]
    assert len(runs) == 2
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "loss/total")) == 2


def test_a_training_begun_anew_is_another_run(elsewhere: Path) -> None:
    """After the user deleted a broken checkpoint, as the error message says."""
    cell = cells(elsewhere)["kd"]
    events, manifest = cell.events(), (cell / "manifest.json").read_bytes()
    start, first, _second, _end = events
    (cell / "manifest.json").unlink()
    anew = [e | {"time": e["time"] + 1000} for e in events]

    def write(lines: list[dict[str, Any]]) -> None:
        (cell / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))

    write([start, first])
    assert main(["sync", FILE]) == 0
    write([start, first, *anew])
    (cell / "manifest.json").write_bytes(manifest)
    assert main(["sync", FILE]) == 0
    client = mlflow_client(elsewhere / "elsewhere")
    runs = [r for r in runs_in(client, "tiny") if role(r) == "kd"]
    steps = {
        r.info.status: [m.step for m in client.get_metric_history(r.info.run_id, "loss/total")]
        for r in runs
    }
    assert steps == {"KILLED": [1], "FINISHED": [1, 2]}


def test_a_journal_without_a_whole_line_is_not_sent(elsewhere: Path) -> None:
    cell = cells(elsewhere)["stage2"]
    (cell / "manifest.json").unlink()
    (cell / "journal.jsonl").write_text('{"event":"sta')  # power cut in the first line
    assert main(["sync", FILE]) == 0
    runs = runs_in(mlflow_client(elsewhere / "elsewhere"), "tiny")
    assert sorted(role(r) for r in runs) == ["grid", "kd", "stage1", "teacher"]
    assert next(r for r in runs if role(r) == "grid").info.status == "KILLED"


def test_a_failed_cell_is_failed_with_its_error(elsewhere: Path) -> None:
    cell = cells(elsewhere)["stage2"]
    (cell / "manifest.json").unlink()
    cell.append("failed", error="loss/total is nan in epoch 2")
    assert main(["sync", FILE]) == 0
    runs = runs_in(mlflow_client(elsewhere / "elsewhere"), "tiny")
    run = next(r for r in runs if role(r) == "stage2")
    assert run.info.status == "FAILED" and "nan in epoch 2" in run.data.tags["error"]


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


# -- a tracking server that is wrong, absent or failing --------------------------------------------


def test_an_unreachable_server_is_one_warning_and_training_goes_on(tmp_path: Path) -> None:
    write_experiment(tmp_path / "tiny.yaml", methods=["plain"])
    uri = "http://127.0.0.1:1"
    done = call(
        tmp_path, "run", "tiny.yaml", "--no-bar", "--device", "cpu", MLFLOW_TRACKING_URI=uri
    )
    assert done.returncode == 0 and cells(tmp_path)["supervised"].is_done
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"warning: MLflow at {uri} cannot be used") and "harness sync" in line
    assert wait_until(lambda: not processes_in(tmp_path))


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/none/x.db", "folder"])
def test_an_unusable_uri_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    file = write_experiment(tmp_path / "tiny.yaml")
    store = str(tmp_path / "runs")
    assert main(["run", str(file), "--store", store, "--no-bar", "--device", "cpu"]) == 2
    line = one_error_line(capfd.readouterr().err)
    assert "MLFLOW_TRACKING_URI" in line and uri in line
    assert cells(tmp_path) == {}


def test_a_server_that_fails_in_mid_run_does_not_harm_training(
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(harness.run.session, "SYNC_SECONDS", 0.05)
    monkeypatch.setattr(harness.run.session.time, "sleep", lambda _: None)
    file = write_experiment(tmp_path / "tiny.yaml", methods=["plain"])
    arguments = [str(file), "--store", str(tmp_path / "runs")]

    def fail(_: Tracker) -> int:
        raise ConnectionError("the server is gone\nand more lines")

    with monkeypatch.context() as broken:
        broken.setattr(Tracker, "sync", fail)
        assert main(["run", *arguments, "--no-bar", "--device", "cpu"]) == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0] == "warning: MLflow: ConnectionError: the server is gone; trying again"
    assert "is behind" in lines[-1] and "`harness sync`" in lines[-1]
    assert cells(tmp_path)["supervised"].is_done

    assert main(["sync", *arguments]) == 0
    runs = runs_in(mlflow_client(tmp_path), "tiny")
    assert sorted(role(r) for r in runs) == ["grid", "student"]
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_a_deleted_experiment_is_one_clear_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", FILE]) == 0
    client = mlflow_client(elsewhere / "elsewhere")
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    capsys.readouterr()
    assert main(["sync", FILE]) == 2
    line = one_error_line(capsys.readouterr().err)
    assert "experiment 'tiny' is deleted" in line and "restore" in line


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
    """Database, experiment, parent and runs, at the same time and even from two stores."""
    (finished_copy / "mlflow.db").unlink()
    shutil.copytree(finished_copy / "runs", finished_copy / "other")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CONNECT, store],
            cwd=finished_copy,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for store in ("runs", "other")
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [p.communicate(timeout=HANG)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    client = mlflow_client(finished_copy)
    assert [e.name for e in client.search_experiments()].count("tiny") == 1
    kinds = sorted(role(r) for r in runs_in(client, "tiny"))
    assert kinds == ["grid", "kd", "stage1", "stage2", "teacher"]


# -- harness ui ------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=HANG) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def test_ui_serves_the_runs_and_ends_with_ctrl_c(finished_copy: Path) -> None:
    port = free_port()
    process = start(finished_copy, "ui", "--port", str(port))
    try:
        assert wait_until(lambda: "<html" in ask(port, "/"))
        found = ask(port, "/api/2.0/mlflow/experiments/search", {"max_results": 10})
        assert "tiny" in {e["name"] for e in json.loads(found)["experiments"]}
    finally:
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=HANG)
    assert process.returncode == 0
    assert wait_until(lambda: not processes_in(finished_copy)), processes_in(finished_copy)


def test_ui_takes_its_server_along_when_it_is_terminated(finished_copy: Path) -> None:
    process = start(finished_copy, "ui", "--port", str(free_port()))
    assert wait_until(lambda: len(processes_in(finished_copy)) >= 2)
    process.terminate()
    process.communicate(timeout=HANG)
    assert wait_until(lambda: not processes_in(finished_copy)), processes_in(finished_copy)


def test_ui_on_a_busy_port(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 2
    line = one_error_line(capsys.readouterr().err)
    assert f"cannot listen on 127.0.0.1:{port}" in line and "choose another" in line


def test_ui_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["ui"]) == 2
    assert "nothing logged" in one_error_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


# -- system metrics --------------------------------------------------------------------------------


def system_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Kind of run (cell, grid, ..) -> what it has under *System metrics*."""
    found = runs_in(mlflow_client(folder), "tiny")
    return {
        run.data.tags["kind"]: {
            k: v for k, v in run.data.metrics.items() if k.startswith("system/")
        }
        for run in found
    }


def test_system_metrics_on_request(finished: Path, tmp_path: Path, empty_database: Path) -> None:
    assert not any(system_metrics(finished).values()), "nobody asked for them"
    shutil.copy(empty_database, tmp_path)
    file = write_experiment(tmp_path / "tiny.yaml", methods=["plain"], training={"epochs": 6})
    wanted = {
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5",
    }
    done = call(tmp_path, "run", str(file), "--no-bar", "--device", "cpu", **wanted)
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = system_metrics(tmp_path)
    assert not found["cell"]
    assert 0 < found["grid"]["system/cpu_utilization_percentage"] <= 100
    assert found["grid"]["system/system_memory_usage_megabytes"] > 100


@pytest.mark.parametrize(
    ("value", "installed", "message"),
    [
        ("perhaps", True, "'perhaps' is neither true nor false; correct it"),
        ("true", False, "psutil is not installed; `pip install 'refilled-harness[system]'`"),
    ],
)
def test_system_metrics_that_cannot_be_had(
    value: str,
    installed: bool,
    message: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(system_metrics_module.WANTED, value)
    if not installed:
        monkeypatch.setattr(system_metrics_module, "find_spec", lambda _: None)
    assert main(["sync", FILE]) == 2
    assert f"{system_metrics_module.WANTED}: {message}" in one_error_line(capsys.readouterr().err)
