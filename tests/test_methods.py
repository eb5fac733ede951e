"""Every method of the registry: the same bits through a stop, a teacher that stays as it is. And
what a method may own beside the student: trained, checkpointed, resumed, and not published."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import weights
from torch import Tensor, nn
from training import Grid, StopAfter, assert_same_result, go, metrics, same_state, tiny, train_all

import harness.train.cell
from harness import methods
from harness.cell import Cell
from harness.data.batches import Batch
from harness.methods import REGISTRY, get_method
from harness.methods.base import Stage
from harness.networks.base import Network
from harness.plan import TEACHER
from harness.store import CellDir, Store
from harness.train.checkpoint import copy_state, from_bytes
from harness.train.exit_status import DONE, STOPPED
from harness.train.methods.base import Context, Losses, ScheduledClassifier, cross_entropy

SHORT = ("training.epochs=2", "stage1.epochs=2", "stage2.epochs=2")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> CellDir:
    """The teacher of all methods, which is their plain student, too."""
    grid = train_all(tiny(tmp_path_factory.mktemp("teacher"), "methods=[plain]", *SHORT))
    return grid.directory("supervised")


def taught(root: Path, method: str, teacher: CellDir) -> Grid:
    """The grid of one method; where it has a teacher, that is trained."""
    grid = tiny(root, f"methods=[{method}]", *SHORT)
    if grid.plan.experiment.needs_teacher:
        shutil.copytree(teacher.path, grid.store.root / teacher.path.name)
    return grid


@pytest.mark.parametrize("name", [*REGISTRY, "kd+vid+crd"])
def test_the_same_bits_through_stops_by_a_frozen_teacher(
    name: str, teacher: CellDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_all(taught(tmp_path / "whole", name, teacher))

    teachers: list[Network] = []
    modes: set[bool] = set()

    class Watched(Context):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if self._teacher is not None:
                for module in (self.teacher, self.teacher.get_submodule("bn")):
                    module.register_forward_pre_hook(lambda m, _: modes.add(m.training))
                teachers.append(self.teacher)

    monkeypatch.setattr(harness.train.cell, "Context", Watched)
    stopped, method = taught(tmp_path / "stopped", name, teacher), get_method(name)
    entries = [e for e in stopped.plan.entries if e.stage != TEACHER]
    assert [e.stage for e in entries] == [stage.name for stage in method.stages]
    for entry, stage in zip(entries, method.stages, strict=True):
        directory = stopped.store.prepare(stopped.plan.cells[entry.fingerprint])
        if stage.schedule:  # else there is no step to stop after
            assert go(directory, StopAfter(7)) == STOPPED  # five batches an epoch
        assert go(directory) == DONE
        n_starts = len([e for e in directory.events() if e["event"] == "start"])
        assert n_starts == (2 if stage.schedule else 1)
        assert_same_result(directory, whole.store.directory(entry.fingerprint))

    is_asked = bool(method.needs) and method.final.network == "student"
    assert modes == ({False} if is_asked else set())
    assert len(teachers) == (2 * len(entries) if is_asked else 0)
    for model in teachers:
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
        assert same_state(copy_state(model), weights(teacher))


# What a method may own


class Owner(ScheduledClassifier):
    """A projection that is trained, and a memory of the images it saw, by their numbers."""

    def __init__(self, context: Context, settings: dict[str, Any]) -> None:
        super().__init__(context, settings)
        self.module = nn.Linear(context.student.embedding_dim, 8)
        self.module.register_buffer("memory", torch.zeros(len(context.train), 8))

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        self.module.eval()
        return super().evaluate(model, epoch)

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        assert self.module.training
        embedding, logits = model.embed_and_classify(batch.x)
        projected = self.module(embedding)
        memory = self.module.get_buffer("memory")
        pull = (projected - memory[batch.index]).square().mean()
        with torch.no_grad():
            memory[batch.index] = projected
        return {"ce": cross_entropy(logits, batch.y), "pull": pull}, logits


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellDir:
    """The directory of a cell that `Owner` trains."""
    stage = Stage("own", "own", "training", f"{__name__}:Owner")
    monkeypatch.setitem(methods.STAGES, "own", stage)
    grid = tiny(tmp_path, "methods=[plain]")
    (cell,) = grid.plan.cells.values()
    return grid.store.prepare(Cell("own", cell.config))


def own_state(directory: CellDir) -> dict[str, Tensor]:
    data = directory.read_checkpoint()
    return from_bytes(data, directory / "checkpoint.pt")["training"]


def test_it_is_trained_and_checkpointed_but_not_published(owner: CellDir) -> None:
    assert go(owner, StopAfter(7)) == STOPPED
    first = own_state(owner)
    assert first.keys() == {"weight", "bias", "memory"}
    assert (first["memory"].abs().sum(1) > 0).all(), "each image by its number"
    assert go(owner, StopAfter(7)) == STOPPED
    second = own_state(owner)
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert go(owner) == DONE
    published = torch.load(owner / "model.pt", weights_only=True)["state_dict"]
    assert not {"weight", "memory"} & published.keys()
    assert owner.manifest.parameters == sum(
        v.numel() for k, v in published.items() if not k.endswith(("mean", "var", "tracked"))
    )


def test_it_goes_on_with_the_same_bits(owner: CellDir, tmp_path: Path) -> None:
    """Its term of the loss, which comes from projection and memory, is in every line."""
    again = Store(tmp_path / "again")
    again.create()
    other = again.prepare(Cell("own", owner.cell.config))
    assert go(owner) == DONE
    for _ in range(2):
        assert go(other, StopAfter(7)) == STOPPED
    assert go(other) == DONE
    assert all("loss/pull" in line for line in metrics(owner))
    assert_same_result(owner, other)
