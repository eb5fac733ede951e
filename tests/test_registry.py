"""The grid's page in MLflow, and its teacher in the model registry, there and back."""

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import exported
from helpers import (
    HANG,
    TINY,
    Patch,
    call,
    cells,
    changed,
    mlflow_client,
    one_error_line,
    role,
    runs_in,
    weights,
    write_experiment,
)
from test_tune_resume import TUNING

from harness.analysis.bundle import read_bundle
from harness.analysis.tables.result_table import Cell
from harness.analysis.tables.rows import cell_estimate, columns_of, epochs_of, rows_of
from harness.experiment.file import parse, read
from harness.plan import Plan
from harness.run.grid import plan_of
from harness.store import Store
from harness.track import grid_run
from harness.track.registry import look_up, resolve_teacher
from harness.track.sync import N_CELLS, Tracker

FILE = "experiments/tiny.yaml"
NAME = "tiny-wrn-10-1"
TAUGHT = {k: v for k, v in changed(name="taught", methods=["kd"]).items() if k != "teacher"}


@pytest.fixture
def here(finished_copy: Path) -> Path:
    """A copy of the finished grid with its database."""
    return finished_copy


def harness(folder: Path, *arguments: str, status: int = 0) -> str:
    """Run a command in its own process, and return what it printed.

    In one process, MLflow would take the mlflow.db of two folders for the same.
    """
    run = ("--no-bar", "--device", "cpu") if arguments[0] == "run" else ()
    done = call(folder, *arguments, *run)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr if status == 0 else done.stderr


def grid_of(folder: Path) -> Any:
    return next(r for r in runs_in(mlflow_client(folder), "tiny") if role(r) == "grid")


def taught(folder: Path, teacher: str = f"models:/{NAME}@teacher", **changes: Any) -> str:
    (folder / "taught.yaml").write_text(yaml.safe_dump(TAUGHT | {"teacher": teacher} | changes))
    return "taught.yaml"


# -- the grid's run --------------------------------------------------------------------------------


def test_of_two_hosts_that_create_it_at_once_the_earlier_counts(
    finished: Path, tmp_path: Path, empty_database: Path, monkeypatch: Patch
) -> None:
    shutil.copy(empty_database, tmp_path)
    client, plan = mlflow_client(tmp_path), plan_of(read(finished / FILE))
    experiment = client.create_experiment("tiny", (tmp_path / "artifacts").as_uri())
    others = []

    def meanwhile(seconds: float) -> None:
        """Another host, whose run was stamped earlier and arrives later."""
        tags = {"kind": "grid", "grid": plan.experiment.grid}
        others.append(client.create_run(experiment, start_time=1, tags=tags).info.run_id)

    monkeypatch.setattr(grid_run.time, "sleep", meanwhile)
    run, is_new = grid_run.find_grid_run(client, experiment, plan, "http://server")
    assert (run.info.run_id, is_new) == (others[0], False)
    assert [r.info.run_id for r in runs_in(client, "tiny")] == others, "ours is gone"
    again, is_new = grid_run.find_grid_run(client, experiment, plan, "http://server")
    assert (again.info.run_id, is_new) == (others[0], False)


# -- the page --------------------------------------------------------------------------------------


def test_the_grids_description_is_its_table(finished: Path) -> None:
    client, run = mlflow_client(finished), grid_of(finished)
    lines = run.data.tags["mlflow.note.content"].splitlines()
    path = client.download_artifacts(run.info.run_id, "result/tiny.jsonl")
    bundle = read_bundle(Path(path))
    (column,) = columns_of(bundle)
    assert f"|  | epochs | {column.label} |" in lines
    for row in rows_of(bundle):
        estimate = cell_estimate(bundle, row, column)
        (line,) = [x for x in lines if x.startswith(f"| {row.label} | ")]
        start = f"| {row.label} | {epochs_of(bundle, row)} | [{Cell.percent(estimate).text}]("
        assert f"{start}#/experiments/{run.info.experiment_id}/runs?" in line.replace(
            "**", ""
        ).replace("\u00a0", " ")
    assert any(line.startswith("Data: digits (1400 test") for line in lines)
    assert lines[0].startswith("|  |"), "MLflow folds long texts: the table comes first"
    assert "Command: `harness run experiments/tiny.yaml`" in lines


