"""Tuning of several tasks: each by itself, and one tuned file for all. Trainings are made up, as in
test_tune.py."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import TINY, mlflow_client
from test_tune import JournalWriter as Writer
from test_tune import Killed, no_power_cuts  # noqa: F401

from harness.common.errors import UserError
from harness.data import load
from harness.experiment.file import parse, read
from harness.experiment.tasks import Task
from harness.plan import make_plan
from harness.run.options import RunOptions
from harness.store import Store
from harness.tune import search
from harness.tune.export import TrialRecord
from harness.tune.halving import _rungs, check_rungs
from harness.tune.trials import cells_of
from harness.tune.tuning_file import Tuning, read_tuning

EXPERIMENT = TINY | {
    "tasks": {"classes": 5, "overlap": [5, 2], "shots": [4, "all"]},
    "methods": ["plain", "teacher_ncm", "kd", "kd@both", "refilled"],
    "training": {"epochs": 8},
    "stage1": {"epochs": 8},
    "stage2": {"epochs": 8},
    "protocol": {"preset": "strict", "evaluate_every": 2},
}
TUNING: dict[str, Any] = {
    "name": "tiny",
    "experiment": "../tiny.yaml",
    "methods": {
        "plain": {"training.lr": {"low": 0.01, "high": 0.5, "log": True}},
        "kd@both": {"kd.alpha": {"low": 0.1, "high": 1}},
        "refilled": {"stage1.tau1": [1, 4], "stage2.lambd": {"low": 1, "high": 100, "log": True}},
    },
    "untuned": ["teacher_ncm"],
    "trials": 4,
    "batch": 2,
    "startup_trials": 2,
    "top_k": 1,
    "fresh_seeds": [7, 8],
}
FULL, FEW = [Task(None, None), Task(None, 4)], [Task(2, 4), Task(2, None)]


def write(folder: Path, tuning: dict[str, Any] = TUNING, **experiment: Any) -> Path:
    for path, raw in (("tiny.yaml", EXPERIMENT | experiment), ("tuning/tiny.yaml", tuning)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder / "tuning" / "tiny.yaml"


def slug(task: Task) -> str:
    """Return the name of a task's studies."""
    return "-".join(["tiny", *task.words]).replace(" ", "-")


class NoSync:
    """Replaces the thread that sends to MLflow, which takes seconds per task."""

    def finish(self, *_: Any, **__: Any) -> None:
        pass


