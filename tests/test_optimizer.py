"""Steps of the optimiser, and the precision of an evaluation, against numbers worked out here."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_networks import small
from torch import Tensor, nn
from torch.nn import functional as F
from training import config

from harness.data.batches import Batch, Epoch
from harness.experiment.optimizer import Optimizer
from harness.methods.base import Section
from harness.methods.refilled import Stage1Settings, Stage2Settings
from harness.networks import build
from harness.networks.base import Network
from harness.store import CellDir
from harness.train import loop
from harness.train.evaluate import accuracy, embed_and_classify
from harness.train.methods.base import Context, Losses, Training
from harness.train.optimizer import make_optimizer

LR = (0.5, 0.25)  # of the two epochs


class Bowl(Training):
    """Pulls the model's weight w to 3 by (w - 3)^2, its own weight v to 1 by (v - 1)^2 / 2."""

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(self.module.weight, 4.0)
        self.predicted = self.selected = {}
        self.settings = Section()

    def losses(self, model: Any, batch: Any, epoch: int) -> tuple[Losses, Tensor | None]:
        own = (self.module.weight - 1).square().sum() / 2
        return {"w": (model.w - 3).square().sum(), "own": own}, None

    def prepare_batches(self, batches: Any, epoch: int) -> Any:
        return batches

    def lr(self, epoch: int) -> float:
        return LR[epoch]

    def evaluate(self, model: Network, epoch: int) -> dict[str, float] | None:
        return None


class OneBatch:
    device = torch.device("cpu")

    def __len__(self) -> int:
        return 2

    def augmented(self, batch_size: int, generator: torch.Generator) -> Epoch:
        x = y = torch.zeros(2)
        return Epoch([y], lambda: iter([Batch(x, y, y, y)]), is_resident=True)


def by_hand(
    value: float, gradient: Any, momentum: float, nesterov: bool, weight_decay: float
) -> float:
    """Sutskever's momentum as PyTorch has it: g = gradient + weight_decay x; b = momentum b + g
    (b = g at first); x -= lr (g + momentum b) with Nesterov, lr b without."""
    buffer = None
    for lr in LR:
        g = gradient(value) + weight_decay * value
        buffer = g if buffer is None else momentum * buffer + g
        value -= lr * (g + momentum * buffer if nesterov else buffer)
    return value


@pytest.mark.parametrize("weight_decay", [0.0, 0.125])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.75, False), (0.75, True)])
def test_two_steps(tmp_path: Path, momentum: float, nesterov: bool, weight_decay: float) -> None:
    settings = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    bowl = config(protocol={"selection": "last"}, optimizer={"batch_size": 2, **settings})
    model, training = nn.Module(), Bowl()
    model.w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    state, epoch, lines = loop.train(
        model, training, OneBatch(), bowl, 2, CellDir(tmp_path), lambda: False
    )
    assert state["w"].item() == pytest.approx(by_hand(2.0, lambda w: 2 * (w - 3), **settings))
    own = by_hand(4.0, lambda v: v - 1, **settings)
    assert training.module.weight.item() == pytest.approx(own)
    assert epoch == 2 and [line["lr"] for line in lines] == list(LR)
    assert lines[0]["loss/w"] == 1.0 and lines[0]["loss/own"] == 4.5


@pytest.mark.parametrize("label", ["wrn-10-1", "resnet-8", "mobilenet-0.25"])
def test_a_cpu_steps_to_the_same_bits_as_ever(label: str) -> None:
    """As PyTorch's plain implementation, whatever the weights' memory format and size."""
    models = []
    for device in ("cpu", "meta"):  # of any other device PyTorch decides
        torch.manual_seed(0)
        model = small(label, 10).to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model.parameters(), Optimizer(), torch.device(device))
        assert bool(optimizer.param_groups[0]["foreach"]) == (device == "cpu")
        for x in torch.randn(10, 8, 3, 32, 32):
            optimizer.zero_grad()
            F.cross_entropy(model(x), torch.arange(8)).backward()
            optimizer.step()
        models.append(model.state_dict())
    ours, plain = models
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


class SomeImages:
    """Un-augmented images in two batches."""

    def __init__(self, x: Tensor, device: str = "cpu") -> None:
        self.x, self.device = x, torch.device(device)
        self.labels = torch.zeros(len(x), dtype=torch.int64)

    def plain(self, batch_size: int = 512) -> Iterator[Any]:
        for x in self.x.split(4):
            yield SimpleNamespace(x=x)


def test_an_evaluation_has_the_cells_precision() -> None:
    torch.manual_seed(0)
    model = build("wide_resnet", 10, depth=10, width=1).eval()
    images: Any = SomeImages(torch.randn(8, 3, 8, 8))
    with torch.no_grad():
        exact = torch.cat([model(b.x) for b in images.plain()])
        with torch.autocast("cpu", torch.bfloat16):
            coarse = torch.cat([model(b.x) for b in images.plain()]).float()
    assert not torch.equal(exact, coarse)
    for precision, expected in (("float32", exact), ("bfloat16", coarse)):
        embedding, logits = embed_and_classify(model, images, precision)
        assert embedding.dtype == logits.dtype == torch.float32
        assert torch.equal(logits, expected)


def test_the_precision_reaches_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the classifier, the nearest class mean and the teacher's centres."""
    from harness.train import evaluate
    from harness.train.methods import base, stage1, stage2

    seen: list[str] = []
    real = evaluate.autocast

    def watched(device: torch.device, precision: str) -> Any:
        seen.append(precision)
        return real(device, precision)

    monkeypatch.setattr(evaluate, "autocast", watched)
    model = build("wide_resnet", 10, depth=10, width=1)
    images: Any = {k: SomeImages(torch.randn(8, 3, 8, 8)) for k in ("train", "validation")}
    context = Context(config(optimizer={"precision": "bfloat16"}), images, 10, model, model)
    settings = Stage1Settings(epochs=1, select_every=1)
    base.Classifier(context, settings).evaluate(model, 0)
    assert seen == ["bfloat16"]
    stage1.RelationMatching(context, settings).evaluate(model, 0)
    assert seen == ["bfloat16"] * 3
    stage2.global_centers(context, augmented=False)
    assert seen == ["bfloat16"] * 4
    assert accuracy(model, images["train"], "bfloat16") >= 0


def test_local_centres_count_epochs_from_1() -> None:
    """2020-06: their weight is 1000 exp(-0.05 (epoch - 1)), so 1000 in the loop's epoch 0."""
    from harness.distill.stage2 import local_teaching_loss
    from harness.train.methods import stage2

    torch.manual_seed(0)
    student, teacher = (build("wide_resnet", 10, depth=10, width=1).eval() for _ in range(2))
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    images: Any = {"train": SomeImages(x)}
    context = Context(config(), images, 10, student, teacher)
    training = stage2.CenterTeaching(context, Stage2Settings(centers="local"))
    batch = Batch(x, y, y, y)
    for epoch in (0, 3):
        losses, logits = training.losses(student, batch, epoch)
        embedding = teacher.embed(x)
        expected = local_teaching_loss(logits, embedding, y, tau2=2.0, epoch=epoch + 1)
        torch.testing.assert_close(losses["teaching"], expected)
