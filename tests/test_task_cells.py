"""Cells of tasks: what each training and each centre is given, the floors by hand, fine-tuning,
incremental accuracies and the rhythm of measuring."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import weights
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from training import CPU, StopAfter, assert_same_result, changed, go, metrics

import harness.train.cell
import harness.train.methods.stage2
import harness.train.predictions
from harness.cell import Cell
from harness.common.metrics import EVALUATION_SECONDS
from harness.data import Augmentation, Dataset, ImageSet, load
from harness.data.small import DeviceImages
from harness.data.views import View, apply, join_validation
from harness.distill.centers import class_centers
from harness.distill.ncm import ncm_accuracy
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.experiment.tasks import Task
from harness.networks.wide_resnet.network import WideResNet
from harness.plan import Plan, TableEntry, make_plan, trains_on_validation
from harness.store import CellDir, Store
from harness.train.checkpoint import load_model
from harness.train.evaluate import embed_and_classify
from harness.train.exit_status import DONE, STOPPED
from harness.train.methods.base import Classifier
from harness.train.methods.stage1 import RelationMatching

RAW: dict[str, Any] = {
    "name": "cross",
    "dataset": {"name": "digits", "validation": 200, "test": 1400},  # 197 train
    "network": {"network": "wide_resnet", "dropout": 0.0},
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["plain", "kd", "teacher_ncm", "probe", "finetune", "refilled"],
    "optimizer": {"batch_size": 32},
    "training": {"epochs": 2},
    "stage1": {"epochs": 1, "select_every": 1},
    "stage2": {"epochs": 1, "lambd": 10},
    "tasks": {"classes": 4, "overlap": [4, 1], "shots": [5], "order": [7, 1, 3, 0, 8, 2, 9]},
}
PROTOCOLS = ("strict", "legacy")


# What each training is given


def key(pixels: np.ndarray) -> bytes:
    """Return a key of an image (H, W, 3), uint8; no two digits have the same one."""
    return np.ascontiguousarray(pixels[..., 0]).tobytes()


def keys(part: ImageSet | None) -> set[bytes]:
    return set() if part is None else {key(p) for p in part.pixels()}


@dataclass
class Seen:
    """keys of the images that went through a network, by what it was for: "training" (steps,
    centres, fits), "measuring" or "predicting"."""

    mean: Tensor
    std: Tensor
    of: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    phase: str = "training"

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, self.phase = self.phase, phase
        yield
        self.phase = before

    def note(self, x: Tensor) -> None:
        pixels = (x.detach() * self.std + self.mean).mul(255).round().to(torch.uint8)
        self.of[self.phase] |= {key(p) for p in pixels.permute(0, 2, 3, 1).numpy()}


@dataclass
class Watched:
    plan: Plan
    store: Store
    dataset: Dataset
    seen: dict[str, Seen]  # fingerprint ->

    def entry(self, **wanted: Any) -> TableEntry:
        found = [e for e in self.plan.entries if all(getattr(e, k) == v for k, v in wanted.items())]
        (entry,) = found
        return entry

    def directory(self, **wanted: Any) -> CellDir:
        return self.store.directory(self.entry(**wanted).fingerprint)

    def view(self, **wanted: Any) -> View:
        return self.plan.cells[self.entry(**wanted).fingerprint].config.data.view

    def data_of(self, view: View) -> Dataset:
        """As a cell's process has it."""
        is_joined = trains_on_validation(self.plan.experiment.protocol, view)
        whole = join_validation(self.dataset) if is_joined else self.dataset
        return apply(whole, view)


def unaugmented(options: Any, with_test: bool = True, **_: bool) -> Dataset:
    """So that a batch shows which images it holds."""
    return replace(load(options, with_test), augmentation=Augmentation(padding=0, flip=False))