def tune(file: Path, writer: Writer, mlflow: bool = False, **options: Any) -> int:
    """Run `harness tune` in this process, in the folder of the experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent.parent)
        patch.setattr(search, "make_executor", lambda *_: writer)
        if mlflow:  # an absolute path, as MLflow keeps one database per name in a process
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').resolve()}")
        else:
            patch.setattr(search, "start_tracking", lambda _: [NoSync()])
        return search.tune(read_tuning(Path("tuning/tiny.yaml")), RunOptions(**options))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Path, Writer]:
    folder, writer = tmp_path_factory.mktemp("tuned"), Writer()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    assert tune(write(folder), writer, mlflow=True) == 0
    return folder, writer


def test_a_part_is_one_task(tmp_path: Path) -> None:
    parts = {part.task: part for part in read_tuning(write(tmp_path)).parts}
    assert set(parts) == {*FULL, *FEW}
    for task, part in parts.items():
        assert part.base.tasks is not None and part.base.tasks.all == [task]
        assert list(part.spaces) == (
            ["plain", "kd@both", "refilled"] if task in FULL else ["plain", "refilled"]
        )
    names = {task: part.name for task, part in parts.items()}
    assert names[Task(2, 4)] == "tiny-overlap-2-shots-4"
    assert len(set(names.values())) == 4
    whole = read_tuning(write(tmp_path / "none", tasks=None))
    assert [part is whole for part in whole.parts] == [True] and whole.name == "tiny"


def test_every_task_has_as_many_trials_on_its_own_images(tuned: tuple[Path, Writer]) -> None:
    folder, _ = tuned
    store, teachers = Store(folder / "runs"), set()
    paths = sorted((folder / "runs/tuning/tiny").glob("*.jsonl"))
    assert len(paths) == 4
    for path in paths:
        header, *lines = path.read_text().splitlines()
        trials = [TrialRecord.model_validate_json(line) for line in lines if '"trial":' in line]
        (task,) = [task for task in (*FULL, *FEW) if path.stem == slug(task)]
        methods = ["plain", "kd@both", "refilled"][:: 1 if task in FULL else 2]
        assert sorted(trial.method for trial in trials) == sorted(4 * methods)
        shots = json.loads(header)["studies"]["plain"]["experiment"]["tasks"]["shots"]
        assert shots == [task.dimensions["shots"]]
        teachers |= {trial.cells["teacher"] for trial in trials if "teacher" in trial.cells}
        views = [
            store.directory(f).cell.config.data.view.as_json()
            for trial in trials
            for stage, f in trial.cells.items()
            if stage != "teacher"
        ]
        assert {view.get("shots") for view in views} == {task.shots}
        first = 0 if task.overlap is None else 3
        assert {tuple(view["classes"]) for view in views} == {tuple(range(first, first + 5))}
    assert len(teachers) == 1, "all tasks share it"


def test_one_tuned_file_has_settings_for_each(tuned: tuple[Path, Writer]) -> None:
    folder, _ = tuned
    experiment = read(folder / "tiny.tuned.yaml")
    assert experiment.methods == ("plain", "teacher_ncm", "kd@both", "refilled")
    assert experiment.protocol_label == "strict(selection=last, evaluate_every=2)"
    assert experiment.tasks is not None and set(experiment.tasks.all) == {*FULL, *FEW}
    assert experiment.tuned is not None and experiment.tuned.keys() == {
        "plain",
        "kd@both",
        "refilled",
    }
    assert {tuned.task for tuned in experiment.tuned["kd@both"].tasks} == set(FULL)
    for method in ("plain", "refilled"):
        assert {tuned.task for tuned in experiment.tuned[method].tasks} == {*FULL, *FEW}
    plan, lambds = make_plan(experiment, load(experiment.dataset)), set()
    for tuned_task in experiment.tuned["refilled"].tasks:
        task, lambd = tuned_task.task, tuned_task.settings["stage2"]["lambd"]
        (entry,) = [e for e in plan.entries if e.stage == "stage2" and e.task == task]
        assert plan.cells[entry.fingerprint].config.sections["stage2"].lambd == lambd
        assert tuned_task.study == f"{slug(task)}/refilled"
        assert (tuned_task.trials, tuned_task.seeds) == (4, (7, 8))
        lambds.add(lambd)
    assert len(lambds) > 1


def test_validation_trains_only_where_no_images_are_counted(
    tmp_path: Path, tuned: tuple[Path, Writer]
) -> None:
    tasks = {"classes": 5, "overlap": [5, 2]}
    file = write(tmp_path, TUNING | {"methods": {"plain": TUNING["methods"]["plain"]}}, tasks=tasks)
    assert tune(file, Writer()) == 0
    experiment = read(tmp_path / "tiny.tuned.yaml")
    assert experiment.protocol.train_on == "train+validation"
    assert read(tuned[0] / "tiny.tuned.yaml").protocol.train_on == "train"


def test_the_tuned_file_keeps_what_its_claims_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = {
        "claims": ["refilled > plain", "dkd > kd"],
        "secondary_claims": "refilled > kd@both",
    }
    tuning = TUNING | {"methods": {"refilled": TUNING["methods"]["refilled"]}, "untuned": []}
    file = write(tmp_path, tuning, tasks={"classes": 5, "overlap": [5]}, **claims)
    assert tune(file, Writer()) == 0
    experiment = read(tmp_path / "tiny.tuned.yaml")
    assert experiment.methods == ("plain", "kd@both", "refilled")
    assert experiment.claims == ("refilled > plain",)
    assert experiment.secondary_claims == ("refilled > kd@both",)
    assert experiment.tuned is not None and [*experiment.tuned] == ["refilled"]
    out = capsys.readouterr().out
    assert "claim dropped: 'dkd > kd'" in out
    assert re.search(r"^[01] of 1 winners came after the random start-up$", out, re.MULTILINE)


def test_tasks_may_stand_in_the_tuning_file_alone(tmp_path: Path) -> None:
    """The order of their classes may be in a file, which the tuned file still names."""
    order = {"order": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]}
    (tmp_path / "order.yaml").write_text(yaml.safe_dump(order))
    tasks = {"classes": 5, "overlap": [5, 1], "shots": [3]}
    plain = TUNING | {"methods": {"plain": TUNING["methods"]["plain"]}}
    assert tune(write(tmp_path, plain | {"set": {"tasks": tasks}}, tasks=None), Writer()) == 0
    experiment = read(tmp_path / "tiny.tuned.yaml")
    assert experiment.tasks is not None and experiment.tasks.all == [Task(None, 3), Task(1, 3)]
    file = write(tmp_path / "b", plain, tasks=tasks | {"order": "../order.yaml"})
    assert tune(file, Writer()) == 0
    written = yaml.safe_load((tmp_path / "b" / "tiny.tuned.yaml").read_text())
    assert written["tasks"]["order"] == "../order.yaml"
    assert read(tmp_path / "b" / "tiny.tuned.yaml").tasks.order[0] == 9  # type: ignore[union-attr]


def test_winners_that_make_no_experiment_are_refused_first(tmp_path: Path) -> None:
    """The settings of every task are checked."""
    file, writer = write(tmp_path), Writer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tuning, "parts", property(lambda self: [replace(self, task=Task(3, 3))]))
        with pytest.raises(UserError, match=r"^methods: .*overlap 3, shots 3"):
            tune(file, writer)
    assert writer.seen == []


def test_killed_it_goes_on_and_doubles_nothing(tuned: tuple[Path, Writer], tmp_path: Path) -> None:
    folder, whole = tuned
    text = (folder / "tiny.tuned.yaml").read_text()
    file = write(tmp_path)
    seen: list[str] = []
    for budget in (30, 120, 300, float("inf")):
        writer = Writer(budget)
        try:
            status = tune(file, writer)
        except Killed:
            status = None
        assert (status == 0) == (budget == float("inf"))
        seen += [path.name for path in writer.seen]
    assert (tmp_path / "tiny.tuned.yaml").read_text() == text
    again = Writer()
    assert tune(file, again) == 0 and again.seen == []
    assert (tmp_path / "tiny.tuned.yaml").read_text() == text
    assert {path.name for path in whole.seen} == set(seen)


def test_out_of_time_is_unfinished(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert tune(file, Writer(), max_seconds=1e-6) == 3
    assert not (tmp_path / "tiny.tuned.yaml").exists()


def test_mlflow_has_all_tasks_in_one_experiment(tuned: tuple[Path, Writer]) -> None:
    client = mlflow_client(tuned[0])
    experiment = client.get_experiment_by_name("tiny-tuning")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'study'")
    every = [("all", "4"), ("all", "all"), ("2", "4"), ("2", "all")]
    expected = [(m, *dims) for m in ("plain", "refilled") for dims in every]
    expected += [("kd@both", "all", "4"), ("kd@both", "all", "all")]
    tags = [[r.data.tags[tag] for tag in ("method", "overlap", "shots")] for r in runs]
    assert sorted(map(tuple, tags)) == sorted(expected)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pruning": {"rungs": [0.1], "keep": 0.5}}, r"pruning\.rungs: .*evaluate_every"),
        ({"untuned": ["plain"]}, r"untuned: 'plain'"),
        ({"untuned": ["nobody"]}, r"untuned: .*'nobody'"),
        ({"methods": {"teacher_ncm": {}}}, r"methods\.teacher_ncm: .*`untuned`"),
        ({"methods": {"probe": {"optimizer.momentum": [0, 1]}}}, r"methods\.probe\."),
        ({"set": {"tasks": {"overlap": [5], "shots": [99]}}}, r"tasks\.shots: "),
    ],
)
def test_bad_input(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    file = write(tmp_path, TUNING | {"untuned": []} | changes)
    with pytest.raises(UserError, match=f"^{problem}"):
        tune(file, Writer())


def test_rungs_may_be_where_something_was_measured(tmp_path: Path) -> None:
    tuning = TUNING | {"pruning": {"rungs": [0.25], "keep": 0.5}}
    check_rungs(read_tuning(write(tmp_path, tuning)))
    check_rungs(read_tuning(write(tmp_path, TUNING | {"pruning": None})))


def test_a_rung_is_where_something_was_measured(tmp_path: Path) -> None:
    file = write(tmp_path, TUNING | {"pruning": {"rungs": [0.3, 0.45], "keep": 0.5}})
    part = read_tuning(file).parts[0]
    dataset = load(part.base.dataset, with_test=False)
    trial = cells_of(part, dataset, "plain", 0, {"training.lr": 0.1})
    assert _rungs(trial, part.settings) == [2, 4]


def test_what_is_tuned_for_each_task_is_an_entry_of_each() -> None:
    """This holds for a stage on the teacher's task, too, if its settings differ."""
    fields = EXPERIMENT | {"methods": ["finetune"], "protocol": "strict"}
    fields = {k: v for k, v in fields.items() if k not in ("stage1", "stage2")}

    def pretrained(**more: Any) -> list[Any]:
        experiment = parse(fields | more)
        entries = make_plan(experiment, load(experiment.dataset)).entries
        return [e for e in entries if e.stage == "pretrain"]

    assert [e.task for e in pretrained()] == [None]
    tuned_task = {"overlap": 2, "shots": 4, "settings": {"training": {"lr": 0.01}}}
    entries = pretrained(tuned={"finetune": {"tasks": [tuned_task]}})
    assert {e.task for e in entries} == {*FULL, *FEW} and len(entries) == 4
    assert len({e.fingerprint for e in entries}) == 2
