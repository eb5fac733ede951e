"""Contrastive distillation, with negatives of other classes from a memory."""

import torch
from torch import Tensor

from harness.data.batches import Batch, epoch_generator
from harness.distill.crd_memory import CrdMemory
from harness.distill.negatives import draw_negatives
from harness.methods.crd import CrdSettings
from harness.train.methods.base import Context, NetworkOutput
from harness.train.methods.distillation import Term

STREAM = 2  # the stream of `epoch_generator`


class Crd(Term):
    """The contrastive loss with a memory, which is a buffer, so that checkpoints have it.

    The negatives of a batch follow from (seed, epoch) and its place in the epoch.
    """

    settings: CrdSettings

    def __init__(self, context: Context, settings: CrdSettings) -> None:
        super().__init__(context, settings)
        self.memory = CrdMemory(
            context.student.embedding_dim,
            context.teacher.embedding_dim,
            len(context.train),
            features=settings.features,
            temperature=settings.temperature,
            momentum=settings.momentum,
        )
        self.epoch = -1

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        labels = self.context.train.labels
        if epoch != self.epoch:
            seed = epoch_generator(self.context.config.seed, epoch, STREAM).initial_seed()
            self.epoch = epoch
            self.generator = torch.Generator(labels.device).manual_seed(seed)
        negatives = draw_negatives(labels, batch.y, self.settings.negatives, self.generator)
        return self.settings.weight * self.memory(
            student.embedding,
            teacher.embedding,
            batch.index,
            torch.cat([batch.index[:, None], negatives], 1),
        )