@pytest.fixture(scope="module", params=PROTOCOLS)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """All methods on two tasks, with what every pass of every network has seen."""
    experiment = parse(RAW | {"protocol": request.param})
    dataset = unaugmented(experiment.dataset)
    store = Store(tmp_path_factory.mktemp(request.param))
    store.create()
    grid = Watched(make_plan(experiment, dataset), store, dataset, {})
    mean, std = (torch.tensor(v)[:, None, None] for v in (dataset.mean, dataset.std))
    current: list[Seen] = []

    def in_phase(real: Any, phase: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            with current[-1].during(phase):
                return real(*arguments, **options)

        return call

    real_maps = WideResNet.feature_maps

    def feature_maps(self: WideResNet, x: Tensor) -> Iterator[Tensor]:
        current[-1].note(x)
        return real_maps(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.train.data_request, "load", unaugmented)
        patch.setattr(WideResNet, "feature_maps", feature_maps)
        for training in (Classifier, RelationMatching):
            patch.setattr(training, "evaluate", in_phase(training.evaluate, "measuring"))
        classify = harness.train.predictions.classify
        patch.setattr(harness.train.predictions, "classify", in_phase(classify, "predicting"))
        for fingerprint, cell in grid.plan.cells.items():
            current.append(Seen(mean, std))
            assert go(store.prepare(cell)) == DONE
            grid.seen[fingerprint] = current[-1]
    return grid


def test_no_image_of_validation_or_test_is_trained_on_or_makes_a_centre(watched: Watched) -> None:
    """Steps, centres and fits of every cell see its own training images, and all of them."""
    is_strict = watched.plan.experiment.protocol.preset == "strict"
    whole = watched.dataset
    held_out = keys(whole.test) | (keys(whole.validation) if is_strict else set())
    assert len(held_out) == 1400 + (200 if is_strict else 0)
    for fingerprint, cell in watched.plan.cells.items():
        view, seen = cell.config.data.view, watched.seen[fingerprint].of
        own = watched.data_of(view)
        assert seen["training"] == keys(own.train), cell.kind
        assert not seen["training"] & held_out
        labels = {key(p): int(y) for p, y in zip(own.train.pixels(), own.train.labels, strict=True)}
        if view.shots:
            assert np.bincount([labels[k] for k in seen["training"]]).tolist() == [5] * 4
        # Measured on all of the task's images, and no others: of stage 1 also by its own centres.
        measured = keys(own.validation) | keys(own.test)
        extra = keys(own.train) if cell.kind == "stage1" else set()
        assert seen["measuring"] == measured | extra, cell.kind
        assert not seen["predicting"], "the selected epoch has been measured"
    kinds = {cell.kind for cell in watched.plan.cells.values()}
    assert kinds == {"supervised", "kd", "teacher_ncm", "probe", "finetune", "stage1", "stage2"}


def test_manifests_say_what_was_seen(watched: Watched) -> None:
    digests = set()
    for fingerprint, cell in watched.plan.cells.items():
        data = watched.store.directory(fingerprint).manifest.data
        own = watched.data_of(cell.config.data.view)
        assert data["digest"] == own.digest != cell.config.data.digest == watched.dataset.digest
        assert (data["train"], data["test"]) == (len(own.train), len(own.test or ()))
        assert data.get("validation") == (len(own.validation) if own.validation else None)
        digests.add(own.digest)
    assert len(digests) == 3, "the teacher's, and one of each task"


# Floors and centres, by hand


def embedded(watched: Watched, network: CellDir, part: ImageSet) -> tuple[Tensor, Tensor]:
    """By a finished cell's network, one image after the other in the part's order."""
    options = network.cell.config.network
    model = load_model(network / "model.pt", options).to(memory_format=torch.channels_last)
    images = DeviceImages(watched.dataset, part, CPU)
    return embed_and_classify(model, images)[0], images.labels


@pytest.mark.parametrize("overlap", [None, 1])
def test_teacher_ncm_is_the_nearest_centre(watched: Watched, overlap: int | None) -> None:
    wanted = {"stage": "teacher_ncm", "task": Task(overlap, 5)}
    own = watched.data_of(watched.view(**wanted))
    teacher = watched.directory(stage="teacher")
    centers = class_centers(*embedded(watched, teacher, own.train), 4)
    directory = watched.directory(**wanted)
    expected = ncm_accuracy(*embedded(watched, teacher, own.test), centers).item()
    results = directory.manifest.results["accuracy"]
    assert results == {"last": expected, "selected": expected, "best_on_test": expected}
    assert torch.equal(weights(directory)["fc.weight"], centers)
    assert not weights(directory)["fc.bias"].any()
    assert len(directory.epochs()) == 1 and directory.epochs()[0]["lr"] == 0
    body = {k: v for k, v in weights(directory).items() if not k.startswith("fc.")}
    taught = weights(teacher)
    assert all(torch.equal(v, taught[k]) for k, v in body.items()), "the teacher stays as it is"


@pytest.mark.parametrize("overlap", [None, 1])
def test_the_probe_is_a_logistic_regression(watched: Watched, overlap: int | None) -> None:
    wanted = {"stage": "probe", "task": Task(overlap, 5)}
    own = watched.data_of(watched.view(**wanted))
    teacher = watched.directory(stage="teacher")
    x, labels = embedded(watched, teacher, own.train)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000, solver="newton-cg")
    model.fit(x.double().numpy(), labels.numpy())
    found = weights(watched.directory(**wanted))
    scale = np.abs(model.coef_).max()
    np.testing.assert_allclose(found["fc.weight"], model.coef_, rtol=0, atol=1e-5 * scale)
    x, labels = embedded(watched, teacher, own.test)
    right = (model.predict(x.double().numpy()) == labels.numpy()).mean()
    results = watched.directory(**wanted).manifest.results["accuracy"]
    assert results["last"] == pytest.approx(float(right), abs=1.5 / len(labels))


