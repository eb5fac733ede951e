"""Contrastive distillation, with negatives of other classes from a memory."""

import torch
from torch import Tensor

from harness.data.batches import Batch, epoch_generator
from harness.distill.crd_memory import CrdMemory
from harness.distill.negatives import NegativeSampler
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
        self.sampler = NegativeSampler(context.train.labels)
        self.epoch = -1

    def prepare(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Return the batch's images and their negatives, (B, K + 1)."""
        if epoch != self.epoch:
            seed = epoch_generator(self.context.config.seed, epoch, STREAM).initial_seed()
            self.epoch = epoch
            self.generator = torch.Generator(batch.y.device).manual_seed(seed)
        n = self.settings.negatives
        negatives = self.sampler.draw(batch.y, n, self.generator, batch.y_cpu)
        return {"contrast_index": torch.cat([batch.index[:, None], negatives], 1)}

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        return self.settings.weight * self.memory(
            student.embedding,
            teacher.embedding,
            batch.index,
            batch.prepared["contrast_index"],
        )
