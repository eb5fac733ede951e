"""Experiment files that extend one another."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, wrong

from harness.cli import main
from harness.experiment.file import read
from harness.experiment.sources import joined, read_raw
from harness.tune.tuning_file import read_tuning

BASE: dict[str, Any] = {
    "name": "base",
    "dataset": {"name": "digits", "validation": 297},
    "network": {"network": "wide_resnet", "dropout": 0.0},
    "teacher": {"depth": 16, "width": 1},
    "students": [{"depth": 10, "width": 1}, {"depth": 16, "width": 1}],
    "methods": ["plain", "kd"],
    "kd": {"temperature": 3, "alpha": 0.5},
    "protocol": "strict",
    "seeds": [1, 2],
    "secondary_claims": ["kd > plain"],
}


def write(path: Path, **fields: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base.yaml", **BASE)


@pytest.mark.parametrize(
    ("under", "over", "expected"),
    [
        ({"seeds": [1, 2]}, {"seeds": [3]}, {"seeds": [3]}),
        ({"kd": {"alpha": 1, "temperature": 2}}, {"kd": {"alpha": 0.5}}, None),
        ({"kd": {"alpha": 1}}, {"kd": None}, {}),
        ({"tasks": {"order": [1]}}, {"tasks": {"order": None}}, {"tasks": {}}),
        (
            {"protocol": "strict"},
            {"protocol": {"ties": "first"}},
            {"protocol": {"preset": "strict", "ties": "first"}},
        ),
        (
            {"protocol": {"preset": "strict", "ties": "first"}},
            {"protocol": {"preset": "legacy-2021"}},
            {"protocol": {"preset": "legacy-2021"}},
        ),
        (
            {"teacher": {"depth": 16, "width": 2}},
            {"teacher": {"network": "mobile_net", "ca": 1}},
            {"teacher": {"network": "mobile_net", "ca": 1}},
        ),
        ({"dataset": {"name": "digits", "test": 9}}, {"dataset": "cub200"}, {"dataset": "cub200"}),
    ],
)
def test_values_override(under: Any, over: Any, expected: Any) -> None:
    """None: the second case, mappings joined key by key."""
    found = joined(under, over)
    assert found == (expected if expected is not None else {"kd": {"alpha": 0.5, "temperature": 2}})


def test_a_chain_of_files(base: Path) -> None:
    middle = write(base.with_name("middle.yaml"), name="middle", extends="base.yaml", seeds=[7])
    last = write(
        base.parent / "sub" / "last.yaml",
        name="last",
        extends="../middle.yaml",
        kd={"alpha": 0.9},
        students=[{"depth": 10, "width": 2}],
    )
    found, whole = read(last, ["kd.temperature=4"]), read(base)
    assert found.name == "last" and found.seeds == (7,)
    assert [network.label for network in found.students] == ["wrn-10-2"]
    assert (found.kd.alpha, found.kd.temperature) == (0.9, 4)
    assert found.dataset == whole.dataset and found.teacher == whole.teacher
    assert read(middle).model_copy(update={"name": "base", "seeds": (1, 2)}) == whole


def test_paths_are_those_of_the_file_that_has_them(tmp_path: Path) -> None:
    data = {"name": "folder", "path": "images", "label": "mine"}
    order = {"classes": 2, "order": "order.yaml"}
    fields = BASE | {"dataset": data, "tasks": order, "published": "published.csv"}
    write(tmp_path / "far" / "base.yaml", **fields)
    last = write(tmp_path / "near" / "last.yaml", name="last", extends="../far/base.yaml")
    raw = read_raw(last)
    assert Path(raw["dataset"]["path"]).resolve() == tmp_path / "far" / "images"
    assert raw["tasks"]["order"] == "../far/order.yaml"
    assert raw["published"] == "../far/published.csv"
    write(tmp_path / "near" / "own.yaml", **fields | {"extends": "../far/base.yaml"})
    assert read_raw(tmp_path / "near" / "own.yaml")["published"] == "published.csv"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "x", "extends": "last.yaml"}, ["last.yaml: extends: "]),
        ({"name": "x", "extends": ["base.yaml"]}, ["last.yaml: extends: "]),
        ({"name": "x", "extends": "bse.yaml"}, ["bse.yaml", "base.yaml"]),
        ({"extends": "base.yaml"}, ["last.yaml: name: "]),
        ({"name": "x", "extends": "base.yaml", "sedes": [1]}, ["sedes", "'seeds'"]),
        ({"name": "x", "extends": "base.yaml", "teacher": None}, ["teacher: missing"]),
    ],
)
def test_what_cannot_be_extended(base: Path, fields: dict[str, Any], words: list[str]) -> None:
    last = write(base.with_name("last.yaml"), **fields)
    line = wrong(lambda: read(last))
    assert all(word in line for word in words), line


def test_a_circle(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        write(tmp_path / f"{name}.yaml", name=name, extends=f"{other}.yaml")
    assert "b.yaml: extends: " in wrong(lambda: read(tmp_path / "a.yaml"))


def test_the_plan_says_it(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = write(base.with_name("last.yaml"), name="last", extends="base.yaml", seeds=[7])
    store = str(base.with_name("runs"))
    assert main(["plan", str(last), "--no-estimate", "--store", store]) == 0
    assert capsys.readouterr().out.startswith(f"{last} extends {base}\n")


def test_an_extending_experiment_can_be_tuned(base: Path) -> None:
    write(
        base.with_name("last.yaml"),
        name="last",
        extends="base.yaml",
        students=[{"depth": 10, "width": 1}],
    )
    file = write(
        base.with_name("tuning.yaml"),
        name="tuned",
        experiment="last.yaml",
        methods={"kd": {"kd.alpha": [0.1, 0.9]}},
        untuned=["plain"],
        trials_per_parameter=2,
        trial_seed=1000,
        fresh_seeds=[1001],
    )
    tuning = read_tuning(file, [])
    assert tuning.base.students == read(base).students[:1]
    assert "extends" not in tuning.raw and tuning.raw["dataset"] == BASE["dataset"]


def test_the_projects_own_files_extend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    own, shared = (read(Path(f"experiments/digits_{n}_weights.yaml")) for n in ("own", "shared"))
    assert own.protocol.initial_weights == "own" and shared.protocol.initial_weights == "shared"
    assert own.students == shared.students and own.name != shared.name
