"""Networks that start from the weights in a file: what is loaded, identified and refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import TINY, Output, one_error_line, weights, write_experiment
from training import Grid, go

from harness.cli import main
from harness.data import load
from harness.experiment.file import parse, read
from harness.networks import build
from harness.plan import make_plan
from harness.store import Store
from harness.store.manifest import CellOptions
from harness.train.exit_status import DONE, WRONG_INPUT

RAW: dict[str, Any] = TINY | {
    "methods": ["plain", "refilled"],
    "training": {"epochs": 1, "lr": 1e-9},
    "stage1": {"epochs": 1, "lr": 1e-9},
    "stage2": {"epochs": 1},
    "students": [{"depth": 10, "width": 2}],
}
State = dict[str, torch.Tensor]


def write_weights(path: Path, width: int = 1, change: Callable[[State], object] = id) -> Path:
    """Weights of a network of other classes: a training elsewhere."""
    torch.manual_seed(5)
    state = build("wide_resnet", 1000, depth=10, width=width).state_dict()
    change(state)
    torch.save({"state_dict": state}, path)
    return path


def with_file(file: Path | str) -> dict[str, Any]:
    return RAW | {"teacher": {"depth": 10, "width": 1, "weights": str(file)}}


def test_a_training_starts_from_the_file_except_its_last_layer(tmp_path: Path) -> None:
    file = write_weights(tmp_path / "imagenet.pt")
    experiment = parse(with_file(file) | {"optimizer": {"weight_decay": 0}})
    grid = Grid(make_plan(experiment, load(experiment.dataset)), Store(tmp_path / "runs"))
    grid.store.create()
    options = CellOptions.on_this_machine(experiment)
    start = torch.load(file, weights_only=True)["state_dict"]
    for entry in grid.plan.entries[:2]:  # teacher and plain student
        directory = grid.store.prepare(grid.plan.cells[entry.fingerprint], options)
        assert go(directory) == DONE
        trained = weights(directory)
        assert trained["fc.weight"].shape[0] == 10
        name = "layer3.0.conv1.weight"
        is_equal = trained[name].shape == start[name].shape and torch.allclose(
            trained[name], start[name], atol=1e-6
        )
        assert is_equal == (entry.stage == "teacher"), "the student has no file"


def test_a_fingerprint_has_the_content_and_no_place(tmp_path: Path) -> None:
    dataset = load(parse(RAW).dataset)

    def cells(file: Path | None) -> list[str]:
        return [*make_plan(parse(RAW if file is None else with_file(file)), dataset).cells]

    file = write_weights(tmp_path / "a.pt")
    moved = Path(shutil.copy(file, tmp_path / "b.pt"))
    other = write_weights(tmp_path / "c.pt", change=lambda s: s["bn.bias"].add_(1))
    assert cells(file) == cells(moved)
    assert not {*cells(file)} & {*cells(other)} - {*cells(None)}
    experiment = parse(with_file(file))
    assert str(tmp_path) not in experiment.model_dump_json()
    assert parse(with_file(experiment.model_dump()["teacher"]["weights"])).grid == (experiment.grid)
    assert '"weights"' not in parse(RAW).model_dump_json()
    labels = [parse(r | {"protocol": "legacy"}).protocol_label for r in (RAW, with_file(file))]
    assert "weights=" not in labels[0] and "wrn-10-1.weights=" in labels[1]


@pytest.mark.parametrize(
    ("field", "spelling"),
    [("network", "weights"), ("teacher", "weights"), ("students", "pretrained")],
)
def test_a_path_is_relative_to_the_experiment_file(
    tmp_path: Path, field: str, spelling: str
) -> None:
    (tmp_path / "weights").mkdir()
    file = write_weights(tmp_path / "weights" / "a.pt")
    given = {spelling: "weights/a.pt"}
    raw = yaml.safe_load(yaml.safe_dump(RAW))
    raw[field] = [raw[field][0] | given] if field == "students" else raw[field] | given
    experiment = read(write_experiment(tmp_path / "x.yaml", raw))
    found = experiment.students[0] if field == "students" else experiment.teacher
    assert found.weights is not None
    assert CellOptions.on_this_machine(experiment).pretrained == {found.weights.sha256: str(file)}


REFUSED: dict[str, Callable[[Path], object]] = {
    "cannot read": lambda path: path.unlink(),
    "a web page": lambda path: path.write_text("<html>"),
    "layer1.0.conv1.weight: expected (16, 16, 3, 3), found (32": lambda p: write_weights(p, 2),
    "bn.bias: expected (64,), found nothing": lambda p: write_weights(
        p, change=lambda s: s.pop("bn.bias")
    ),
    "more.weight: expected nothing": lambda p: write_weights(
        p, change=lambda s: s.update({"more.weight": torch.zeros(1)})
    ),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_another_file_is_refused_before_anything_trains(
    tmp_path: Path, capsys: Output, problem: str
) -> None:
    path = write_weights(tmp_path / "a.pt")
    file = write_experiment(tmp_path / "x.yaml", with_file(path))
    REFUSED[problem](path)
    store = tmp_path / "runs"
    assert main(["run", str(file), "--store", str(store), "--device", "cpu", "--no-bar"]) == 2
    error = one_error_line(capsys.readouterr().err)
    assert "teacher.weights: " in error and problem in error
    assert not [*store.glob("*/journal.jsonl")]


def test_a_file_that_a_worker_does_not_find(tmp_path: Path) -> None:
    """On another machine, or changed since the run has begun."""
    path = write_weights(tmp_path / "a.pt")
    experiment = parse(with_file(path))
    grid = Grid(make_plan(experiment, load(experiment.dataset)), Store(tmp_path / "runs"))
    grid.store.create()
    options = CellOptions.on_this_machine(experiment)
    write_weights(path, change=lambda s: s["bn.bias"].add_(1))
    for given, problem in (
        (options.model_copy(update={"pretrained": {}}), "is not on this machine"),
        (options, "has changed"),
    ):
        cell = grid.plan.cells[grid.plan.entries[0].fingerprint]
        directory = grid.store.prepare(cell, given)
        assert go(directory) == WRONG_INPUT
        assert problem in directory.events()[-1]["error"]