def test_every_number_of_the_page_leads_to_its_run(finished: Path) -> None:
    from urllib.parse import parse_qs, unquote

    client, run = mlflow_client(finished), grid_of(finished)
    kinds = []
    for line in run.data.tags["mlflow.note.content"].splitlines():
        if "](#" in line:
            query = line.partition("runs?")[2].partition(")")[0]
            (text,) = parse_qs(query)["searchFilter"]
            assert unquote(text) == text
            (found,) = client.search_runs([run.info.experiment_id], text)
            kinds.append(role(found))
    assert kinds == ["teacher", "teacher", "kd", "stage1", "stage1", "stage2"]


def test_bundle_runs_and_figures_are_artifacts(finished: Path) -> None:
    client, run = mlflow_client(finished), grid_of(finished)
    names = {a.path for a in client.list_artifacts(run.info.run_id, "result")}
    assert {f"result/tiny.{suffix}" for suffix in ("jsonl", "md", "html", "csv", "tex")} <= names
    assert len({n for n in names if n.endswith(".png")}) >= 4 and "result/captions.txt" in names
    assert "experiment.resolved.json" in {a.path for a in client.list_artifacts(run.info.run_id)}


def test_before_the_end_the_page_says_so(here: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, here / "other.db")
    cells(here)["stage2"].path.joinpath("manifest.json").unlink()
    tracker = Tracker(
        plan_of(read(here / FILE)), Store(here / "runs"), f"sqlite:///{here}/other.db"
    )
    tracker.sync()
    runs = runs_in(mlflow_client(here, "other.db"), "tiny")
    (grid,) = [r for r in runs if role(r) == "grid"]
    note = grid.data.tags["mlflow.note.content"]
    assert note and "|" not in note


def test_a_page_that_a_kill_prevented_is_made_by_the_next_run(here: Path) -> None:
    (here / "runs/mlflow.json").unlink()
    mlflow_client(here).set_tag(grid_of(here).info.run_id, "mlflow.note.content", "")
    assert "nothing to do" not in harness(here, "run", FILE)
    assert "| Teacher |" in grid_of(here).data.tags["mlflow.note.content"]
    assert "nothing to do" in harness(here, "run", FILE)


def test_a_smaller_table_does_not_replace_a_larger_one(here: Path) -> None:
    before = grid_of(here).data.tags["mlflow.note.content"]
    harness(here, "run", FILE, "--set", "methods=[plain]")
    assert grid_of(here).data.tags["mlflow.note.content"] == before
    harness(here, "run", FILE, "--set", "seeds=[0,1]")
    assert "\u00a0(2)](#" in grid_of(here).data.tags["mlflow.note.content"]


def test_nor_where_both_come_at_once(here: Path) -> None:
    """The smaller grid has looked and begins to write when the larger one comes."""
    uri, store = f"sqlite:///{here / 'mlflow.db'}", Store(here / "runs")
    writers = {
        name: Tracker(plan_of(read(here / FILE, sets)), store, uri)
        for name, sets in (("larger", []), ("smaller", ["methods=[plain]"]))
    }
    client, run_id = mlflow_client(here), grid_of(here).info.run_id
    client.set_tag(run_id, N_CELLS, "0")
    has_looked, larger_is_there = threading.Event(), threading.Event()

    def builder_of(name: str) -> grid_run.SummaryBuilder:
        def build(plan: Plan, experiment_id: str, folder: Path) -> grid_run.GridSummary:
            if name == "smaller":
                has_looked.set()
                larger_is_there.wait(1)
            return grid_run.GridSummary(name, [], {}, {})

        return build

    smaller = threading.Thread(target=writers["smaller"].end_grid, args=[builder_of("smaller")])
    smaller.start()
    assert has_looked.wait(HANG)
    writers["larger"].end_grid(builder_of("larger"))
    larger_is_there.set()
    smaller.join()
    assert grid_of(here).data.tags["mlflow.note.content"] == "larger"


