"""The teacher's maps, predicted with a variance, summed over the groups of blocks."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.distill.vid import VidRegressor, vid_loss
from harness.train.methods.base import Answer, Context
from harness.train.methods.distillation import Term


class Vid(Term):
    wants_maps = True

    def __init__(self, context: Context, settings: dict[str, Any]) -> None:
        super().__init__(context, settings)
        channels = zip(context.student.map_channels, context.teacher.map_channels, strict=True)
        self.regressors = nn.ModuleList(VidRegressor(s, t) for s, t in channels)

    def forward(self, student: Answer, teacher: Answer, batch: Batch, epoch: int) -> Tensor:
        pairs = zip(student.maps, teacher.maps, strict=True)
        terms = [vid_loss(s, t, self.regressor(i)) for i, (s, t) in enumerate(pairs)]
        return self.settings["weight"] * torch.stack(terms).sum()

    def regressor(self, place: int) -> VidRegressor:
        found = self.regressors[place]
        assert isinstance(found, VidRegressor)
        return found
