"""A whole training in float64 as golden test: trajectory.npz (tests/golden/README.md) holds what
the published code did, step by step. Through the real loop, methods, evaluation and selection; only
the images are a stand-in, which gives the file's order of batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training import config

from harness.cell import Cell
from harness.data.batches import Batch, Epoch
from harness.networks.base import Network
from harness.networks.wide_resnet import WideResNetOptions
from harness.store import CellDir
from harness.train import loop
from harness.train.methods.base import Context, make_training

TEACHER, STUDENT = (WideResNetOptions(depth=10, width=w, dropout=0.0) for w in (2, 1))
RUNS = ("teacher", "plain", "stage1_triplet", "stage2_triplet", "stage1_tuple", "stage2_tuple")
RELATIVE = 1e-9


class Ordered:
    """Images whose epoch e has the file's e-th order and no augmentation."""

    device = torch.device("cpu")

    def __init__(self, x: Tensor, y: Tensor, order: np.ndarray) -> None:
        self.x, self.labels, self.labels_cpu = x, y, y
        self.order, self.epoch = torch.from_numpy(order.astype(np.int64)), 0

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, batch_size: int = 512) -> Iterator[Any]:
        yield SimpleNamespace(x=self.x, y=self.labels, y_cpu=self.labels)

    def augmented(self, batch_size: int, generator: torch.Generator) -> Epoch:
        order, self.epoch = self.order[self.epoch].split(batch_size), self.epoch + 1
        labels = [self.labels[i] for i in order]
        batches = [Batch(self.x[i], y, y, i) for i, y in zip(order, labels, strict=True)]
        return Epoch(labels, lambda: iter(batches), is_resident=True)


@dataclass
class Run:
    """The record of a training: terms and rates of every step, weights, the journal's lines."""

    terms: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    last: dict[str, Tensor] = field(default_factory=dict)
    selected: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    accuracies: list[float] = field(default_factory=list)
    centers: Tensor | None = None


def train(cell: Cell, state: Any, network: Any, data: Any, teacher: Any, folder: Path) -> Run:
    """All that this test asks of the harness: one cell's training, watched."""
    folder.mkdir()
    model = network.build(10).double()
    model.load_state_dict(state)
    images = {part: Ordered(*data[part]) for part in ("train", "test")}
    context = Context(cell.config, images, 10, model, teacher)
    method = make_training(cell.kind, context)
    run, losses = Run(), method.losses

    def watched(model: Network, batch: Any, epoch: int) -> Any:
        found, logits = losses(model, batch, epoch)
        for name, value in found.items():
            run.terms.setdefault(name, []).append(value.item())
        run.rates.append(method.lr(epoch))
        return found, logits

    method.losses = watched
    run.selected, run.epoch, lines = loop.train(
        model, method, images["train"], cell.config, cell.epochs, CellDir(folder), lambda: False
    )
    run.last = model.state_dict()
    run.accuracies = [line[f"test/{method.metric}"] for line in lines]
    run.centers = getattr(method, "centers", None)
    return run