def test_a_column_of_final_accuracies_alone(finished: Path) -> None:
    """The mean by method and student is then the table's number."""
    for run in runs_in(mlflow_client(finished), "tiny"):
        kind, metrics = role(run), run.data.metrics
        if kind == "stage1":
            assert metrics["test_ncm"] == round(metrics["stage1/ncm_train_centers"], 4)
        elif kind != "grid":
            assert metrics["test_accuracy"] == round(metrics[f"{kind}/test_accuracy"], 4)
        assert ("test_accuracy" in metrics) == (kind not in ("stage1", "grid"))
        assert ("test_ncm" in metrics) == (kind == "stage1")


def test_grouped_by_method_and_student_the_tables_numbers(finished: Path) -> None:
    """This holds for the plain student, too, whose training is the teacher's."""
    client = mlflow_client(finished)
    values: dict[str, list[float]] = {}
    for run in runs_in(client, "tiny"):
        if "test_accuracy" in run.data.metrics:
            key = f"{run.data.tags['method']} {run.data.tags['student']}"
            values.setdefault(key, []).append(run.data.metrics["test_accuracy"])
    bundle = read_bundle(Path("x"), exported(finished))
    (column,) = columns_of(bundle)
    finals = {r.method: cell_estimate(bundle, r, column) for r in rows_of(bundle) if r.is_final}
    means = {f"{method} wrn-10-1": found.mean for method, found in finals.items() if found}
    assert {k: sum(v) / len(v) for k, v in values.items()} == pytest.approx(means, abs=5e-5)
    grid = next(r for r in runs_in(client, "tiny") if role(r) == "grid").data.metrics
    shown = {k.removeprefix("mean/"): v for k, v in grid.items() if k.startswith("mean/")}
    assert shown == {**means, "teacher": means["plain wrn-10-1"]}
    assert not any(k.startswith("half_width/") for k in grid), "of one seed"


# -- registered ------------------------------------------------------------------------------------


def test_the_teacher_is_registered(finished: Path) -> None:
    client, cell = mlflow_client(finished), cells(finished)["supervised"]
    (model,) = client.search_registered_models()
    assert model.name == NAME and f"models:/{NAME}@teacher" in model.description
    version = client.get_model_version_by_alias(NAME, "teacher")
    assert client.get_model_version_by_alias(NAME, "seed-0").version == version.version
    run = client.get_run(version.run_id)
    assert role(run) == "teacher"
    data = (cell / "model.pt").read_bytes()
    assert version.tags["sha256"] == hashlib.sha256(data).hexdigest()
    assert json.loads(version.tags["network"])["depth"] == 10
    assert version.tags["fingerprint"] == run.data.tags["fingerprint"]


def test_one_version_a_training_however_often_it_is_sent(here: Path) -> None:
    for marker in here.glob("runs/*/mlflow.json"):
        marker.unlink()
    harness(here, "sync", FILE)
    assert len(mlflow_client(here).search_model_versions(f"name = '{NAME}'")) == 1


def test_a_second_seed_is_a_second_version(here: Path) -> None:
    file = here / "experiments/tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"seeds": [0, 5]}))
    harness(here, "run", FILE)
    client = mlflow_client(here)
    seeds = {v.version: v.tags["seed"] for v in client.search_model_versions(f"name = '{NAME}'")}
    assert sorted(seeds.values()) == ["0", "5"]
    for alias, seed in (("teacher", "0"), ("seed-0", "0"), ("seed-5", "5")):
        assert seeds[client.get_model_version_by_alias(NAME, alias).version] == seed


# -- as a teacher ----------------------------------------------------------------------------------


def test_a_registered_teacher_teaches(here: Path) -> None:
    file = taught(here)
    assert "2 cells, 0 done, 2 to train" in harness(here, "plan", file, "--no-estimate")
    said = harness(here, "run", file)
    value = cells(here)["supervised"].manifest.results["accuracy"]["selected"]
    assert f"teacher: models:/{NAME}/1, measured here: " in said
    assert f"{100 * value:.2f} % on test" in said
    original = weights(cells(here)["supervised"])
    for name, tensor in weights(cells(here)["imported"]).items():
        assert tensor.equal(original[name]), name
    assert "nothing to do" in harness(here, "run", file)
    assert "KD" in harness(here, "tables", file, "--print")


