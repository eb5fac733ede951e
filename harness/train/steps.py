"""The steps of one epoch: forward, backward, the optimiser, and sums that stay on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_

from harness.data.batches import TARGET, Batch
from harness.networks.base import Network
from harness.train.evaluate import autocast
from harness.train.methods.base import Training
from harness.train.optimizer import WeightAverage


@dataclass
class Steps:
    """Takes one step for each batch that it is called with.

    Nothing in a step waits for a GPU.

    Attributes:
        epoch: The epoch, counted from 0.
        clip_norm: The largest norm of all gradients together; None for any.
        average: What averages the weights after each step.
        names: The names of the loss's terms.
        sums: The sums over all images so far, float64: of each term, then of the right answers if
            the training has logits.
    """

    model: Network
    training: Training
    optimizer: torch.optim.Optimizer
    precision: str
    epoch: int
    clip_norm: float | None = None
    average: WeightAverage | None = None
    names: list[str] = field(default_factory=list)
    sums: Tensor | None = None

    def __call__(self, batch: Batch) -> None:
        """Take the step of a batch."""
        with autocast(batch.x.device, self.precision):
            losses, logits = self.training.losses(self.model, batch, self.epoch)
        terms = torch.stack(list(losses.values()))
        self.optimizer.zero_grad(set_to_none=True)
        terms.sum().backward()
        if self.clip_norm is not None:
            clip_grad_norm_(self.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        counted = terms.detach().double() * len(batch.y)
        if logits is not None:
            counted = torch.cat([counted, n_right(logits, batch)[None]])
        if self.sums is None:
            self.names, self.sums = list(losses), counted
        else:
            self.sums.add_(counted)  # in place, as a CUDA graph knows this memory

    def parameters(self) -> list[nn.Parameter]:
        """Return everything that the optimiser changes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def averages(self, n_images: int) -> dict[str, float]:
        """Return "loss/{term}" and "train/accuracy", averaged over the epoch's images."""
        if self.sums is None:
            return {}
        names = [*(f"loss/{name}" for name in self.names), "train/accuracy"]
        return {k: v / n_images for k, v in zip(names, self.sums.tolist(), strict=False)}


def n_right(logits: Tensor, batch: Batch) -> Tensor:
    """Return the number of images whose largest logit is that of their class, as a scalar.

    A mixed image counts as the share of the class in it.
    """
    if TARGET in batch.prepared:
        return batch.prepared[TARGET].gather(1, logits.argmax(1)[:, None]).sum().double()
    return (logits.argmax(1) == batch.y).sum().double()


@contextlib.contextmanager
def batch_norms_count_at_once(*modules: nn.Module, n_batches: int) -> Iterator[None]:
    """Let the batch norms in training count an epoch's batches in the end, not step by step.

    Their `num_batches_tracked`, which nothing reads where there is a momentum, would else be a
    kernel per layer and step.
    """
    norms = [
        module
        for root in modules
        for module in root.modules()
        if isinstance(module, _BatchNorm) and module.training and module.momentum is not None
    ]
    counters = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
    tracked = [counter for counter in counters if counter is not None]
    if tracked:
        torch._foreach_add_(tracked, n_batches)
