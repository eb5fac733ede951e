"""The predictions that a cell keeps for its test images, and how they get into a bundle."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import BUNDLE, FILE, exported
from helpers import TINY, Output, cells, epochs_of, refusal

import harness.analysis.export
import harness.train.cell
from harness.analysis.bundle import read_bundle
from harness.analysis.export import read_predictions
from harness.analysis.figures import drawable
from harness.analysis.figures.confusion import OLD_CELLS, confusion_matrix
from harness.cli import main
from harness.data import load
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.plan import make_plan
from harness.store import CellDir, Store
from harness.train.cell import run_cell
from harness.train.exit_status import DONE
from harness.train.methods.base import Classifier
from harness.train.predictions import predict_again

VERSION = {"commit": "0" * 40, "dirty": False}


@pytest.fixture(autouse=True, scope="module")
def settings_of_torch() -> Iterator[None]:
    """run_cell is made for a process of its own: it changes them."""
    yield
    torch.use_deterministic_algorithms(False)


def plain_cell(root: Path, *assignments: str, with_test: bool = True) -> CellDir:
    """A plain student, not trained yet."""
    experiment = parse(apply_overrides(TINY | {"methods": ["plain"]}, list(assignments)))
    (cell,) = make_plan(experiment, load(experiment.dataset, with_test)).cells.values()
    store = Store(root / "runs")
    store.create()
    return store.prepare(cell)


def go(directory: CellDir) -> int:
    return run_cell(directory, "cpu", 1, VERSION, lambda: False)


def accuracy_of(directory: CellDir) -> float:
    """Return the accuracy of the predictions that the cell kept."""
    found = read_predictions(directory)
    return float((found["labels"] == found["predictions"]).mean())


@pytest.mark.parametrize("kind", ["supervised", "kd", "stage2"])
def test_predictions_have_the_reported_accuracy(finished: Path, kind: str) -> None:
    cell = cells(finished)[kind]
    found = read_predictions(cell)
    results = cell.manifest.results["accuracy"]
    assert accuracy_of(cell) == pytest.approx(results["selected"], abs=1e-12)
    assert found["labels"].dtype == found["predictions"].dtype == np.uint8
    assert found["class_names"].tolist() == [str(i) for i in range(10)]
    test = load(parse(TINY).dataset).test
    np.testing.assert_array_equal(found["labels"], test.labels)


@pytest.mark.parametrize(
    ("protocol", "epoch", "form"),
    [
        ("protocol=strict", 1, "selected"),
        ("protocol=legacy", 2, "best_on_test"),
        ("protocol.selection=last", 3, "last"),
    ],
)
def test_predictions_are_those_of_the_selected_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, epoch: int, form: str
) -> None:
    """Validation says epoch 1, the test set (here: told to) epoch 2."""
    real = Classifier.evaluate
    measured = []

    def evaluate(self: Classifier, model: Any, epoch: int) -> dict[str, float]:
        result = real(self, model, epoch) or {}
        measured.append(result["test/accuracy"])
        if "legacy" in protocol:
            result["test/accuracy"] = [0.1, 0.9, 0.1][epoch]
        return result | {"validation/accuracy": [0.9, 0.1, 0.1][epoch]}

    monkeypatch.setattr(Classifier, "evaluate", evaluate)
    directory = plain_cell(tmp_path, protocol, "training.epochs=3")
    assert go(directory) == DONE
    assert directory.manifest.selected_epoch == epoch
    assert len(set(measured)) == 3, "equal accuracies would hide the wrong epoch"
    assert accuracy_of(directory) == pytest.approx(measured[epoch - 1], abs=1e-12)
    if "legacy" not in protocol:
        assert directory.manifest.results["accuracy"][form] == measured[epoch - 1]


def test_without_test_images_there_are_none(tmp_path: Path) -> None:
    directory = plain_cell(tmp_path, with_test=False)
    assert go(directory) == DONE
    assert not (directory / "predictions.npz").exists()
    assert read_predictions(directory) is None


def test_stage_1_has_those_of_the_nearest_class_mean(finished_copy: Path) -> None:
    """They are the protocol's NCM accuracy, and can be made again from the model."""
    cell = cells(finished_copy)["stage1"]
    expected = cell.manifest.results["ncm_train_centers"]["selected"]
    assert accuracy_of(cell) == pytest.approx(expected, abs=1e-12)
    content = (cell / "predictions.npz").read_bytes()
    (cell / "predictions.npz").unlink()
    predict_again(cell)
    assert (cell / "predictions.npz").read_bytes() == content


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_the_predictions_is_harmless(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Killed(BaseException):
        pass

    real = harness.train.cell.write_atomically

    def write(path: Path, data: bytes) -> None:
        if when == "after" or path.name != "predictions.npz":
            real(path, data)
        if path.name == "predictions.npz":
            raise Killed

    directory = plain_cell(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(harness.train.cell, "write_atomically", write)
        go(directory)
    assert not directory.is_done
    assert (directory / "predictions.npz").exists() == (when == "after")
    lines = directory.epochs()
    assert go(directory) == DONE
    assert directory.epochs() == lines and epochs_of(directory) == [1, 2], "trained again"
    undisturbed = cells(finished)["supervised"]
    for name in ("results", "selected_epoch"):
        assert getattr(directory.manifest, name) == getattr(undisturbed.manifest, name)
    content = (directory / "predictions.npz").read_bytes()
    assert content == (undisturbed / "predictions.npz").read_bytes()


# -- in a bundle -----------------------------------------------------------------------------------


def test_the_bundle_has_the_journals_curves(finished: Path) -> None:
    bundle = read_bundle(BUNDLE, exported(finished))
    for kind in ("supervised", "kd", "stage1", "stage2"):
        cell = cells(finished)[kind]
        (curves,) = (c for f, c in bundle.curves.items() if f.startswith(cell.path.name))
        lines = cell.epochs()
        assert len(lines) == 2
        for name in ("loss/total", "train/accuracy", "validation/accuracy", "test/accuracy"):
            if kind == "stage1" and name != "loss/total":
                assert name not in curves
                continue
            assert curves[name] == pytest.approx([line[name] for line in lines], rel=5e-6)
    (stage1,) = (c for c in bundle.curves.values() if "validation/ncm_train_centers" in c)
    value = cells(finished)["stage1"].epochs()[-1]["validation/ncm_train_centers"]
    assert stage1["validation/ncm_train_centers"] == [None, pytest.approx(value, rel=5e-6)]


def test_rows_of_the_matrix_are_the_test_images(finished: Path) -> None:
    bundle = read_bundle(BUNDLE, exported(finished))
    matrix = confusion_matrix(bundle)
    assert matrix is not None and matrix.n == 1
    test = load(parse(TINY).dataset).test
    assert matrix.counts.sum(1).tolist() == np.bincount(test.labels).tolist()
    accuracy = cells(finished)["stage2"].manifest.results["accuracy"]["selected"]
    assert np.trace(matrix.counts) == round(1400 * accuracy)
    assert bundle.class_names == [str(i) for i in range(10)]


def test_too_many_names_are_left_out(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.analysis.export, "MOST_NAMES", 9)
    bundle = read_bundle(BUNDLE, exported(finished))
    assert bundle.class_names is None
    matrix = confusion_matrix(bundle)
    assert matrix is not None and matrix.counts.shape == (10, 10)


def test_cells_without_predictions_have_all_else(finished_copy: Path) -> None:
    """Trained before there were any."""
    for path in finished_copy.glob("runs/*/predictions.npz"):
        path.unlink()
    text = exported(finished_copy)
    bundle = read_bundle(BUNDLE, text)
    assert json.loads(text.splitlines()[0])["class_names"] is None
    names, left_out = drawable(bundle)
    assert names == ["accuracy", "curves-stage1", "curves-stage2", "ncm"]
    assert left_out == {"confusion": OLD_CELLS}


def test_broken_predictions_are_one_error_line(project_copy: Path, capsys: Output) -> None:
    path = cells(project_copy)["kd"] / "predictions.npz"
    whole = path.read_bytes()
    for broken in (
        b"",
        b"no archive",
        whole[: len(whole) // 2],
        whole.replace(b"labels", b"lapels"),
    ):
        path.write_bytes(broken)
        line = refusal(capsys, "tables", FILE, "--print")
        assert "predictions.npz" in line and "`harness repair " in line
    path.unlink()
    assert main(["tables", FILE, "--print"]) == 0