def test_resolved_to_a_version_and_a_digest(finished: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished}/mlflow.db")
    experiment = parse(resolve_teacher(TAUGHT | {"teacher": f"models:/{NAME}@teacher"}))
    assert experiment.teacher_source == f"models:/{NAME}/1"
    assert experiment.teacher.label == "wrn-10-1"
    digest = experiment.teacher_checkpoint
    assert digest == look_up(f"models:/{NAME}/1").sha256
    known = {"teacher": f"models:/{NAME}/1", "teacher_checkpoint": experiment.teacher_checkpoint}
    again = parse(resolve_teacher(TAUGHT | known))
    assert again == experiment


def test_an_experiment_without_one_reads_as_before() -> None:
    assert "teacher_source" not in parse(TINY).model_dump(mode="json")


@pytest.mark.parametrize(
    "teacher",
    [
        "models:/nosuch@teacher",
        f"models:/{NAME}@teachr",
        f"models:/{NAME}/7",
        f"models:/{NAME}",
        "models:/foreign@teacher",  # not registered by the harness
    ],
)
def test_a_wrong_name_is_one_line(teacher: str, here: Path) -> None:
    client = mlflow_client(here)
    client.create_registered_model("foreign")
    version = client.create_model_version("foreign", "mlflow-artifacts:/x")
    client.set_registered_model_alias("foreign", "teacher", version.version)
    error = harness(here, "run", taught(here, teacher), "--store", "other", status=2)
    line = one_error_line(error)
    assert line.startswith("error: teacher: ") and teacher in line
    assert not (here / "other").exists()


def test_another_digest_than_expected(here: Path) -> None:
    line = one_error_line(harness(here, "run", taught(here, teacher_checkpoint="0" * 64), status=2))
    assert line.startswith("error: teacher_checkpoint: ") and f"models:/{NAME}/1" in line


def test_a_changed_file_is_refused(here: Path) -> None:
    client = mlflow_client(here)
    version = client.get_model_version_by_alias(NAME, "teacher")
    # Its place was recorded before the folder was copied: change it in the copy.
    original = Path(version.source.removeprefix("file://"))
    moved = here / "changed"
    shutil.copytree(original, moved)
    with open(moved / "model.pt", "ab") as weights:
        weights.write(b"x")
    tags = version.tags
    changed = client.create_model_version(NAME, moved.as_uri(), tags=tags)
    file = taught(here, f"models:/{NAME}/{changed.version}")
    error = one_error_line(harness(here, "run", file, status=2))
    assert error.startswith("error: teacher: ") and "imported" not in cells(here)


def test_another_split_is_said(here: Path) -> None:
    data = {"name": "digits", "validation": 100, "test": 1400, "split_seed": 5}
    assert "warning: teacher: " in harness(here, "run", taught(here, dataset=data))


def test_other_classes_are_said(here: Path) -> None:
    """Use a teacher of 5 classes where they fit, in another order, and where there are 10."""
    write_experiment(here / FILE, methods=["kd"], tasks={"classes": 5}, name="five")
    harness(here, "run", FILE)
    teacher = "models:/five-wrn-10-1@teacher"
    same = taught(here, teacher, tasks={"classes": 5, "overlap": [5, 3]})
    assert "warning: " not in harness(here, "run", same)
    other = taught(here, teacher, tasks={"classes": 5, "order": "random"})
    assert "warning: teacher: models:/five-wrn-10-1/1 " in harness(here, "run", other)
    error = one_error_line(harness(here, "run", taught(here, teacher), status=2))
    assert "5 classes" in error


def test_tuning_refuses_it(here: Path) -> None:
    taught(here)
    (here / "t.yaml").write_text(yaml.safe_dump(TUNING | {"experiment": "taught.yaml"}))
    error = one_error_line(harness(here, "tune", "t.yaml", status=2))
    assert error.startswith("error: experiment: ")
