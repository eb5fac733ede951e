"""Experiment files: their defaults, what is accepted, and the field that a refusal names."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, Output, refusal, wrong
from pydantic import ValidationError

from harness.common.errors import UserError
from harness.experiment.file import parse, read
from harness.experiment.sources import apply_overrides
from harness.methods.refilled import Stage2Settings
from harness.methods.schedules import StepSchedule

FILES = sorted((ROOT / "experiments").glob("*.yaml"))
DIGITS = ROOT / "experiments/digits_all_images.yaml"
TUNED = ROOT / "experiments/fashion-shots.tuned.yaml"
NETWORK = {"network": "wide_resnet", "depth": 40, "width": 2}
LEAST = {"name": "x", "dataset": "digits", "teacher": NETWORK, "students": [NETWORK]}
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


def parse_error(raw: Any) -> str:
    return wrong(lambda: parse(raw))


def test_a_file_is_read() -> None:
    experiment = read(DIGITS)
    assert (experiment.name, experiment.dataset.name) == ("digits-all-images", "digits")
    labels = [network.label for network in (experiment.teacher, *experiment.students)]
    assert labels == ["wrn-16-2", "wrn-16-2", "wrn-16-1", "wrn-10-2", "wrn-10-1"]
    assert experiment.seeds == (0, 1, 2) and experiment.protocol_label == "strict"
    with pytest.raises(ValidationError):
        experiment.stage2.lambd = 50


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_resolved_experiment_reads_back_as_itself(file: Path) -> None:
    experiment = read(file)
    assert parse(json.loads(experiment.model_dump_json())) == experiment


def test_a_part_of_a_tuned_file_keeps_its_settings() -> None:
    """`--set` may leave out tuned methods and tasks, but not add untuned ones."""
    whole = read(TUNED)
    part = read(TUNED, ["methods=[plain@both, refilled]", "tasks.shots=[5]"])
    with pytest.raises(UserError, match=r"^methods: not a list"):
        read(TUNED, ["methods=1"])
    assert whole.tuned and part.tuned and list(part.tuned) == ["plain@both", "refilled"]
    for method, tuned in part.tuned.items():
        assert [settings.shots for settings in tuned.tasks] == [5]
        assert tuned.tasks[0] == whole.tuned[method].tasks[0]
    swept = read(TUNED, ["methods=[{method: kd, epochs: both, kd: {temperature: 2}}]"])
    assert swept.tuned and list(swept.tuned) == ["kd@both"]
    assert {*(read(TUNED, ["seeds=[7]"]).tuned or ())} == {*whole.tuned}
    for untuned in (
        "tuned.kd={settings: {}}",
        "methods=[plain@both, vid]",
        "tasks.shots=[10]",
        "tasks=null",
    ):
        with pytest.raises(UserError, match=r"^tuned\."):
            read(TUNED, [untuned])


def test_networks_share_options(raw: dict[str, Any]) -> None:
    experiment = parse(raw)
    networks = [experiment.teacher, *experiment.students]
    assert [network.model_dump()["dropout"] for network in networks] == [0, 0, 0, 0]
    raw["network"] = "wide_resnet"
    raw["students"] = [{"network": "mobile_net", "ca": 0.5}, {"depth": 10, "width": 1}]
    assert [s.label for s in parse(raw).students] == ["mobilenet-0.50", "wrn-10-1"]


def test_defaults_are_those_of_the_2021_release() -> None:
    experiment = parse(LEAST)
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
def test_milestones(model: type[StepSchedule], epochs: int, milestones: tuple[int, ...]) -> None:
    assert model.model_validate({"epochs": epochs}).milestones == milestones
    assert model.model_validate({"epochs": epochs, "milestones": None}).milestones == milestones
    assert model.model_validate({"epochs": epochs, "milestones": []}).milestones == ()


SWITCHES = {  # switch -> in `strict`, in `legacy`
    "train_on": ("train", "train+validation"),
    "selection": ("validation", "test"),
    "ncm_centers": ("train", "evaluated"),
    "center_images": ("plain", "augmented"),
    "ties": ("later", "first"),
    "last_look": ("always", "rhythm"),
    "initial_weights": ("shared", "own"),
    "convolution_init": ("pytorch", "pytorch"),
    "evaluate_every": (1, 1),
    "select_by": ("accuracy", "accuracy"),
}


@pytest.mark.parametrize(
    ("given", "n", "preset", "more"),
    [
        ("strict", 0, "strict", {}),
        ("legacy", 1, "legacy-2021", {}),
        ("legacy-2020", 1, "legacy-2020", {"convolution_init": "xavier"}),
        ("legacy-2022", 1, "legacy-2022", {}),
    ],
)
def test_presets(given: str, n: int, preset: str, more: dict[str, str]) -> None:
    switches = {name: values[n] for name, values in SWITCHES.items()} | more
    for field in (given, {"preset": given}):
        experiment = parse(LEAST | {"protocol": field})
        assert experiment.protocol.model_dump() == {"preset": preset, **switches}
    assert experiment.protocol_label == preset
    assert experiment.protocol.reported == ("selected", "best_on_test")[n]
    changed = parse(LEAST | {"protocol": {"preset": given, "selection": "last"}})
    assert changed.protocol_label == f"{preset}(selection=last)"
    assert changed.protocol.reported == "last"


def test_a_preset_supplies_what_the_release_trained_with() -> None:
    """A field that the file gives takes precedence."""
    first, second, third = (parse(LEAST | {"protocol": f"legacy-{y}"}) for y in (2020, 2021, 2022))
    assert second.model_dump(exclude={"protocol"}) == parse(LEAST).model_dump(exclude={"protocol"})
    assert [e.optimizer.batch_size for e in (first, second, third)] == [512, 128, 256]
    assert [e.teacher_batch_size for e in (first, second, third)] == [None, None, 128]
    one, two = first.stage1, first.stage2
    assert (one.relation, one.lr, one.final_lr_ratio) == ("one-negative", 0.1, 1)
    assert (two.centers, two.milestones, two.gamma) == ("local", (100, 140), 0.1)
    assert first.training == second.training
    for schedule in (third.training, third.stage2):
        assert (schedule.milestones, schedule.gamma) == ((50, 100, 150), 0.2)
    assert third.stage1.negatives == "smallest"
    three = third.stage2
    assert (three.tau_on, three.weighted, three.tau2, three.lambd) == ("teacher", True, 1, 1)
    cub = parse(LEAST | {"protocol": "legacy-2022", "dataset": "cub200"})
    assert cub.stage2 == three.model_copy(update={"lambd": 10})
    given = {"protocol": "legacy-2020", "stage2": {"epochs": 20, "gamma": 0.3}}
    stage2 = parse(LEAST | given).stage2
    assert (stage2.milestones, stage2.gamma, stage2.centers) == ((10, 14), 0.3, "local")


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"optimizer": {"batch_size": 64}}, "optimizer.batch_size=64"),
        ({"training": {"epochs": 20}}, "training.epochs=20"),
        ({"training": {"milestones": [9]}}, "training.milestones=[9]"),
        ({"methods": ["plain"], "stage1": {"tau1": 1}}, ""),
        ({"stage1": {"relation": "triplet"}}, "stage1.relation=triplet"),
        ({"stage1": {"relation": "triplet"}, "methods": ["refilled-one-negative"]}, ""),
        ({"teacher": NETWORK | {"dropout": 0.0}}, "wrn-40-2.dropout=0.0"),
        ({"teacher_batch_size": 64}, "teacher_batch_size=64"),
        ({"methods": ["kd"], "kd": {"temperature": 1}}, "kd.temperature=1.0"),
        ({"methods": ["plain"], "kd": {"temperature": 1}}, ""),
        ({"teacher_checkpoint": 64 * "a"}, f"teacher_checkpoint={12 * 'a'}"),
        ({"tuned": {"kd": {"settings": {"kd": {"alpha": 0.5}}}}}, "tuned=kd"),
        ({"seeds": [5], "claims": ["kd > plain"]}, ""),
    ],
)
def test_what_contradicts_the_release_is_in_the_label(
    changes: dict[str, Any], differs: str
) -> None:
    released = parse(LEAST | changes | {"protocol": "legacy-2020"})
    assert released.protocol_label == (f"legacy-2020({differs})" if differs else "legacy-2020")
    assert parse(LEAST | changes).protocol_label == "strict", "which is no release"


def test_overrides(raw: dict[str, Any]) -> None:
    before = json.dumps(raw)
    assignments = [
        "students.0.width=4",
        "protocol.selection=last",
        "stage2.lambd=1",
        "kd.alpha=0.5",
    ]
    assignments += ["seeds=[7, 8]", "description=a=b", "stage2.lambd=50"]
    experiment = parse(apply_overrides(raw, assignments))
    assert [s.label for s in experiment.students] == ["wrn-16-4", "wrn-16-1", "wrn-10-1"]
    assert experiment.protocol_label == "strict(selection=last)"
    assert (experiment.stage2.lambd, experiment.kd.alpha) == (50, 0.5), "the last one wins"
    assert experiment.seeds == (7, 8) and experiment.description == "a=b"
    assert json.dumps(raw) == before


# Assignment -> the closest name, the beginning of the names that are allowed, or the remedy.
UNKNOWN = {
    "nmae=x": "'name'",
    "stage2.lamdb=5": "'lambd'",
    "stage1.xyz=5": "epochs, final_lr_ratio, lr, margin",
    "students.1.widht=2": "'width'",
    "teacher.ca=0.5": "depth, dropout, final_bn_momentum, network, weights, width",
    "dataset.validations=9": "'validation'",
    "protocol.selecton=last": "'selection'",
    "optimizer.lr=0.1": "momentum, name, nesterov",
    "dataset.name=digit": "'digits'",
    "teacher.network=wide_resnte": "'wide_resnet'",
    "teacher.network=resnet8x4": "write `{network: repdistiller, name: resnet8x4}`",
    "methods=[plain, refiled]": "'refilled'",
    "protocol=strikt": "'strict'",
    "protocol.selection=best": "'validation', 'last' or 'test'",
    "stage1.relation=tuples": "'tuple', 'triplet' or 'one-negative'",
    "optimizer.precision=float16": "'float32' or 'bfloat16'",
    "claims=null": "write `claims: [..]` (given: null)",
    "secondary_claims=3": "write `secondary_claims: [3]`",
    "methods=kd": "write `methods: [kd]`",
    "seeds={}": "write `seeds: [..]`",
    "seeds=[]": "list at least 1",
    "stage2=[1]": "write `stage2: {KEY: VALUE}`",
}
# Field -> values that it refuses.
WRONG_VALUES = {
    "name": ["null", "My Grid"],
    "dataset": ["null"],
    "dataset.validation": ["0"],
    "dataset.split_seed": ["4294967295"],
    "network": ["5", "[wide_resnet]"],
    "teacher": ["null"],
    "teacher.depth": ["17", "3"],
    "teacher.dropout": [".nan"],
    "students": ["[]"],
    "students.0": ["3"],
    "students.0.dropout": ["1"],
    "students.2.depth": ["12"],
    "methods": ["[kd, kd]", "[refilled, refilled-tuple]"],
    "seeds": ["[0, 1, 0]"],
    "protocol": ["[strict]", "{preset: legacy, select_by: loss}"],
    "optimizer.batch_size": ["1"],
    "optimizer.nesterov": ["maybe"],
    "training.milestones": ["[9, 5]"],
    "kd.alpha": ["1.5"],
    "stage1.tau1": ["0.01"],
    "stage2": ["{centers: local, weighted: true}"],
    "stage2.epochs": ["many", "20.5", "true", "0"],
    "stage2.lambd": ["{a: 1}", "", ".inf"],
    "stage2.lr": ["-0.1", ".nan"],
    "stage2.milestones": ["[5, 20]"],
}
# Assignment -> another field that is at fault.
WRONG_ELSEWHERE = {
    "network=vgg": "teacher.network",
    "protocol.preset=[strict]": "protocol",
    "protocol.train_on=train+validation": "protocol",
    "optimizer.momentum=0": "optimizer",
    "students.1.width=2": "students",
    "seeds=[a]": "seeds.0",
    "seeds=[-1]": "seeds.0",
    "stage2={1: 2}": "stage2.1",
    "stage2.lambd": "--set stage2.lambd",
    "=5": "--set =5",
    "stage2.lambd=[": "--set stage2.lambd",
    "stage1.tau1.x=2": "--set stage1.tau1.x",
    "seeds.5=1": "--set seeds.5",
    "students.x.width=1": "--set students.x.width",
}
REFUSED = [
    *((text, text.partition("=")[0], nearest) for text, nearest in UNKNOWN.items()),
    *((f"{field}={v}", field, "") for field, values in WRONG_VALUES.items() for v in values),
    *((assignment, field, "") for assignment, field in WRONG_ELSEWHERE.items()),
]


@pytest.mark.parametrize(("assignment", "field", "nearest"), REFUSED, ids=[r[0] for r in REFUSED])
def test_a_refusal_names_the_field(
    assignment: str, field: str, nearest: str, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "x.yaml").write_text(TEXT)
    message = refusal(
        capsys, "plan", str(tmp_path / "x.yaml"), "--no-estimate", "--set", assignment
    )
    assert message.startswith(f"error: {field}: ") and nearest in message


def test_a_misspelt_key_is_unknown_not_missing(raw: dict[str, Any]) -> None:
    misspelt = {"nmae": "name", "datasets": "dataset", "teachers": "teacher", "student": "students"}
    for typo, right in misspelt.items():
        changed = {typo if key == right else key: value for key, value in raw.items()}
        assert parse_error(changed).startswith(f"{typo}: ") and repr(right) in parse_error(changed)
        assert parse_error({k: v for k, v in raw.items() if k != right}).startswith(f"{right}: ")
    message = parse_error(raw | {"teacher": {"detph": 16, "width": 2}})
    assert message.startswith("teacher.detph: ") and "'depth'" in message


@pytest.mark.parametrize("value", [None, [1], "text", 5])
def test_an_experiment_is_a_mapping(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the file: "):
        parse(value, "the file")
    (tmp_path / "x.yaml").write_text("" if value is None else json.dumps(value))
    with pytest.raises(UserError, match=rf"^{tmp_path / 'x.yaml'}: "):
        read(tmp_path / "x.yaml")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").touch()
    with pytest.raises(UserError, match=rf"did you mean {tmp_path / 'digits.yaml'}\?$"):
        read(tmp_path / "digit.yaml")
    for path in (tmp_path / "unlike-anything.yaml", tmp_path / "no-folder/digits.yaml"):
        with pytest.raises(UserError, match=rf"^{path}: no such experiment file"):
            read(path)


def test_published_numbers_are_read_with_the_experiment(tmp_path: Path) -> None:
    path, published = tmp_path / "x.yaml", tmp_path / "x.csv"
    path.write_text(TEXT + "published: x.csv\n")
    for text in (None, "source,row\n"):
        if text:
            published.write_text(text)
        with pytest.raises(UserError, match=rf"^published: .*{published}"):
            read(path)
    published.write_text("source,row,metric,protocol,wrn-16-2\n")
    assert read(path).published == "x.csv"
