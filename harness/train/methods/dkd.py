"""Decoupled distillation on logits."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.dkd import dkd_loss
from harness.methods.dkd import DkdSettings
from harness.train.methods.base import NetworkOutput
from harness.train.methods.distillation import Term


class Dkd(Term):
    """Decoupled knowledge distillation, with a linear warm-up."""

    settings: DkdSettings

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        s = self.settings
        grown = min((epoch + 1) / s.warmup, 1.0) if s.warmup else 1.0
        return grown * dkd_loss(
            student.logits,
            teacher.logits,
            batch.y,
            alpha=s.alpha,
            beta=s.beta,
            temperature=s.temperature,
        )
