"""An experiment file: what is accepted, what is refused, and what the one-line errors say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from harness.common.errors import UserError
from harness.experiment.file import apply_overrides, parse, read
from harness.methods.base import StepSchedule
from harness.methods.refilled import Stage2Settings

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "experiments" / "digits_all_images.yaml"
TEXT = """
name: example
dataset: {name: digits, validation: 297}
network: {network: wide_resnet, dropout: 0.0}
teacher: {depth: 16, width: 2}
students: [{depth: 16, width: 2}, {depth: 16, width: 1}, {depth: 10, width: 1}]
methods: [plain, kd, refilled]
stage1: {tau1: 4}
stage2: {epochs: 20, lambd: 10}
seeds: [0, 1, 2]
"""


@pytest.fixture
def raw() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def refusal(raw: Any, *assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(apply_overrides(raw, list(assignments)))
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is accepted


def test_digits_file() -> None:
    experiment = read(DIGITS)
    assert (experiment.name, experiment.dataset.name) == ("digits-all-images", "digits")
    assert experiment.teacher.label == "wrn-16-2"
    assert [s.label for s in experiment.students] == [
        "wrn-16-2",
        "wrn-16-1",
        "wrn-10-2",
        "wrn-10-1",
    ]
    assert experiment.seeds == (0, 1, 2)
    assert experiment.protocol.label == "strict"


TUNED = ROOT / "experiments/fashion-shots.tuned.yaml"


def test_a_part_of_a_tuned_file_keeps_its_settings() -> None:
    """What `--set` leaves out takes its tuned settings along; what it adds wrongly is an error."""
    whole = read(TUNED)
    part = read(TUNED, ["methods=[plain@both, refilled]", "tasks.shots=[5]"])
    assert whole.tuned and part.tuned and list(part.tuned) == ["plain@both", "refilled"]
    for method, tuned in part.tuned.items():
        assert [own.shots for own in tuned.tasks] == [5]
        assert tuned.tasks[0] == whole.tuned[method].tasks[0]
    swept = read(TUNED, ["methods=[{method: kd, epochs: both, kd: {temperature: 2}}]"])
    assert swept.tuned and list(swept.tuned) == ["kd@both"]
    assert {*(read(TUNED, ["seeds=[7]"]).tuned or ())} == {*whole.tuned}
    with pytest.raises(UserError, match=r"tuned\.kd: not among methods"):
        read(TUNED, ["tuned.kd={settings: {}}"])
    for untuned in ("methods=[plain@both, vid]", "tasks.shots=[10]", "tasks=null"):
        with pytest.raises(UserError, match=r"^tuned\."):
            read(TUNED, [untuned])


def test_shared_network_reaches_teacher_and_students(raw: dict[str, Any]) -> None:
    experiment = parse(raw)
    networks = [experiment.teacher, *experiment.students]
    assert [n.model_dump()["dropout"] for n in networks] == [0, 0, 0, 0]


@pytest.mark.parametrize("name", sorted(p.name for p in DIGITS.parent.glob("*.yaml")))
def test_resolved_experiment_reads_back_as_itself(name: str) -> None:
    experiment = read(DIGITS.parent / name)
    assert parse(json.loads(experiment.model_dump_json())) == experiment


def test_experiment_cannot_be_changed() -> None:
    experiment = read(DIGITS)
    with pytest.raises(ValidationError):
        experiment.stage2.lambd = 50  # type: ignore[misc]


def test_defaults_are_those_of_the_2021_release() -> None:
    network = {"network": "wide_resnet", "depth": 40, "width": 2}
    experiment = parse(
        {
            "name": "x",
            "dataset": {"name": "digits", "validation": 100},
            "teacher": network,
            "students": [network],
        }
    )
    assert experiment.optimizer.model_dump() == {
        "batch_size": 128,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "precision": "float32",
    }
    for schedule in (experiment.training, experiment.stage2):
        assert (schedule.epochs, schedule.lr, schedule.gamma) == (200, 0.1, 0.2)
        assert schedule.milestones == (100, 140, 180)
    assert (experiment.stage1.tau1, experiment.stage1.margin) == (4, 0.2)
    assert (experiment.stage2.tau2, experiment.stage2.lambd) == (2, 100)
    assert experiment.teacher.model_dump()["dropout"] == 0.3
    assert experiment.protocol.preset == "strict"


@pytest.mark.parametrize(
    ("epochs", "milestones"),
    [(200, (100, 140, 180)), (20, (10, 14, 18)), (10, (5, 7, 9)), (3, (1, 2)), (2, (1,)), (1, ())],
)
@pytest.mark.parametrize("model", [StepSchedule, Stage2Settings])
def test_default_milestones(
    model: type[StepSchedule], epochs: int, milestones: tuple[int, ...]
) -> None:
    assert model.model_validate({"epochs": epochs}).milestones == milestones
    assert model.model_validate({"epochs": epochs, "milestones": None}).milestones == milestones


def test_empty_milestones_mean_a_constant_rate() -> None:
    assert StepSchedule.model_validate({"milestones": []}).milestones == ()


def test_presets(raw: dict[str, Any]) -> None:
    strict = parse(raw | {"protocol": "strict"}).protocol
    legacy = parse(raw | {"protocol": "legacy"}).protocol
    assert strict.model_dump() == {
        "preset": "strict",
        "train_on": "train",
        "selection": "validation",
        "ncm_centers": "train",
        "center_images": "plain",
        "ties": "later",
        "last_look": "always",
        "initial_weights": "shared",
        "evaluate_every": 1,
        "select_by": "accuracy",
    }
    assert legacy.model_dump() == {
        "preset": "legacy",
        "train_on": "train+validation",
        "selection": "test",
        "ncm_centers": "evaluated",
        "center_images": "augmented",
        "ties": "first",
        "last_look": "rhythm",
        "initial_weights": "own",
        "evaluate_every": 1,
        "select_by": "accuracy",
    }
    assert (strict.reported, legacy.reported) == ("selected", "best_on_test")
    assert (strict.label, legacy.label) == ("strict", "legacy")
    changed = parse(raw | {"protocol": {"preset": "legacy", "selection": "last"}}).protocol
    assert changed.label == "legacy(selection=last)"
    assert changed.reported == "last"


def test_overrides_by_path(raw: dict[str, Any]) -> None:
    before = json.dumps(raw)
    experiment = parse(
        apply_overrides(
            raw,
            [
                "students.0.width=4",
                "protocol.selection=last",
                "stage2.lambd=50",
                "kd.alpha=0.5",
                "seeds=[7, 8]",
                "description=a=b",
            ],
        )
    )
    assert experiment.students[0].label == "wrn-16-4"
    assert experiment.students[1].label == "wrn-16-1"
    assert experiment.protocol.label == "strict(selection=last)"
    assert (experiment.stage2.lambd, experiment.kd.alpha) == (50, 0.5)
    assert experiment.seeds == (7, 8)
    assert experiment.description == "a=b"
    assert json.dumps(raw) == before


def test_later_override_wins(raw: dict[str, Any]) -> None:
    assert parse(apply_overrides(raw, ["stage2.lambd=1", "stage2.lambd=2"])).stage2.lambd == 2


def test_entry_overrides_the_shared_network(raw: dict[str, Any]) -> None:
    raw["network"] = "wide_resnet"
    raw["students"] = [{"network": "mobile_net", "ca": 0.5}, {"depth": 10, "width": 1}]
    assert [s.label for s in parse(raw).students] == ["mobilenet-0.50", "wrn-10-1"]


# What is refused: (assignment, field, remedy)

REFUSED_ASSIGNMENTS = [
    # unknown keys, with the nearest
    ("nmae=x", "nmae", "did you mean 'name'?"),
    ("stage2.lamdb=5", "stage2.lamdb", "did you mean 'lambd'?"),
    ("stage1.xyz=5", "stage1.xyz", "allowed: epochs, final_lr_ratio, lr, margin"),
    ("students.1.widht=2", "students.1.widht", "did you mean 'width'?"),
    ("teacher.ca=0.5", "teacher.ca", "allowed: depth, dropout, final_bn_momentum, network, width"),
    ("dataset.validations=9", "dataset.validations", "did you mean 'validation'?"),
    ("protocol.selecton=last", "protocol.selecton", "did you mean 'selection'?"),
    ("optimizer.lr=0.1", "optimizer.lr", "allowed: batch_size, momentum, nesterov"),
    # unknown names, with the nearest
    ("dataset.name=digit", "dataset.name", "did you mean 'digits'?"),
    ("teacher.network=wide_resnte", "teacher.network", "did you mean 'wide_resnet'?"),
    ("network=vgg", "teacher.network", "allowed: mobile_net, resnet, wide_resnet"),
    ("methods=[plain, refiled]", "methods", "did you mean 'refilled'?"),
    ("protocol=strikt", "protocol", "did you mean 'strict'?"),
    ("protocol.preset=[strict]", "protocol", "did you mean 'strict'?"),
    ("protocol.selection=best", "protocol.selection", "'validation', 'last' or 'test'"),
    ("stage1.relation=tuples", "stage1.relation", "'tuple', 'triplet' or 'one-negative'"),
    ("optimizer.precision=float16", "optimizer.precision", "'float32' or 'bfloat16'"),
    # wrong types
    ("stage2.epochs=many", "stage2.epochs", "valid integer"),
    ("stage2.epochs=20.5", "stage2.epochs", "valid integer"),
    ("stage2.epochs=true", "stage2.epochs", "valid integer"),
    ("stage2.lambd={a: 1}", "stage2.lambd", "valid number"),
    ("stage2.lambd=", "stage2.lambd", "valid number"),
    ("stage2=[1]", "stage2", "valid dictionary"),
    ("stage2={1: 2}", "stage2.1", "keys should be strings"),
    ("optimizer.nesterov=maybe", "optimizer.nesterov", "valid boolean"),
    ("seeds=3", "seeds", "valid"),
    ("seeds=[a]", "seeds.0", "valid integer"),
    ("methods=kd", "methods", "valid"),
    ("students.0=3", "students.0", "write `students.0: {network: ...}`"),
    ("teacher=null", "teacher", "write `teacher: {network: ...}`"),
    ("dataset=null", "dataset", "write `dataset: {name: ...}`"),
    ("network=5", "network", "write `network: {network: ...}`"),
    ("network=[wide_resnet]", "network", "write `network: {network: ...}`"),
    ("protocol=[strict]", "protocol", "'strict', 'legacy' or a mapping"),
    ("name=null", "name", "valid string"),
    # impossible values
    ("name=My Grid", "name", "^[a-z0-9]"),
    ("stage2.epochs=0", "stage2.epochs", "greater than or equal to 1"),
    ("stage2.lr=-0.1", "stage2.lr", "greater than 0"),
    ("stage2.lr=.nan", "stage2.lr", "finite number"),
    ("stage2.lambd=.inf", "stage2.lambd", "finite number"),
    ("teacher.dropout=.nan", "teacher.dropout", "less than 1"),
    ("students.0.dropout=1", "students.0.dropout", "less than 1"),
    ("stage1.tau1=0.01", "stage1.tau1", "greater than or equal to 0.05"),
    ("kd.alpha=1.5", "kd.alpha", "less than or equal to 1"),
    ("optimizer.batch_size=1", "optimizer.batch_size", "greater than or equal to 2"),
    ("optimizer.momentum=0", "optimizer", "set optimizer.nesterov to false"),
    ("dataset.validation=0", "dataset.validation", "greater than or equal to 1"),
    ("dataset.split_seed=4294967295", "dataset.split_seed", "less than 4294967295"),
    ("seeds=[-1]", "seeds.0", "greater than or equal to 0"),
    ("seeds=[]", "seeds", "at least 1 item"),
    ("students=[]", "students", "add `students: [{...}]`"),
    ("teacher.depth=17", "teacher.depth", "use 16 or 22"),
    ("teacher.depth=3", "teacher.depth", "use 10"),
    ("students.2.depth=12", "students.2.depth", "use 10 or 16"),
    # what does not fit together
    ("seeds=[0, 1, 0]", "seeds", "0 is listed twice; drop one"),
    ("methods=[kd, kd]", "methods", "'kd' is listed twice; drop one"),
    ("students.1.width=2", "students", "'wrn-16-2' is listed twice; drop one"),
    ("methods=[refilled, refilled-tuple]", "methods", "drop one"),
    ("stage2.milestones=[5, 20]", "stage2.milestones", "never reached in 20 epochs; lower it"),
    ("training.milestones=[9, 5]", "training.milestones", "sort them"),
    ("protocol.train_on=train+validation", "protocol", "use selection 'last'"),
    (
        "protocol={preset: legacy, select_by: loss}",
        "protocol",
        "selection is 'test'; use selection 'validation', or select_by 'accuracy'",
    ),
    ("stage2={centers: local, weighted: true}", "stage2", "use 'global'"),
    # assignments themselves
    ("stage2.lambd", "--set stage2.lambd", "FIELD=VALUE, as in stage2.lambd=50"),
    ("=5", "--set =5", "FIELD=VALUE"),
    ("stage2.lambd=[", "--set stage2.lambd", "not a YAML value"),
    ("stage1.tau1.x=2", "--set stage1.tau1.x", "tau1 is not a mapping"),
    ("seeds.5=1", "--set seeds.5", "list of 3"),
    ("students.x.width=1", "--set students.x.width", "list of 3"),
]


@pytest.mark.parametrize(
    ("assignment", "field", "remedy"), REFUSED_ASSIGNMENTS, ids=[a for a, *_ in REFUSED_ASSIGNMENTS]
)
def test_refused_in_one_line(raw: dict[str, Any], assignment: str, field: str, remedy: str) -> None:
    message = refusal(raw, assignment)
    assert message.startswith(f"{field}: ")
    assert remedy in message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("nmae", "name"), ("datasets", "dataset"), ("teachers", "teacher"), ("student", "students")],
)
def test_misspelt_required_key_is_called_unknown_not_missing(
    raw: dict[str, Any], wrong: str, right: str
) -> None:
    raw[wrong] = raw.pop(right)
    assert refusal(raw) == f"{wrong}: unknown key; did you mean {right!r}?"


def test_misspelt_required_key_of_a_network(raw: dict[str, Any]) -> None:
    raw["teacher"] = {"detph": 16, "width": 2}
    assert refusal(raw) == "teacher.detph: unknown key; did you mean 'depth'?"


@pytest.mark.parametrize("field", ["name", "dataset", "teacher", "students"])
def test_missing_field(raw: dict[str, Any], field: str) -> None:
    del raw[field]
    assert refusal(raw).startswith(f"{field}: ")


@pytest.mark.parametrize("value", [None, [1], "text", 5])
def test_not_a_mapping(value: Any) -> None:
    with pytest.raises(UserError, match="expected `key: value` lines"):
        parse(value, "file.yaml")


# Files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\ndataset: {name: digits\nseeds: [0]\n", "line 3: broken YAML"),
        ("name: x\n\tseeds: [0]\n", "line 2: broken YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1: broken YAML"),
        ("name: x\nseeds: [0]\nseeds: [1]\n", "line 3: broken YAML ('seeds' is listed twice"),
        (b"name: \xff\n", "not UTF-8 text"),
        ("", "expected `key: value` lines; see experiments/digits.yaml"),
        ("- a\n", "expected `key: value` lines"),
    ],
)
def test_broken_file(tmp_path: Path, text: str | bytes, expected: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").touch()
    with pytest.raises(UserError, match=rf"did you mean {tmp_path / 'digits.yaml'}\?$"):
        read(tmp_path / "digit.yaml")
    with pytest.raises(UserError, match=r"no such experiment file; check the path$"):
        read(tmp_path / "unlike-anything.yaml")
    with pytest.raises(UserError, match="no such experiment file"):
        read(tmp_path / "no-folder" / "digits.yaml")


def test_published_file_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(TEXT + "published: published/x.csv\n")
    with pytest.raises(UserError, match=r"^published: no file .*x\.csv; fix the path$"):
        read(path)
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "x.csv").write_text("source,row\n")
    with pytest.raises(UserError, match=r"^published: .*x\.csv, line 1: no column 'metric'; "):
        read(path)
    (tmp_path / "published" / "x.csv").write_text("source,row,metric,protocol,wrn-16-2\n")
    assert read(path).published == "published/x.csv"


# Imports


def test_checking_and_planning_need_no_torch() -> None:
    code = (
        "import sys, harness.experiment.file, harness.plan, harness.cli\n"
        "print([m for m in ('torch', 'mlflow', 'optuna', 'harness.analysis') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
