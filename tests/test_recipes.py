"""Recipes: optimisers, schedules and what else a training may be given, each off by default."""

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import made_up
from helpers import ROOT
from sim_cuda import simulated_cuda
from test_optimizer import Bowl, OneBatch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from training import RAW, Grid, StopAfter, assert_same_result, config, go, same_state, tiny

from harness.analysis.tables.caption import caption, short_caption
from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, ImageSet
from harness.data.batches import TARGET, Images, epoch_generator
from harness.data.operations import ImageOperations
from harness.data.placement import on_device
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.methods.schedules import Schedule, StepSchedule
from harness.store import CellDir
from harness.store.manifest import CellOptions
from harness.store.predictions import read_predictions_file
from harness.train import loop
from harness.train.augment import operations_of
from harness.train.checkpoint import copy_state
from harness.train.exit_status import DONE, STOPPED
from harness.train.graphs import Graphs
from harness.train.loop import train_epoch
from harness.train.optimizer import WeightAverage
from harness.train.predictions import predict_again
from harness.train.schedule import scheduled_lr, warm_cosine_lr
from harness.train.steps import n_right

sys.path.insert(0, str(ROOT / "benchmarks"))
from case import Case, Prepared

LAST = {"selection": "last"}


class Hill(Bowl):
    """Pulls w as the bowl does, at one rate; its validation accuracies are given."""

    def __init__(self, values: list[float], patience: int | None, every: int = 1) -> None:
        super().__init__()
        self.settings = Schedule(epochs=len(values), early_stopping=patience)
        self.values, self.every = values, every

    def lr(self, epoch: int) -> float:
        return 0.25

    def evaluate(self, model: Any, epoch: int) -> dict[str, float] | None:
        if (epoch + 1) % self.every and epoch + 1 != len(self.values):
            return None
        return {"validation/accuracy": self.values[epoch]}


def rolled(
    root: Path, training: Bowl, n_epochs: int, optimizer: dict[str, Any], **protocol: Any
) -> tuple[float, int, list[dict[str, Any]]]:
    """Train w from 2; return its selected value, the selected epoch and the journal."""
    cell = config(protocol=protocol or LAST, optimizer={"batch_size": 2, **optimizer})
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    directory = CellDir(root)
    images: Any = OneBatch()
    arguments = (model, training, images, cell, n_epochs, directory, lambda: False)
    state, epoch, lines = loop.train(*arguments)
    return state["w"].item(), epoch, lines


def test_adamw_steps_as_written_by_its_authors(tmp_path: Path) -> None:
    """Loshchilov and Hutter, ICLR 2019, algorithm 2, for the gradient 2 (w - 3)."""
    betas, decay = (0.5, 0.75), 0.125
    settings = {"name": "adamw", "betas": betas, "weight_decay": decay}
    found, *_ = rolled(tmp_path, Bowl(), 2, settings)
    w, m, v = 2.0, 0.0, 0.0
    for step, lr in enumerate((0.5, 0.25), 1):
        gradient = 2 * (w - 3)
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        unbiased = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        w = w - lr * decay * w - lr * unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8)
    assert found == pytest.approx(w)


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    """Those of w and of the training's own v have the norm of (-2, 3) in the first step."""
    plain = {"momentum": 0, "nesterov": False, "weight_decay": 0}
    norm = math.hypot(-2, 3)
    training = Bowl()
    found, *_ = rolled(tmp_path, training, 1, {**plain, "clip_norm": norm / 2})
    assert found == pytest.approx(2 + 0.5 * 1)
    assert training.module.weight.item() == pytest.approx(4 - 0.5 * 1.5)


def test_the_average_of_the_weights_is_kept_and_measured(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(Bowl):
        def evaluate(self, model: Any, epoch: int) -> None:
            seen.append(model.w.item())

    plain = {"momentum": 0, "nesterov": False, "weight_decay": 0}
    found, *_ = rolled(tmp_path, Watched(), 2, {**plain, "ema_decay": 0.75})
    w, average, expected = 2.0, 2.0, []
    for lr in (0.5, 0.25):
        w -= lr * 2 * (w - 3)
        average = 0.75 * average + 0.25 * w
        expected.append(average)
    assert seen == pytest.approx(expected) and found == pytest.approx(average)


def rates(settings: StepSchedule) -> list[float]:
    return [scheduled_lr(epoch, settings) for epoch in range(settings.epochs)]


def test_cosine_with_a_warm_up_is_that_of_pytorch() -> None:
    settings = StepSchedule(
        epochs=12, lr=0.4, schedule="cosine", final_lr_ratio=0.05, warmup_epochs=3
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    warm_up = lr_scheduler.LinearLR(optimizer, start_factor=1 / 4, total_iters=3)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.02)
    both = lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[3])
    expected = []
    for _ in range(12):
        expected += both.get_last_lr()
        optimizer.step()
        both.step()
    assert rates(settings) == pytest.approx(expected)
    assert [warm_cosine_lr(e, 12, 0.4, 0.05, 3) for e in range(12)] == rates(settings)


