"""Similarities between images, from the last maps."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.sp import sp_loss
from harness.methods.sp import SpSettings
from harness.train.methods.base import NetworkOutput
from harness.train.methods.distillation import Term


class Sp(Term):
    """Similarity-preserving distillation."""

    settings: SpSettings

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        return self.settings.weight * sp_loss(student.maps[-1], teacher.maps[-1])
