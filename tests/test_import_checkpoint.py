"""Published checkpoints become teachers; hostile or wrong files are refused and run nothing."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.execute.scheduler import begin
from harness.import_checkpoint import import_checkpoint, infer_network
from harness.networks import build
from harness.run.grid import plan_of
from harness.spec.experiment import Experiment
from harness.spec.file import parse
from harness.store import Store

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "digits", "validation": 100, "test": 1400},
    "network": "wide_resnet",
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["kd"],
    "training": {"epochs": 1},
}


def experiment(**fields: Any) -> Experiment:
    return parse({**TINY, **fields})


def published(path: Path, **changes: Any) -> Path:
    """A file of the releases' format."""
    torch.manual_seed(0)
    state = build("wide_resnet", 10, depth=10, width=2).state_dict()
    content = {"state_dict": state, "validating_accuracy": np.float64(0.7644), "epoch": 193}
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide_resnet", {"depth": 16, "width": 2}),
        ("wide_resnet", {"depth": 40, "width": 1}),
        ("resnet", {"depth": 20}),
        ("mobile_net", {"ca": 0.75}),
    ],
)
def test_arguments_follow_from_shapes(name: str, options: dict[str, Any]) -> None:
    state = build(name, 10, **options).state_dict()
    assert infer_network(state) == {"network": name, **options}


def test_import_makes_a_teacher_that_an_experiment_uses(tmp_path: Path) -> None:
    text = import_checkpoint(published(tmp_path / "t.pth"), experiment(), tmp_path / "runs", "cpu")
    assert "depth: 10, width: 2" in text
    assert "claims 76.44 %" in text
    digest = text.rpartition("teacher_checkpoint: ")[2]

    used = experiment(teacher={"depth": 10, "width": 2}, teacher_checkpoint=digest, seeds=[0, 1])
    plan = plan_of(used)
    progress = begin(plan, Store(tmp_path / "runs"))
    assert [c.kind for c in plan.cells.values()].count("imported") == 1, "one cell for all seeds"
    assert progress.count("done") == 1
    manifest = progress.directory(next(iter(progress.cached_cells))).manifest
    assert f"{100 * manifest['results']['accuracy']['last']:.2f} % on test" in text


def test_import_twice_is_one_cell(tmp_path: Path) -> None:
    file = published(tmp_path / "t.pth")
    first = import_checkpoint(file, experiment(), tmp_path / "runs", "cpu")
    assert import_checkpoint(file, experiment(), tmp_path / "runs", "cpu") == first
    assert len(Store(tmp_path / "runs").all()) == 1


def test_a_teacher_that_was_not_imported_is_refused(tmp_path: Path) -> None:
    plan = plan_of(experiment(teacher_checkpoint="0" * 64))
    with pytest.raises(UserError, match=r"teacher_checkpoint: 0+\.\.\. is not in .*import"):
        begin(plan, Store(tmp_path))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch PWNED",))


@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if container == "torch":
        published(tmp_path / "t.pth", note=Hostile())
    else:
        (tmp_path / "t.pth").write_bytes(pickle.dumps({"state_dict": Hostile()}))
    with pytest.raises(UserError, match=r"FILE: .*refused"):
        import_checkpoint(tmp_path / "t.pth", experiment(), tmp_path / "runs", "cpu")
    assert not (tmp_path / "PWNED").exists()
    assert not (tmp_path / "runs").exists()


def missing_key(state: dict[str, Any]) -> None:
    del state["layer2.0.conv1.weight"]


def extra_key(state: dict[str, Any]) -> None:
    state["layer2.0.conv3.weight"] = torch.zeros(1)


def wrong_shape(state: dict[str, Any]) -> None:
    state["layer2.0.conv1.bias"] = torch.zeros(7)


def other_classes(state: dict[str, Any]) -> None:
    state["fc.weight"] = torch.zeros(100, 128)


def foreign(state: dict[str, Any]) -> None:
    state.clear()
    state["encoder.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing_key, "layer2.0.conv1.weight: expected .* found nothing"),
        (extra_key, "layer2.0.conv3.weight: expected nothing"),
        (wrong_shape, r"layer2.0.conv1.bias: expected \(64,\) .* found \(7,\)"),
        (other_classes, "it has 100 classes, the experiment's data set 10"),
        (foreign, "those of no network"),
    ],
)
def test_every_name_and_shape_is_checked(tmp_path: Path, change: Any, message: str) -> None:
    state = dict(build("wide_resnet", 10, depth=10, width=2).state_dict())
    change(state)
    file = published(tmp_path / "t.pth", state_dict=state)
    with pytest.raises(UserError, match=message):
        import_checkpoint(file, experiment(), tmp_path / "runs", "cpu")
    assert not (tmp_path / "runs").exists()


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "t.pth")
    with pytest.raises(UserError, match="no `state_dict`"):
        import_checkpoint(tmp_path / "t.pth", experiment(), tmp_path / "runs", "cpu")
    with pytest.raises(UserError, match="no such checkpoint"):
        import_checkpoint(tmp_path / "none.pth", experiment(), tmp_path / "runs", "cpu")