def test_milestones_with_a_warm_up_count_from_the_first_epoch() -> None:
    settings = StepSchedule(epochs=6, lr=1.0, warmup_epochs=1, milestones=(2, 4), gamma=0.5)
    assert rates(settings) == [0.5, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("values", "patience", "every", "n_epochs", "selected"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.7, 0.7], 2, 1, 4, 4),  # equal is not better; of equal ones the last
        ([0.5, 0.6, 0.6, 0.6, 0.7, 0.7], None, 1, 6, 6),
        ([0.5, 0.6, 0.6, 0.7, 0.5, 0.4], 2, 1, 6, 4),
        ([0.5, 0.6, 0.9, 0.5, 0.9, 0.4], 1, 2, 4, 2),  # where epochs 2, 4 and 6 are measured
    ],
)
def test_training_ends_after_epochs_that_are_not_better(
    tmp_path: Path, values: list[float], patience: int, every: int, n_epochs: int, selected: int
) -> None:
    training = Hill(values, patience, every)
    _, epoch, lines = rolled(tmp_path, training, 6, {}, selection="validation")
    assert (len(lines), epoch) == (n_epochs, selected)
    # As after a kill between the last checkpoint and the manifest: no epoch more.
    again = rolled(tmp_path, Hill(values, patience, every), 6, {}, selection="validation")
    assert again[1:] == (selected, lines)


# On a (simulated) GPU

