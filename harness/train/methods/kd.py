"""Classic distillation on logits."""

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.kd import kd_term
from harness.methods.kd import KdSettings
from harness.train.methods.base import Context, NetworkOutput
from harness.train.methods.distillation import Term


class Kd(Term):
    """The distillation term of Hinton et al."""

    settings: KdSettings

    def __init__(self, context: Context, settings: KdSettings) -> None:
        super().__init__(context, settings)
        self.ce_weight = 1 - settings.alpha

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        s = self.settings
        return kd_term(student.logits, teacher.logits, temperature=s.temperature, alpha=s.alpha)
