"""A hint: one of the teacher's maps, predicted from the student's."""

from typing import Any

from torch import Tensor

from harness.data.batches import Batch
from harness.distill.fitnet import fitnet_loss, fitnet_regressor
from harness.train.methods.base import Answer, Context
from harness.train.methods.distillation import Term


class Fitnet(Term):
    wants_maps = True

    def __init__(self, context: Context, settings: dict[str, Any]) -> None:
        super().__init__(context, settings)
        self.place = settings["map"] - 1
        self.regressor = fitnet_regressor(
            context.student.map_channels[self.place], context.teacher.map_channels[self.place]
        )

    def forward(self, student: Answer, teacher: Answer, batch: Batch, epoch: int) -> Tensor:
        pair = student.maps[self.place], teacher.maps[self.place]
        return self.settings["weight"] * fitnet_loss(*pair, self.regressor)
