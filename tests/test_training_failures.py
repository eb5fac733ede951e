"""Cells that cannot be trained: one line, and nothing lost."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import epochs_of
from training import (
    RAW,
    VERSION,
    Grid,
    StopAfter,
    assert_same_result,
    copy_without,
    failure,
    go,
    tiny,
)

from harness.data import load
from harness.data.views import join_validation
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.plan import make_plan
from harness.store import CellDir
from harness.store.manifest import CellOptions
from harness.train.cell import run_cell
from harness.train.checkpoint import to_bytes
from harness.train.exit_status import DONE, FAILED, STOPPED, WRONG_INPUT

# Failures


def test_divergence_is_a_failure_without_nan(tmp_path: Path) -> None:
    directory = tiny(tmp_path, "training.lr=1e12").directory("supervised")
    assert go(directory) == FAILED
    assert "loss/ce is" in failure(directory)
    assert "lower the learning rate" in failure(directory)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in the journal")

    for line in (directory / "journal.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_other_data_are_refused(trained: Grid, tmp_path: Path) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    description = directory.cell.as_json()
    description["spec"]["data"]["digest"] = "0" * 64
    (directory / "cell.json").write_text(json.dumps(description))
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith("dataset: digits on this machine is not the data")
    assert "plan again here with `harness run`" in failure(directory)


def test_moved_data_are_read_where_they_lie_now(trained: Grid, tmp_path: Path) -> None:
    """options.json may differ from the cell's own options, but the images must be the same."""
    grid, directory = copy_without(trained, "supervised", tmp_path)
    options = grid.plan.experiment.dataset.model_dump(mode="json")
    grid.store.prepare(grid.cell("supervised"), CellOptions(dataset=options | {"split_seed": 1}))
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith("dataset: digits on this machine is not the data")
    grid.store.prepare(grid.cell("supervised"), CellOptions(dataset=options))
    assert go(directory) == DONE
    assert_same_result(directory, trained.directory("supervised"))


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [("stage1", "tau1", 0.01), ("stage1", "relation", "pair"), ("stage2", "tau_on", "student")],
)
def test_a_setting_that_the_method_refuses(
    trained: Grid, tmp_path: Path, kind: str, setting: str, value: Any
) -> None:
    """Wrong input, in one line that names it. An experiment file cannot say it, a cell.json can."""
    _, directory = copy_without(trained, kind, tmp_path)
    description = directory.cell.as_json()
    description["spec"][kind][setting] = value
    (directory / "cell.json").write_text(json.dumps(description))
    assert go(directory) == WRONG_INPUT
    assert f"cell.json is wrong: {kind}.{setting}: " in failure(directory)


def test_unknown_device_is_refused(tmp_path: Path) -> None:
    directory = tiny(tmp_path).directory("supervised")
    assert run_cell(directory, "gpu", 1, VERSION, lambda: False) == WRONG_INPUT
    assert failure(directory).startswith("--device: unknown 'gpu'")


def test_missing_upstream_is_refused(tmp_path: Path) -> None:
    grid = tiny(tmp_path)
    directory = grid.directory("kd")
    assert go(directory) == WRONG_INPUT
    teacher = grid.directory("supervised").path.name
    assert failure(directory) == f"upstream: {teacher} is not finished; train it first"


@pytest.mark.parametrize("kind", ["stage2", "supervised"])
def test_broken_files_are_refused(trained: Grid, tmp_path: Path, kind: str) -> None:
    """A model that the cell starts from, or its own checkpoint."""
    grid, directory = copy_without(trained, kind, tmp_path)
    path = grid.directory("stage1") / "model.pt"
    if kind == "supervised":
        assert go(directory, StopAfter(7)) == STOPPED
        path = directory / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert go(directory) == WRONG_INPUT
    assert str(path) in failure(directory)
    assert f"`harness repair {path.parent.name} " in failure(directory)
    assert epochs_of(directory) == ([1] if kind == "supervised" else [])


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def hostile_files(marker: Path) -> dict[str, bytes]:
    plain = pickle.dumps(Hostile(marker), protocol=2)  # that of torch.save
    pickle.loads(plain)
    assert marker.exists(), "the attack itself must work"
    marker.unlink()
    return {"pickle": plain, "zip": to_bytes({"state_dict": Hostile(marker)})}


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_hostile_checkpoint_runs_nothing(trained: Grid, tmp_path: Path, form: str) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    directory.write_checkpoint(hostile_files(tmp_path / "marker")[form])
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith(f"checkpoint: {directory / 'checkpoint.pt'} cannot be")
    assert not (tmp_path / "marker").exists()


def replace_model(directory: CellDir, data: bytes) -> None:
    """With the manifest's digest, as an attacker would."""
    (directory / "model.pt").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    directory.finish(directory.manifest.model_copy(update={"model_sha256": digest}))


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_hostile_teacher_runs_nothing(trained: Grid, tmp_path: Path, form: str) -> None:
    grid, directory = copy_without(trained, "kd", tmp_path)
    replace_model(grid.directory("supervised"), hostile_files(tmp_path / "marker")[form])
    assert go(directory) == WRONG_INPUT
    assert "cannot be read" in failure(directory)
    assert not (tmp_path / "marker").exists()


OTHER_SHAPES = {"state_dict": {"fc.weight": torch.zeros(3, 3)}}


@pytest.mark.parametrize("content", [OTHER_SHAPES, {"weights": {}}, {"state_dict": [1, 2]}, [1, 2]])
def test_model_that_does_not_fit_is_refused(trained: Grid, tmp_path: Path, content: Any) -> None:
    grid, directory = copy_without(trained, "kd", tmp_path)
    replace_model(grid.directory("supervised"), to_bytes(content))
    assert go(directory) == WRONG_INPUT
    assert "model.pt does not fit the network" in failure(directory)


def test_any_other_error_is_one_line_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("for a test")

    monkeypatch.setattr("harness.train.data_request.load", broken)
    directory = tiny(tmp_path).directory("supervised")
    assert go(directory) == FAILED
    assert failure(directory) == "ZeroDivisionError: for a test"
    assert "Traceback" in capsys.readouterr().err


def test_joined_data_are_those_of_the_plan() -> None:
    """The digest is that of the data before the parts are joined: one plan, one digest."""
    experiment = parse(apply_overrides(RAW, ["protocol=legacy"]))
    dataset = load(experiment.dataset)
    cell = next(iter(make_plan(experiment, dataset).cells.values()))
    assert cell.config.data.digest == dataset.digest != join_validation(dataset).digest