@pytest.mark.parametrize("overlap", [None, 1])
def test_centres_of_stage2_are_those_of_its_shots(
    watched: Watched, overlap: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the teacher's embedding, in the order of the student's labels."""
    found: list[Tensor] = []
    real = harness.train.methods.stage2.global_centers

    def global_centers(*arguments: Any, **options: Any) -> Tensor:
        found.append(real(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(harness.train.data_request, "load", unaugmented)
    monkeypatch.setattr(harness.train.methods.stage2, "global_centers", global_centers)
    cell = watched.plan.cells[watched.entry(stage="stage2", task=Task(overlap, 5)).fingerprint]
    assert go(watched.store.prepare(changed(cell, stage2={"lambd": 11.0}))) == DONE
    order = RAW["tasks"]["order"]
    shift = 0 if overlap is None else 4 - overlap
    names = [str(order[shift + label]) for label in range(4)]
    own = watched.data_of(cell.config.data.view)
    assert list(own.class_names) == names
    x, labels = embedded(watched, watched.directory(stage="teacher"), own.train)
    (centers,) = found
    for label, name in enumerate(names):
        mine = x[labels == label]
        assert len(mine) == 5
        digits = {key(p) for p in own.train.pixels()[own.train.labels == label]}
        whole = watched.dataset.train
        assert digits < {key(p) for p in whole.pixels()[whole.labels == int(name)]}
        expected = mine.sum(0) / mine.sum(0).norm()
        torch.testing.assert_close(centers[label], expected, atol=1e-6, rtol=1e-5)


# Single cells


@dataclass(frozen=True)
class Trained:
    """A teacher of digits 0 to 3, and what makes cells of it."""

    plan: Plan
    store: Store
    teacher: str

    def train(self, cell: Cell) -> CellDir:
        directory = self.store.prepare(cell)
        assert go(directory) == DONE, directory.events()[-1]
        return directory


def plan_with(*assignments: str, **changes: Any) -> Plan:
    experiment = parse(apply_overrides(RAW | changes, list(assignments)))
    return make_plan(experiment, load(experiment.dataset))


INCREMENTAL = {"classes": 3, "new": 2, "shots": [0, 4]}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An incremental grid of which the teacher alone is trained."""
    plan = plan_with(methods=["plain", "teacher_ncm", "probe", "finetune"], tasks=INCREMENTAL)
    store = Store(tmp_path_factory.mktemp("taught"))
    store.create()
    (teacher,) = (e.fingerprint for e in plan.entries if e.stage == "teacher")
    trained = Trained(plan, store, teacher)
    trained.train(plan.cells[teacher])
    return trained


def cell_of(plan: Plan, **wanted: Any) -> Cell:
    found = [e for e in plan.entries if all(getattr(e, k) == v for k, v in wanted.items())]
    (fingerprint,) = {e.fingerprint for e in found}
    return plan.cells[fingerprint]


@pytest.mark.parametrize("shots", [0, 4])
def test_old_and_new_classes_are_counted_apart(taught: Trained, shots: int) -> None:
    """Against a count of the predictions by hand; a class without images is never predicted."""
    whole = load(taught.plan.experiment.dataset)
    own = apply(whole, View(classes=(0, 1, 2, 3, 4)))
    new = np.isin(whole.train.labels, (3, 4)).sum()
    for stage in ("student", "teacher_ncm", "probe"):
        directory = taught.train(cell_of(taught.plan, stage=stage, task=Task(None, shots)))
        data = directory.manifest.data
        assert data["train"] == 3 * shots + new
        with np.load(directory / "predictions.npz") as file:
            labels, predicted = file["labels"], file["predictions"]
        assert labels.tolist() == own.test.labels.tolist()
        by_hand = {"accuracy": range(5), "accuracy_old": range(3), "accuracy_new": range(3, 5)}
        results = directory.manifest.results
        assert results.keys() == by_hand.keys()
        for name, classes in by_hand.items():
            pairs = [(y, p) for y, p in zip(labels, predicted, strict=True) if y in classes]
            right = sum(y == p for y, p in pairs)
            # predictions.npz has the selected weights'
            assert results[name]["selected"] == pytest.approx(right / len(pairs), abs=1e-12)
            line = directory.epochs()[directory.manifest.selected_epoch - 1]
            assert line[f"test/{name}"] == results[name]["selected"]
            assert f"validation/{name}" in line
        if stage != "student":
            assert {*predicted} <= ({3, 4} if shots == 0 else {*range(5)})
            bias = weights(directory)["fc.bias"]
            assert bias.isfinite().all() and (bias[:3] < -1e30).all() == (shots == 0)
            assert results["accuracy_new"]["last"] > 0.5


def test_without_old_classes_there_are_no_groups(watched: Watched) -> None:
    results = watched.directory(stage="student", task=Task(1, 5)).manifest.results
    assert results.keys() == {"accuracy"}


def test_a_class_without_images_is_never_predicted_in_half_precision(taught: Trained) -> None:
    plan = plan_with("optimizer.precision=bfloat16", methods=["teacher_ncm"], tasks=INCREMENTAL)
    cell = cell_of(plan, stage="teacher_ncm", task=Task(None, 0))
    directory = taught.train(replace(cell, upstream={"initial": taught.teacher}))
    with np.load(directory / "predictions.npz") as file:
        assert {*file["predictions"]} == {3, 4}


# Fine-tuning


@pytest.mark.parametrize("classes", [(5, 6), (4, 5, 6), (9, 8, 7, 6, 5)])
def test_finetuning_goes_on_from_the_body_with_a_fresh_head(
    taught: Trained, monkeypatch: pytest.MonkeyPatch, classes: tuple[int, ...]
) -> None:
    """Fewer classes than before, as many, and more."""
    begun: list[dict[str, Tensor]] = []
    real = harness.train.cell.train

    def train(model: Any, *arguments: Any) -> Any:
        begun.append({k: v.clone() for k, v in model.state_dict().items()})
        return real(model, *arguments)

    monkeypatch.setattr(harness.train.cell, "train", train)
    cell = cell_of(taught.plan, stage="finetune", task=Task(None, 4))
    assert cell.upstream == {"initial": taught.teacher}, "the teacher's own cell"
    heads = []
    for seed in (0, 0, 1):
        lr = 0.1 + 0.01 * len(heads)  # another cell each time
        view = {"view": {"classes": list(classes)}}
        directory = taught.train(changed(cell, seed=seed, data=view, training={"lr": lr}))
        before, start = weights(taught.store.directory(taught.teacher)), begun.pop()
        for name, value in before.items():
            if not name.startswith("fc."):
                assert torch.equal(start[name], value), name
        assert start["fc.weight"].shape[0] == len(classes) == len(weights(directory)["fc.bias"])
        heads.append(start["fc.weight"])
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    old = weights(taught.store.directory(taught.teacher))["fc.weight"]
    assert not torch.equal(heads[0][:2], old[:2]), "nothing of the old one is left"
    torch.manual_seed(0)
    first = cell.config.network.build(len(old)).fc.weight
    assert not torch.equal(heads[0][:2], first[:2]), "nor is it what the old one began with"
    bound = 1 / heads[0].shape[1] ** 0.5  # as PyTorch draws a linear layer
    assert heads[0].abs().max() <= bound < 2 * heads[0].abs().max()


# The rhythm of measuring


@pytest.mark.parametrize(
    ("every", "epochs", "measured"),
    [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 3, [3])],
)
def test_measured_in_its_rhythm_and_at_the_end(
    tmp_path: Path, every: int, epochs: int, measured: list[int]
) -> None:
    directory = one_cell(tmp_path, every, epochs)
    assert go(directory) == DONE
    lines = directory.epochs()
    assert [line["epoch"] for line in lines] == [*range(1, epochs + 1)]
    for name in ("test/accuracy", "validation/accuracy", EVALUATION_SECONDS):
        assert [line["epoch"] for line in lines if name in line] == measured
    assert all("train/accuracy" in line for line in lines)
    manifest, by_epoch = directory.manifest, {line["epoch"]: line for line in lines}
    assert manifest.selected_epoch in measured
    chosen = {e: by_epoch[e]["validation/accuracy"] for e in measured}
    best = max(chosen.values())
    assert manifest.selected_epoch == max(e for e, v in chosen.items() if v == best)
    test = {e: by_epoch[e]["test/accuracy"] for e in measured}
    assert manifest.results["accuracy"] == {
        "last": test[epochs],
        "selected": test[manifest.selected_epoch],
        "best_on_test": max(test.values()),
    }
    spent = sum(line.get(EVALUATION_SECONDS, 0) for line in lines)
    assert manifest.evaluation_seconds == pytest.approx(spent, abs=0.006)


