"""Methods of one stage: cross-entropy, and terms that compare student and teacher."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.distill.relations import upcast_to_float32
from harness.methods import needs_maps
from harness.methods.base import PairedMaps, Section
from harness.networks.base import Network
from harness.train.methods.base import (
    Context,
    Losses,
    NetworkOutput,
    ScheduledClassifier,
    cross_entropy,
)


class Term(nn.Module):
    """What one method adds to the cross-entropy. Its parameters and buffers are the training's own
    (`Training.module`).

    ce_weight: of the cross-entropy beside it.
    """

    ce_weight = 1.0
    settings: Section

    def __init__(self, context: Context, settings: Section) -> None:
        """
        Args:
            settings: the method's own section.
        """
        super().__init__()
        self.context = context
        self.settings = settings

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """The weighted term, a scalar. Logits in float32 at least, maps if the method needs them.
        epoch: from 0."""
        raise NotImplementedError


class MapPairs(Term):
    """A loss of each pair of maps, summed and times `weight`."""

    settings: PairedMaps

    def loss(self, student_map: Tensor, teacher_map: Tensor, place: int) -> Tensor:
        """Of one pair, a scalar. place: from 0, the shallowest."""
        raise NotImplementedError

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        pairs = zip(student.maps, teacher.maps, strict=True)
        losses = [self.loss(s, t, place) for place, (s, t) in enumerate(pairs)]
        return self.settings.weight * torch.stack(losses).sum()


class Distillation(ScheduledClassifier):
    """The cross-entropy once, with the largest weight that one of the terms gives it, and each
    term."""

    module: nn.ModuleDict

    def __init__(self, context: Context, settings: Section, terms: Mapping[str, str]) -> None:
        """terms: method -> "module:class" of its term; its section has the same name."""
        super().__init__(context, settings)
        self.terms: dict[str, Term] = {
            name: pkgutil.resolve_name(target)(context, context.config.sections[name])
            for name, target in terms.items()
        }
        self.module = nn.ModuleDict(self.terms)
        self.ce_weight = max(term.ce_weight for term in self.terms.values())
        self.wants_maps = needs_maps(terms)

    def prepared(self, batches: Iterable[Batch], epoch: int) -> Iterable[Batch]:
        return batches if self.wants_maps else super().prepared(batches, epoch)

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        teacher = self.context.teach(batch, self.wants_maps)
        student = NetworkOutput.of(model, batch.x, self.wants_maps)
        # Once for all: the gradients of several terms meet in float32, not in half precision.
        student = replace(student, logits=upcast_to_float32(student.logits))
        losses = {"ce": self.ce_weight * cross_entropy(student.logits, batch.y)}
        for name, term in self.terms.items():
            losses[name] = term(student, teacher, batch, epoch)
        return losses, student.logits
