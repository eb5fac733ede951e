"""Classic distillation on logits."""

from typing import Any

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.kd import kd_term
from harness.train.methods.base import Context, NetworkOutput
from harness.train.methods.distillation import Term


class Kd(Term):
    def __init__(self, context: Context, settings: dict[str, Any]) -> None:
        super().__init__(context, settings)
        self.ce_weight = 1 - settings["alpha"]

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        return kd_term(student.logits, teacher.logits, **self.settings)