def one_cell(root: Path, every: int, epochs: int) -> CellDir:
    """A plain student of a task."""
    changes = [f"protocol.evaluate_every={every}", f"training.epochs={epochs}"]
    plan = plan_with(*changes, methods=["plain"])
    store = Store(root)
    store.create()
    return store.prepare(cell_of(plan, method="plain", task=Task(1, 5)))


@pytest.mark.parametrize("selection", ["validation", "last"])
def test_a_rhythm_changes_nothing_of_the_training(tmp_path: Path, selection: str) -> None:
    """Every measured number is that of a run that measures always; so is the end, also after stops
    between and in the epochs that are measured."""
    found = {}
    for every in (1, 3):
        changes = [f"protocol.evaluate_every={every}", f"protocol.selection={selection}"]
        plan = plan_with(*changes, "training.epochs=7", methods=["plain"])
        store = Store(tmp_path / str(every))
        store.create()
        found[every] = store.prepare(cell_of(plan, method="plain", task=Task(1, 5)))
        assert go(found[every]) == DONE
    always = {line["epoch"]: line for line in metrics(found[1])}
    for line in metrics(found[3]):
        assert line.items() <= always[line["epoch"]].items()
    last = (found[e].manifest.results["accuracy"]["last"] for e in (1, 3))
    assert len({*last}) == 1
    again = Store(tmp_path / "again")
    again.create()
    directory = again.prepare(found[3].cell)
    assert go(directory, StopAfter(4)) == STOPPED
    assert go(directory, lambda: len(directory.epochs()) == 4) == STOPPED
    assert go(directory, lambda: len(directory.epochs()) == 6) == STOPPED
    assert go(directory) == DONE
    assert_same_result(directory, found[3])


def test_what_takes_no_steps_is_measured_whatever_the_rhythm(taught: Trained) -> None:
    changes = {"methods": ["probe"], "tasks": INCREMENTAL}
    plan = plan_with("protocol.evaluate_every=5", "probe.l2=0.5", **changes)
    cell = cell_of(plan, stage="probe", task=Task(None, 4))
    directory = taught.train(replace(cell, upstream={"initial": taught.teacher}))
    (line,) = directory.epochs()
    assert "test/accuracy" in line and "accuracy" in directory.manifest.results