@pytest.fixture(scope="module")
def numbers(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "trajectory.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def runs(
    numbers: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Run]]:
    n, folder, threads = numbers, tmp_path_factory.mktemp("trajectory"), torch.get_num_threads()
    torch.set_num_threads(1)

    def part(name: str) -> tuple[Tensor, Tensor, np.ndarray]:
        pixels = torch.from_numpy(n[f"{name}_images"]).double()
        pixels = pixels[:, None].expand(-1, 3, -1, -1)
        scale, shift = (torch.from_numpy(n[k]).double()[:, None, None] for k in ("scale", "shift"))
        labels = torch.from_numpy(n[f"{name}_labels"].astype(np.int64))
        return pixels * scale + shift, labels, n["order"]

    data = {name: part(name) for name in ("train", "test")}
    epochs = dict(zip(("training", "stage1", "stage2"), n["epochs"].tolist(), strict=True))
    lr = float(n["lr"])
    common = {
        "protocol": {"train_on": "train+validation", "selection": "test"},
        "optimizer": {"batch_size": int(n["batch_size"]), "weight_decay": 5e-4},
    }

    def steps(section: str) -> dict[str, Any]:
        milestones = n[f"milestones_{section}"].tolist()
        return {"epochs": epochs[section], "lr": lr, "milestones": milestones, "gamma": 0.2}

    def initial(who: str) -> dict[str, Tensor]:
        prefix = f"init_{who}/"
        state = {k.removeprefix(prefix): v for k, v in n.items() if k.startswith(prefix)}
        names = TEACHER.build(10).state_dict()
        counters = {k: v for k, v in names.items() if k.endswith("num_batches_tracked")}
        return counters | {k: torch.from_numpy(v.astype(np.float64)) for k, v in state.items()}

    done: dict[str, Run] = {}

    def add(name: str, kind: str, state: Any, teacher: Any = None, **more: Any) -> None:
        options = TEACHER if name == "teacher" else STUDENT
        cell = Cell(kind, config(**common, training=steps("training"), **more))
        done[name] = train(cell, state, options, data, teacher, folder / name)

    add("teacher", "supervised", initial("teacher"))
    add("plain", "supervised", initial("student"))
    teacher = TEACHER.build(10).double()
    teacher.load_state_dict(done["teacher"].selected)
    for relation in ("triplet", "tuple"):
        first = {
            "epochs": epochs["stage1"],
            "lr": lr,
            "final_lr_ratio": 0.1,
            "relation": relation,
            "tau1": 4.0,
            "margin": 0.2,
            "negatives": "all",
            "weight": None,
            "select_every": 1,
        }
        second = steps("stage2") | {
            "centers": "global",
            "tau2": 2.0,
            "lambd": float(n["lambd"]),
            "tau_on": "both",
            "weighted": False,
        }
        add(
            f"stage1_{relation}",
            "stage1",
            initial("student"),
            teacher,
            stage1=first,
            ncm_centers="evaluated",
        )
        start = done[f"stage1_{relation}"].selected
        add(f"stage2_{relation}", "stage2", start, teacher, stage2=second, center_images="plain")
    yield done
    torch.set_num_threads(threads)


def close(ours: Any, theirs: np.ndarray, what: str) -> None:
    """Every number within RELATIVE of the file's; the message names the first step that is not."""
    ours = np.asarray(ours, dtype=np.float64)
    assert ours.shape == theirs.shape, what
    off = np.abs(ours - theirs) > RELATIVE * np.abs(theirs)
    assert not off.any(), f"{what}: from step {int(off.argmax())}: {ours[off][0]} {theirs[off][0]}"


@pytest.mark.parametrize("name", RUNS)
def test_losses_of_every_step(runs: dict[str, Run], numbers: Any, name: str) -> None:
    terms = runs[name].terms
    close(np.sum(list(terms.values()), axis=0), numbers[f"{name}_loss"], "loss")
    if name.startswith("stage2"):
        for term in ("ce", "teaching"):
            close(terms[term], numbers[f"{name}_{term}"], term)


@pytest.mark.parametrize("name", RUNS)
def test_learning_rate_of_every_step(runs: dict[str, Run], numbers: Any, name: str) -> None:
    assert np.abs(np.array(runs[name].rates) - numbers[f"{name}_lr"]).max() <= 1e-15


@pytest.mark.parametrize("name", RUNS)
def test_accuracies_and_selected_epoch(runs: dict[str, Run], numbers: Any, name: str) -> None:
    assert np.abs(runs[name].accuracies - numbers[f"{name}_accuracy"]).max() < 1e-12
    assert runs[name].epoch == int(numbers[f"{name}_selected_epoch"])


@pytest.mark.parametrize("form", ["last", "selected"])
@pytest.mark.parametrize("name", RUNS)
def test_weights(runs: dict[str, Run], numbers: Any, name: str, form: str) -> None:
    who = "teacher" if name == "teacher" else "student"
    state: Callable[[str], Tensor] = getattr(runs[name], form).__getitem__
    if f"{name}_weights_{form}" not in numbers:
        assert (name, form) == ("plain", "selected"), "the one entry that the file may lack"
        return
    wanted = numbers[f"{name}_weights_{form}"]
    scale = np.sqrt((wanted[:, 1] ** 2).sum())
    for entry, theirs in zip(numbers[f"weight_names_{who}"].tolist(), wanted, strict=True):
        v = state(entry).double().flatten()
        wave = torch.cos(torch.arange(len(v), dtype=torch.float64))
        ours = np.array([v.sum().item(), v.norm().item(), (v * wave).sum().item()])
        assert np.abs(ours - theirs).max() <= RELATIVE * scale, entry


def test_centers_of_the_selected_teacher(runs: dict[str, Run], numbers: Any) -> None:
    for relation in ("triplet", "tuple"):
        centers = runs[f"stage2_{relation}"].centers
        assert np.abs(centers.numpy() - numbers["centers"]).max() < RELATIVE
