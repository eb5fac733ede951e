"""Distillation on standardised logits."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.kd_standardised import standardised_kd_loss
from harness.methods.kd_standardised import StandardisedKdSettings
from harness.train.methods.base import Context, NetworkOutput
from harness.train.methods.distillation import Term


class StandardisedKd(Term):
    """Distillation on standardised logits."""

    settings: StandardisedKdSettings

    def __init__(self, context: Context, settings: StandardisedKdSettings) -> None:
        super().__init__(context, settings)
        self.ce_weight = settings.ce_weight

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        s = self.settings
        return s.weight * standardised_kd_loss(
            student.logits, teacher.logits, temperature=s.temperature
        )
