"""Which epoch is selected, and the variants of a protocol."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Patch, weights
from torch import Tensor
from training import (
    CPU,
    KINDS,
    Grid,
    changed,
    config,
    copy_without,
    failure,
    go,
    same_state,
    tiny,
    train_all,
)

import harness.train.cell
import harness.train.initial
from harness.data import Dataset, ImageSet, load
from harness.data.batches import Images
from harness.data.small import DeviceImages
from harness.experiment.protocol import Protocol
from harness.methods.base import Section
from harness.methods.refilled import Stage1Settings
from harness.networks import build
from harness.plan import make_plan
from harness.train.checkpoint import copy_state, load_model
from harness.train.exit_status import DONE, STOPPED, WRONG_INPUT
from harness.train.loop import Best, scoring
from harness.train.methods.base import Classifier, Context, make_training
from harness.train.methods.stage1 import RelationMatching

ONCE = [f"{part}.epochs=1" for part in ("training", "stage1", "stage2")]

# Selection


@pytest.mark.parametrize(("ties", "epoch"), [("later", 4), ("first", 3)])  # first: the release
def test_best_of_equal_epochs(ties: Any, epoch: int) -> None:
    best = Best(ties=ties)
    updates = [best.update(v, e) for e, v in enumerate([0.3, None, 0.5, 0.5, 0.4], start=1)]
    assert updates == [True, False, True, epoch == 4, False]
    assert (best.value, best.epoch) == (0.5, epoch)
    assert Best().update(0.0, 1)


@pytest.mark.parametrize(
    ("epochs", "rhythm", "strict", "legacy"),
    [
        (12, 10, [10, 12], [10]),
        (20, 10, [10, 20], [10, 20]),
        (6, 10, [6], [6]),  # else there would be nothing to select
        (3, 1, [1, 2, 3], [1, 2, 3]),
    ],
)
def test_when_stage1_is_looked_at(
    epochs: int, rhythm: int, strict: list[int], legacy: list[int]
) -> None:
    settings = Stage1Settings(epochs=epochs, select_every=rhythm)
    for changes, expected in (({}, strict), ({"last_look": "rhythm"}, legacy)):
        context = Context(config(**changes), {"train": None}, 10, None, None)
        stage = RelationMatching(context, settings)
        assert [e for e in range(1, epochs + 1) if stage.is_measured(e)] == expected


def test_legacy_students_start_from_weights_of_their_own(tmp_path: Path) -> None:
    """And all of one seed from the same ones; strict students, from those of such a teacher."""
    slow = ["training.lr=1e-9", "stage1.lr=1e-9", "optimizer.weight_decay=0"]

    def weights_of(protocol: str) -> tuple[Tensor, ...]:
        grid = tiny(tmp_path / protocol, f"protocol={protocol}", *ONCE, *slow)
        entries = {e.stage: e.fingerprint for e in train_all(grid).plan.entries}
        return tuple(
            weights(grid.store.directory(entries[stage]))["conv1.weight"]
            for stage in ("teacher", "student", "kd", "stage1")
        )

    # PyTorch's 3x3 convolution of 3 channels to 16 is uniform in +- 1 / sqrt(27) = 0.192; Xavier's,
    # times sqrt(2), in +- sqrt(12 / (27 + 144)) = 0.265.
    for protocol, is_shared, bound in (
        ("strict", True, 0.192),
        ("legacy", False, 0.192),
        ("legacy-2020", False, 0.265),
    ):
        teacher, *students = weights_of(protocol)
        for drawn in (teacher, students[0]):
            assert 0.95 * bound < float(drawn.abs().max()) <= bound + 1e-3
        for student in students:
            torch.testing.assert_close(student, students[0], atol=1e-6, rtol=0)
            assert torch.allclose(student, teacher, atol=1e-6) == is_shared


def test_xavier_convolutions_have_no_bias_and_leave_the_last_layer() -> None:
    model = build("wide_resnet", 10, depth=10, width=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    harness.train.initial.draw_convolutions(model)
    for name, value in model.state_dict().items():
        is_conv = "conv" in name or "shortcut" in name
        assert torch.equal(value, before[name]) != is_conv, name
        assert not (is_conv and name.endswith("bias") and value.any())


VALIDATION = (0.1, 0.9, 0.9, 0.2)
TEST = (0.8, 0.8, 0.4, 0.2)
LOSS = (0.1, 0.3, 0.2, 0.1)  # of validation images


@pytest.mark.parametrize(
    ("protocol", "epoch", "reported"),
    [
        ("protocol=strict", 3, 0.4),
        ("protocol.ties=first", 2, 0.8),
        ("protocol=legacy", 1, 0.8),
        ("protocol={preset: legacy, ties: later}", 2, 0.8),
        ("protocol.selection=last", 4, 0.2),
        ("protocol.select_by=loss", 4, 0.2),
        ("protocol={preset: strict, select_by: loss, ties: first}", 1, 0.8),
    ],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_selection(
    tmp_path: Path, monkeypatch: Patch, protocol: str, epoch: int, reported: float, stopped: bool
) -> None:
    """With given accuracies. After a stop in epoch 4, what was selected before has to come back
    from the checkpoint."""
    states = {}

    def evaluate(self: Classifier, model: Any, epoch: int) -> dict[str, float]:
        states[epoch + 1] = copy_state(model)
        given = {"validation/accuracy": VALIDATION[epoch], "test/accuracy": TEST[epoch]}
        given["validation/loss"] = LOSS[epoch]
        return {k: v for k, v in given.items() if k.split("/")[0] in self.context.evaluated}

    monkeypatch.setattr(Classifier, "evaluate", evaluate)
    grid = tiny(tmp_path, protocol, "training.epochs=4")
    directory = grid.directory("supervised")
    if stopped:
        assert go(directory, lambda: len(directory.epochs()) == 3) == STOPPED
    assert go(directory) == DONE
    assert directory.manifest.selected_epoch == epoch
    assert same_state(weights(directory), states[epoch])
    results = directory.manifest.results["accuracy"]
    assert results == {"last": 0.2, "selected": reported, "best_on_test": 0.8}
    assert results[grid.plan.experiment.protocol.reported] == reported


def test_stage1_selects_among_the_epochs_it_evaluates(trained: Grid, tmp_path: Path) -> None:
    grid = tiny(tmp_path, "stage1.epochs=5", "stage1.select_every=2")
    shutil.copytree(
        trained.directory("supervised").path, grid.directory("supervised").path, dirs_exist_ok=True
    )
    directory = grid.directory("stage1")
    assert go(directory) == DONE
    key = "validation/ncm_train_centers"
    values = {line["epoch"]: line[key] for line in directory.epochs() if key in line}
    assert list(values) == [2, 4, 5]
    best = max(values.values())
    assert directory.manifest.selected_epoch == max(e for e, v in values.items() if v == best)


@pytest.mark.parametrize("kind", ["supervised", "stage2"])
def test_the_loss_of_validation_images_is_noted(trained: Grid, kind: str) -> None:
    directory, network = trained.directory(kind), trained.cell(kind).config.network
    dataset = load(trained.plan.experiment.dataset)
    model = load_model(directory / "model.pt", network).eval()
    images = DeviceImages(dataset, dataset.validation, CPU)
    with torch.no_grad():
        losses = [-model(b.x).log_softmax(1)[range(len(b.y)), b.y] for b in images.plain()]
    noted = directory.epochs()[directory.manifest.selected_epoch - 1]["validation/loss"]
    assert noted == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert not any("test/loss" in line for line in directory.epochs())


def test_an_epoch_without_a_finite_loss_is_the_worst() -> None:
    """Its line says nothing of it: there is no infinity in JSON."""
    score = scoring(Protocol(select_by="loss"), "accuracy")
    assert score({"validation/loss": 2.0}) == -2.0 and score({}) == -math.inf
    best = Best()
    assert [best.update(score(line), e) for e, line in enumerate([{}, {"validation/loss": 9}])]
    assert best.epoch == 1 and not best.update(score({}), 2)


@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0])
def test_a_loss_that_is_not_finite_is_not_noted(monkeypatch: Patch, value: float) -> None:
    logits = torch.zeros(4, 3)
    logits[1, 2] = value
    monkeypatch.setattr("harness.train.methods.base.logits_of", lambda *_: logits)
    images: Any = {"validation": SimpleNamespace(labels=torch.tensor([0, 1, 2, 0]))}
    context = Context(config(), {"train": None, **images}, 3, None, None)
    measured = Classifier(context, Section()).evaluate(None, 0)
    assert measured is not None and "validation/accuracy" in measured
    assert ("validation/loss" in measured) == math.isfinite(value)


def test_stage1_goes_by_ncm_accuracy_whatever_classifiers_go_by(tmp_path: Path) -> None:
    key = "validation/ncm_train_centers"
    score = scoring(Protocol(select_by="loss"), "ncm_train_centers")
    assert score is not None and score({key: 0.5, "validation/loss": 1.0}) == 0.5
    plain, by_loss = tiny(tmp_path), tiny(tmp_path, "protocol.select_by=loss")
    for kind in KINDS:
        found = by_loss.cell(kind).config.as_json()["protocol"].get("select_by")
        assert found == (None if kind == "stage1" else "loss")
        assert "select_by" not in plain.cell(kind).config.as_json()["protocol"]


# Protocols and variants


def test_legacy_trains_on_validation_images_too(tmp_path: Path) -> None:
    directory = tiny(tmp_path, "protocol=legacy", "training.epochs=1").directory("supervised")
    assert go(directory) == DONE
    data = directory.manifest.data
    assert (data["train"], data.get("validation"), data["test"]) == (397, None, 1400)
    assert not any("validation/accuracy" in line for line in directory.epochs())
    content = torch.load(directory / "model.pt", weights_only=True)
    assert content["validating_accuracy"] is None


def test_legacy_centers_come_from_augmented_images(trained: Grid) -> None:
    dataset = load(trained.plan.experiment.dataset)
    images = {"train": DeviceImages(dataset, dataset.train, CPU)}
    cell = trained.cell("stage2")
    teacher = load_model(
        trained.directory("supervised") / "model.pt", trained.cell("supervised").config.network, 10
    )

    def centers(center_images: str) -> Tensor:
        config = changed(cell, center_images=center_images).config
        return make_training("stage2", Context(config, images, 10, teacher, teacher)).centers

    plain, legacy = centers("plain"), centers("augmented")
    assert torch.equal(plain, centers("plain"))
    assert torch.equal(legacy, centers("augmented"))
    assert (plain - legacy).abs().max() > 1e-4
    torch.testing.assert_close(plain, legacy, atol=0.2, rtol=0)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("stage2", "stage2.centers=local"),
        ("stage2", "stage2.weighted=true"),
        ("stage2", "stage2.tau_on=teacher"),
        ("stage2", "protocol.center_images=augmented"),
        ("stage1", "stage1.relation=triplet"),
        ("stage1", "stage1.relation=one-negative"),
    ],
)
def test_variants_train_to_other_weights(
    trained: Grid, tmp_path: Path, kind: str, variant: str
) -> None:
    grid, _ = copy_without(trained, kind, tmp_path)
    other = tiny(grid.store.root, variant).directory(kind)
    assert go(other) == DONE
    assert not same_state(weights(other), weights(trained.directory(kind)))


def test_bfloat16(trained: Grid, tmp_path: Path) -> None:
    grid = train_all(tiny(tmp_path, "optimizer.precision=bfloat16", *ONCE))
    for kind in KINDS:
        state = weights(grid.directory(kind))
        assert all(v.dtype in (torch.float32, torch.int64) for v in state.values())
    loss, exact = (g.directory("supervised").epochs()[0]["loss/ce"] for g in (grid, trained))
    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.02)


def without_test(grid: Grid) -> Grid:
    """As `harness tune` plans: the cells' processes have no test set that they could read."""
    dataset = load(grid.plan.experiment.dataset, with_test=False)
    return Grid(make_plan(grid.plan.experiment, dataset), grid.store)


def test_cells_train_without_a_test_split(tmp_path: Path, monkeypatch: Patch) -> None:
    parts = []

    def on_device(dataset: Dataset, part: ImageSet, device: torch.device, *_: Any) -> Images:
        assert dataset.test is None
        parts.append(len(part))
        return DeviceImages(dataset, part, device)

    grid = without_test(tiny(tmp_path, *ONCE))
    monkeypatch.setattr(harness.train.cell, "on_device", on_device)
    train_all(grid)
    assert parts == [297, 100] * 4
    for kind in KINDS:
        directory = grid.directory(kind)
        assert directory.manifest.results == {}
        assert "test" not in directory.manifest.data
        names = {name for line in directory.epochs() for name in line}
        assert not any(name.startswith("test/") for name in names)
        assert any(name.startswith("validation/") for name in names)


def test_selection_on_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nothing would ever be selected: the untrained weights would be the result."""
    directory = without_test(tiny(tmp_path, "protocol.selection=test")).directory("supervised")
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith("protocol.selection: ")
