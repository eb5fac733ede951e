"""A finished grid in MLflow: one run per cell, with its numbers, tags and artifacts."""

import getpass
import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from bundles import TASKS, planned, without_training
from helpers import ROOT, call, cells, mlflow_client, role, runs_in, write_experiment

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.mlflow_summary import conditions, describe
from harness.analysis.tables.rows import cell_estimate, columns_of, rows_of, select, summary_rows
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
    """The runs of the finished experiment by kind; "grid" is their parent."""
    return {role(r): r for r in runs_in(mlflow_client(finished), "tiny")}


# -- a finished run --------------------------------------------------------------------------------


def test_one_parent_and_one_child_a_cell(finished: Path, logged: dict[str, Any]) -> None:
    runs = runs_in(mlflow_client(finished), "tiny")
    assert sorted(role(r) for r in runs) == ["grid", "kd", "stage1", "stage2", "teacher"]
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
        "commit": cell.manifest.commits[0],
        "dirty": str(cell.manifest.dirty),
        "selected_epoch": str(cell.manifest.selected_epoch),
        "mlflow.source.name": "harness",
        "mlflow.source.git.commit": cell.manifest.commits[0],
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
        values = cell.manifest.results[result]
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
    """A grid with tasks in its own database, and its runs by fingerprint.

    The second student has the teacher's network, so that one cell belongs to three stages.
    """
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


# -- system metrics --------------------------------------------------------------------------------


def system_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Return the system metrics of each kind of run (cell, grid, ..)."""
    runs = runs_in(mlflow_client(folder), "tiny")
    return {
        run.data.tags["kind"]: {
            k: v for k, v in run.data.metrics.items() if k.startswith("system/")
        }
        for run in runs
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
    ("name", "links"),
    [
        ("digits-own-weights", "all numbers"),
        ("digits-cross", "final numbers"),
        ("tiny-imagenet-tuned", "lines"),
    ],
)
def test_a_long_description_keeps_its_links(name: str, links: str) -> None:
    bundle = read_bundle(ROOT / "experiments" / "results" / f"{name}.jsonl")
    text = describe(bundle, "12")
    assert len(text) <= 8000
    rows, columns = summary_rows(bundle), columns_of(bundle)
    if links == "all numbers":
        rows = rows_of(bundle)
    n = sum(cell_estimate(bundle, row, column) is not None for row in rows for column in columns)
    expected = {"all numbers": n, "final numbers": n, "lines": len(rows)}[links]
    assert text.count("](#/experiments/12/runs?") == expected
    assert ("number leads to its runs" in text) == (links == "final numbers")
