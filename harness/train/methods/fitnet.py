"""A hint: one of the teacher's maps, predicted from the student's."""

from torch import Tensor, nn

from harness.data.batches import Batch
from harness.distill.fitnet import fitnet_loss, fitnet_regressor
from harness.methods.fitnet import FitnetSettings
from harness.train.methods.base import Context, NetworkOutput
from harness.train.methods.distillation import Term


class Fitnet(Term):
    settings: FitnetSettings

    def __init__(self, context: Context, settings: FitnetSettings) -> None:
        super().__init__(context, settings)
        self.place = settings.map - 1
        channels = (n.map_channels[self.place] for n in (context.student, context.teacher))
        convolution = fitnet_regressor(*channels)
        # As in RepDistiller, whose weight needs it: without, the first steps of a usual learning
        # rate end in NaN.
        self.regressor = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, batch: Batch, epoch: int
    ) -> Tensor:
        pair = student.maps[self.place], teacher.maps[self.place]
        return self.settings.weight * fitnet_loss(*pair, self.regressor)
