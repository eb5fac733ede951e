"""The teacher's maps, predicted with a variance, summed over the groups of blocks."""

from torch import Tensor, nn

from harness.distill.vid import VidRegressor, vid_loss
from harness.methods.vid import VidSettings
from harness.train.methods.base import Context
from harness.train.methods.distillation import MapPairs


class Vid(MapPairs):
    """Variational information distillation, with a regressor per pair of maps."""

    def __init__(self, context: Context, settings: VidSettings) -> None:
        super().__init__(context, settings)
        channels = zip(context.student.map_channels, context.teacher.map_channels, strict=True)
        self.regressors = nn.ModuleList(VidRegressor(s, t) for s, t in channels)

    def loss(self, student_map: Tensor, teacher_map: Tensor, level: int) -> Tensor:
        """Return the loss of one pair of maps."""
        regressor = self.regressors[level]
        assert isinstance(regressor, VidRegressor)
        return vid_loss(student_map, teacher_map, regressor)