MIXED = {"label_smoothing": 0.1, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
RECIPE = {"name": "adamw", "clip_norm": 1.0, "ema_decay": 0.9}


def test_a_recipe_never_waits_and_fits_into_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.train.graphs.FEWEST", 3)
    results = []
    with simulated_cuda() as gpu:
        for graphs in (None, Graphs(required=True)):
            p = prepared("kd", MIXED, RECIPE, "cuda")
            average = WeightAverage(p.model, 0.9)
            for epoch in (0, 1):
                gpu.reset()
                arguments = p.model, p.training, p.optimizer, p.images, p.config
                line = train_epoch(*arguments, epoch, lambda: False, graphs, average)
            assert len(gpu.waits) == 1  # for the averages of the epoch
            results.append((line["loss/total"], *copy_state(average.model).values()))
            assert not same_state(copy_state(average.model), copy_state(p.model))
        assert graphs.problem == "" and gpu.launches["graph"] > 0
    assert all(map(torch.equal, *(map(torch.as_tensor, result) for result in results)))


# What a recipe changes


def prepared(kind: str, training: dict[str, Any], optimizer: dict[str, Any], on: str) -> Prepared:
    """Return a training of tiny networks with this recipe, on images of noise."""
    case = Case(torch.device(on), 8, 4, 8 * 4 + 3, "10-1", "10-1", lr=1e-3)
    torch.manual_seed(0)
    of = case.config
    sections = {**of.sections, "training": of.sections["training"].with_values(training)}
    changes = {"optimizer": of.optimizer.with_values(optimizer), "sections": sections}
    noise = case.noise()
    if operations := operations_of(sections["training"]):
        noise = small_images(operations, on)
    return case.training(kind, of.model_copy(update=changes), noise)


def small_images(operations: ImageOperations | None, on: str = "cpu", n_workers: int = 0) -> Images:
    """Return images of noise, smaller than those of the case."""
    pixels = np.random.default_rng(0).integers(0, 256, (35, 16, 16, 3), dtype=np.uint8)
    part = ImageSet(pixels, np.arange(35) % 4)
    half = (0.5, 0.5, 0.5)
    data = Dataset("noise", tuple("abcd"), part, None, None, half, half, Augmentation(2, True))
    return on_device(data, part, torch.device(on), n_workers, operations=operations)


def after_an_epoch(training: dict[str, Any], optimizer: dict[str, Any]) -> list[Tensor]:
    p = prepared("supervised", training, optimizer, "cpu")
    line = p.epoch()
    return [torch.tensor(line["loss/total"]), *copy_state(p.model).values()]


@pytest.mark.parametrize(
    ("training", "optimizer"),
    [
        ({"label_smoothing": 0.1}, {}),
        ({"mixup_alpha": 0.4}, {}),
        ({"cutmix_alpha": 1.0}, {}),
        ({"warmup_epochs": 1}, {}),
        ({"schedule": "cosine", "epochs": 9, "warmup_epochs": 2}, {}),
        ({}, {"name": "adamw"}),
        ({}, {"clip_norm": 0.1}),
    ],
)
def test_every_setting_reaches_the_training(
    training: dict[str, Any], optimizer: dict[str, Any]
) -> None:
    usual, changed = after_an_epoch({}, {}), after_an_epoch(training, optimizer)
    assert not all(map(torch.equal, usual, changed))
    assert all(map(torch.equal, changed, after_an_epoch(training, optimizer)))


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
def test_operations_change_pixels_and_nothing_else(name: str) -> None:
    """An epoch has the same pixels whichever process makes them; another epoch has others."""
    operations = ImageOperations(name, n=1)
    before = torch.get_rng_state()
    usual, changed, elsewhere = (
        small_images(*settings).augmented(8, epoch_generator(0, 0))
        for settings in ((None,), (operations,), (operations, "cpu", 2))
    )
    n_equal = 0
    for a, b, c in zip(usual, changed, elsewhere, strict=True):
        assert torch.equal(a.y, b.y) and torch.equal(a.index, b.index)
        assert torch.equal(b.x, c.x) and torch.equal(b.y_cpu, c.y_cpu)
        n_equal += sum(map(torch.equal, a.x, b.x))
    assert 0 < n_equal < 20  # one of the operations is to do nothing
    (other, *_) = small_images(operations).augmented(8, epoch_generator(0, 1))
    assert not torch.equal(other.x, next(iter(changed)).x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["kd", "at"])
def test_a_teacher_is_asked_about_the_mixed_images(kind: str, tmp_path: Path) -> None:
    """Computed and from the cache; labels have the shares of the images."""
    case = Case(torch.device("cpu"), 8, 4, 16, "10-1", "10-1")
    of = case.config
    mixing = of.sections["training"].with_values({"mixup_alpha": 0.5, "cutmix_alpha": 0.5})
    config = of.model_copy(update={"sections": {**of.sections, "training": mixing}})
    p = case.training(kind, config, case.noise(), tmp_path)
    plain = [batch.x for batch in p.images.augmented(8, epoch_generator(0, 0))]
    context = p.training.context
    for _ in range(2):
        batches = p.training.mix(p.images.augmented(8, epoch_generator(0, 0)), 0)
        for x, batch in zip(plain, p.training.prepare_batches(batches, 0), strict=True):
            assert not torch.equal(batch.x, x)
            asked = context.teacher_output(batch, with_maps=kind == "at")
            with torch.no_grad():
                torch.testing.assert_close(asked.logits, context.teacher(batch.x))
            target = batch.prepared[TARGET]
            assert torch.allclose(target.sum(1), torch.ones(8))
            assert target.count_nonzero(1).max() == 2
            assert n_right(target, batch) == pytest.approx(target.amax(1).sum().item())


# Stopped and continued

EVERYTHING = [
    "methods=[kd]",
    "optimizer={name: adamw, batch_size: 64, clip_norm: 1, ema_decay: 0.8}",
    "training={epochs: 2, lr: 0.001, schedule: cosine, warmup_epochs: 1, label_smoothing: 0.1, "
    "mixup_alpha: 0.2, cutmix_alpha: 1, augment: randaugment, early_stopping: 1}",
]
OF_STAGE_1 = ["stage1={epochs: 2, select_every: 1, warmup_epochs: 1, augment: trivialaugment}"]


@pytest.mark.parametrize(("kind", "recipe"), [("kd", EVERYTHING), ("stage1", OF_STAGE_1)])
def test_resumed_with_the_same_bits(
    kind: str, recipe: list[str], trained: Grid, tmp_path: Path
) -> None:
    shutil.copytree(trained.store.root, tmp_path / "whole")  # the teacher of stage 1 is there
    whole = tiny(tmp_path / "whole", *recipe)
    options = CellOptions.on_this_machine(whole.plan.experiment, teacher_cache=10**9)
    teacher = whole.store.prepare(whole.cell("supervised"), options)
    assert go(teacher) == DONE
    shutil.copytree(whole.store.root, tmp_path / "parts")
    parts = tiny(tmp_path / "parts", *recipe)
    for grid in (whole, parts):
        directory = grid.store.prepare(grid.cell(kind), options)
        if grid is parts:
            assert go(directory, StopAfter(7)) == STOPPED
        assert go(directory) == DONE
    assert_same_result(parts.directory(kind), whole.directory(kind))
    written = whole.directory(kind).cell.config.as_json()
    assert "momentum" not in written["optimizer"] or kind == "stage1"
    if kind == "kd":  # what is kept is what was measured
        assert not {"milestones", "gamma"} & written["training"].keys()
        again = whole.directory(kind)
        found = read_predictions_file(again / "predictions.npz")
        assert found is not None
        share = float((found["labels"] == found["predictions"]).mean())
        assert share == pytest.approx(again.manifest.results["accuracy"]["selected"])
        before = (again / "predictions.npz").read_bytes()
        with again.lease():
            predict_again(again)
        assert (again / "predictions.npz").read_bytes() == before


# What is refused, and what tables say

REFUSED = {
    "optimizer.name=adamw optimizer.momentum=0.8": "optimizer: momentum has no effect",
    "optimizer.betas=[0.9,0.99]": "optimizer: betas has no effect with name sgd",
    "optimizer.name=adamw optimizer.betas=[0.9]": "optimizer.betas: expected two numbers",
    "optimizer.name=adamw optimizer.betas=0.9": "optimizer.betas: expected two numbers",
    "training.mixup_alpha=1.0e-308": "training.mixup_alpha: expected 0 for none, or 0.001 to",
    "training.cutmix_alpha=-1": "training.cutmix_alpha: ",
    "training.cutmix_alpha=1001": "training.cutmix_alpha: expected 0 for none, or 0.001 to",
    "optimizer.name=adam": "optimizer.name: ",
    "optimizer.ema_decay=1": "optimizer.ema_decay: ",
    "optimizer.clip_norm=0": "optimizer.clip_norm: ",
    "training.schedule=cosine training.gamma=0.1": "training: gamma has no effect",
    "training.final_lr_ratio=0.1": "training: final_lr_ratio has no effect",
    "training.warmup_epochs=3": "training.warmup_epochs: ",
    "training.early_stopping=2 protocol=legacy-2021": "training.early_stopping: ",
    "training.augment=autoaugment": "training.augment: ",
    "training.augment=trivialaugment training.augment_ops=2": "training: augment_ops has no effect",
    "stage1.mixup_alpha=0.2": "stage1.mixup_alpha: unknown key",
    "training.mixup_alpha=0.2 methods=[kd+crd]": "training.mixup_alpha: 'crd+kd' needs one class",
}


@pytest.mark.parametrize("assignments", REFUSED)
def test_what_has_no_effect_is_refused_in_a_line(assignments: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse(apply_overrides(RAW, assignments.split(" ")))
    assert str(refusal.value).startswith(REFUSED[assignments])
    assert "\n" not in str(refusal.value)


def test_a_method_may_have_another_optimiser() -> None:
    """Settings of the experiment's own optimiser are dropped, as its release's milestones are."""
    methods = "methods=[plain, {method: plain, optimizer.name: adamw, training.mixup_alpha: 0}]"
    experiment = parse(apply_overrides(RAW, [methods, "optimizer.momentum=0.8"]))
    one, other = (experiment.for_method(name).optimizer for name in experiment.methods)
    assert (one.name, one.momentum, other.name) == ("sgd", 0.8, "adamw")
    assert "momentum" not in other.model_dump() and "betas" not in one.model_dump()
    cosine = ["protocol=legacy-2022", "training.schedule=cosine"]
    assert parse(apply_overrides(RAW, cosine)).training.schedule == "cosine"


def test_captions_name_the_recipe() -> None:
    numbers = {("plain", "student", "wrn-10-1"): [0.5, 0.6]}
    recipe: dict[str, Any] = {"training": {"schedule": "cosine"}, "optimizer": {"ema_decay": 0.9}}
    usual, changed = made_up(numbers), made_up(numbers, **recipe)
    expected = "Recipe: optimizer.ema_decay 0.9, training.schedule cosine, "
    assert expected in short_caption(changed) and "Recipe" not in short_caption(usual)
    assert expected in "\n".join(caption(changed))
