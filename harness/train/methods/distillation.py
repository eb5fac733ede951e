"""Methods of one stage: cross-entropy, and terms that compare student and teacher."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from harness.data.batches import Batch
from harness.networks.base import Network
from harness.train.methods.base import Answer, Classifier, Context, Losses, cross_entropy


class Term(nn.Module):
    """What one method adds to the cross-entropy. Its parameters and buffers are the training's own
    (`Training.module`).

    wants_maps: whether the answers must have maps.
    ce_weight: of the cross-entropy beside it.
    """

    wants_maps = False
    ce_weight = 1.0

    def __init__(self, context: Context, settings: dict[str, Any]) -> None:
        """settings: the section of the cell's spec that is the method's own."""
        super().__init__()
        self.context = context
        self.settings = settings

    def forward(self, student: Answer, teacher: Answer, batch: Batch, epoch: int) -> Tensor:
        """The weighted term, a scalar. epoch: from 0."""
        raise NotImplementedError


class Distillation(Classifier):
    """The cross-entropy once, with the largest weight that one of the terms gives it, and each
    term."""

    module: nn.ModuleDict

    def __init__(
        self, context: Context, settings: dict[str, Any], terms: Mapping[str, str]
    ) -> None:
        """terms: section -> "module:class" of the term that has its settings."""
        super().__init__(context, settings)
        self.terms: dict[str, Term] = {}
        for section, target in terms.items():
            module, _, name = target.partition(":")
            term: type[Term] = getattr(importlib.import_module(module), name)
            self.terms[section] = term(context, context.spec[section])
        self.module = nn.ModuleDict(self.terms)
        self.ce_weight = max(term.ce_weight for term in self.terms.values())
        self.wants_maps = any(term.wants_maps for term in self.terms.values())

    def losses(self, model: Network, batch: Batch, epoch: int) -> tuple[Losses, Tensor | None]:
        teacher = self.context.teach(batch, self.wants_maps)
        student = Answer.of(model, batch.x, self.wants_maps)
        losses = {"ce": self.ce_weight * cross_entropy(student.logits, batch.y)}
        for name, term in self.terms.items():
            losses[name] = term(student, teacher, batch, epoch)
        return losses, student.logits
