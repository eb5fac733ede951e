"""Distances and angles between embeddings."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.rkd import rkd_loss
from harness.methods.rkd import RkdSettings
from harness.train.methods.base import NetworkOutput
from harness.train.methods.distillation import Term


class Rkd(Term):
    """Relational knowledge distillation: distances and angles."""

    settings: RkdSettings

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        s = self.settings
        return s.weight * rkd_loss(
            student.embedding, teacher.embedding, distance=s.distance, angle=s.angle
        )
