"""Patterns of channels, summed over the groups of blocks."""

from torch import Tensor

from harness.distill.nst import nst_loss
from harness.train.methods.distillation import MapPairs


class Nst(MapPairs):
    """Neuron selectivity transfer."""

    def loss(self, student_map: Tensor, teacher_map: Tensor, level: int) -> Tensor:
        """Return the loss of one pair of maps."""
        return nst_loss(student_map, teacher_map)
