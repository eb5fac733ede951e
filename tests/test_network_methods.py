"""Every kind of network takes a step of every method, as a student of its own kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_foreign_networks import FOREIGN, options_of
from test_networks import SMALL, small
from training import CPU, config

from harness.data import Dataset, load
from harness.data.batches import epoch_generator
from harness.data.placement import on_device
from harness.experiment.file import parse
from harness.methods import SECTIONS, STAGES
from harness.train.methods.base import Context, make_training

FEW: dict[str, Any] = {  # 40 training images of 8x8 pixels
    "name": "few",
    "dataset": {"name": "digits", "validation": 100, "test": 1657},
    "teacher": {"network": "resnet", "depth": 8},
    "students": [{"network": "resnet", "depth": 8}],
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load(parse(FEW).dataset)


@pytest.mark.parametrize("kind", [kind for kind, s in STAGES.items() if s.network != "pixels"])
@pytest.mark.parametrize("label", [*SMALL, *FOREIGN])
def test_a_step_of_every_method(label: str, kind: str, dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = STAGES[kind]
    if label in FOREIGN:
        student, teacher = (options_of(label, tmp_path).build(10) for _ in range(2))
    else:
        student, teacher = small(label, 10), small(label, 10)
    images = {"train": on_device(dataset, dataset.train, CPU, 0)}
    sections: dict[str, Any] = {name: {} for name in SECTIONS}
    context = Context(config(**sections, seed=0), images, 10, student, teacher)
    training = make_training(kind, context)
    if stage.schedule is None:
        head = student.fc.weight.detach().clone()
        assert training.fit(student, 0) is not None
        assert not torch.equal(student.fc.weight, head)
        return
    batches = images["train"].augmented(20, epoch_generator(0, 0))
    batch = next(iter(training.prepare_batches(batches, 0)))
    losses, _ = training.losses(student, batch, 0)
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack([*losses.values()]).sum().backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    assert any((g != 0).any() for g in gradients)
