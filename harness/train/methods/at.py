"""Attention maps, summed over the groups of blocks."""

from torch import Tensor

from harness.distill.at import at_loss
from harness.train.methods.distillation import MapPairs


class At(MapPairs):
    """Attention transfer."""

    def loss(self, student_map: Tensor, teacher_map: Tensor, level: int) -> Tensor:
        """Return the loss of one pair of maps."""
        return at_loss(student_map, teacher_map)
