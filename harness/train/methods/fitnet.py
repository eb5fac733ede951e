"""Hint-based distillation: one of the teacher's maps, predicted from the student's."""

from torch import Tensor, nn

from harness.data.batches import Batch
from harness.distill.fitnet import fitnet_loss, fitnet_regressor
from harness.methods.fitnet import FitnetSettings
from harness.train.methods.base import Context, NetworkOutput
from harness.train.methods.distillation import Term


class Fitnet(Term):
    """The hint loss, with a convolution that maps the student to the teacher."""

    settings: FitnetSettings

    def __init__(self, context: Context, settings: FitnetSettings) -> None:
        super().__init__(context, settings)
        self.level = settings.map - 1
        channels = (n.map_channels[self.level] for n in (context.student, context.teacher))
        convolution = fitnet_regressor(*channels)
        # As in RepDistiller, whose weight needs it: without it, the first steps at a usual learning
        # rate end in NaN.
        self.regressor = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        """Return the weighted term."""
        pair = student.maps[self.level], teacher.maps[self.level]
        return self.settings.weight * fitnet_loss(*pair, self.regressor)
