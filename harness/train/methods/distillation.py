"""Methods of one stage: the cross-entropy and terms that compare student and teacher."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from harness.data.batches import Batch, Epoch
from harness.distill.relations import upcast_to_float32
from harness.methods import needs_maps
from harness.methods.base import PairedMaps, Section
from harness.networks.base import Network
from harness.train.methods.base import (
    Context,
    Losses,
    NetworkOutput,
    ScheduledClassifier,
)


class Term(nn.Module):
    """The term that one method adds to the cross-entropy.

    Its parameters and buffers belong to the training (`Training.module`).

    Args:
        settings: The section of the method.

    Attributes:
        ce_weight: The weight of the cross-entropy beside it.
    """

    ce_weight = 1.0
    settings: Section

    def __init__(self, context: Context, settings: Section) -> None:
        super().__init__()
        self.context = context
        self.settings = settings

    def prepare(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Return what the step of a batch needs besides, which `batch.prepared` then has.

        Epochs are counted from 0.
        """
        return {}

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term, a scalar.

        The logits are at least float32; there are maps if the method needs them. Epochs are counted
        from 0.
        """
        raise NotImplementedError


class MapPairs(Term):
    """A loss of each pair of maps, summed and weighted."""

    settings: PairedMaps

    def loss(self, student_map: Tensor, teacher_map: Tensor, level: int) -> Tensor:
        """Return the loss of one pair, a scalar; level 0 is the shallowest."""
        raise NotImplementedError

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted sum over all pairs."""
        pairs = zip(student.maps, teacher.maps, strict=True)
        losses = [self.loss(s, t, level) for level, (s, t) in enumerate(pairs)]
        return self.settings.weight * torch.stack(losses).sum()


class Distillation(ScheduledClassifier):
    """The cross-entropy once, with the largest weight that a term gives it, and the terms.

    Args:
        terms: Method -> "module:class" of its term; the method's section has the same name.
    """

    module: nn.ModuleDict

    def __init__(self, context: Context, settings: Section, terms: Mapping[str, str]) -> None:
        super().__init__(context, settings)
        self.terms: dict[str, Term] = {
            name: pkgutil.resolve_name(target)(context, context.config.sections[name])
            for name, target in terms.items()
        }
        self.module = nn.ModuleDict(self.terms)
        self.ce_weight = max(term.ce_weight for term in self.terms.values())
        self.needs_maps = needs_maps(terms)

    def prepare_batches(self, batches: Epoch, epoch: int) -> Iterator[Batch]:
        """Yield the batches with what the terms need.

        The teacher's outputs are at hand unless maps are needed.
        """
        for batch in batches if self.needs_maps else super().prepare_batches(batches, epoch):
            needed = [term.prepare(batch, epoch).items() for term in self.terms.values()]
            yield batch.with_prepared(**dict(chain.from_iterable(needed)))

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        """Return the cross-entropy and the terms, and the logits."""
        teacher = self.context.teacher_output(batch, self.needs_maps)
        student = NetworkOutput.compute(model, batch.x, self.needs_maps)
        # Once for all terms: their gradients add up in float32, not in half precision.
        student = replace(student, logits=upcast_to_float32(student.logits))
        losses = {"ce": self.ce_weight * self.classification_loss(student.logits, batch)}
        for name, term in self.terms.items():
            losses[name] = term(student, teacher, batch, epoch)
        return losses, student.logits
