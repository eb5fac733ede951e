"""Patterns of channels, summed over the groups of blocks."""

import torch
from torch import Tensor

from harness.data.batches import Batch
from harness.distill.nst import nst_loss
from harness.train.methods.base import Answer
from harness.train.methods.distillation import Term


class Nst(Term):
    wants_maps = True

    def forward(self, student: Answer, teacher: Answer, batch: Batch, epoch: int) -> Tensor:
        pairs = zip(student.maps, teacher.maps, strict=True)
        return self.settings["weight"] * torch.stack([nst_loss(s, t) for s, t in pairs]).sum()
