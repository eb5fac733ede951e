"""Probabilities of being neighbours, from embeddings."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.pkt import pkt_loss
from harness.methods.pkt import PktSettings
from harness.train.methods.base import NetworkOutput
from harness.train.methods.distillation import Term


class Pkt(Term):
    """Probabilistic knowledge transfer."""

    settings: PktSettings

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        return self.settings.weight * pkt_loss(student.embedding, teacher.embedding)
