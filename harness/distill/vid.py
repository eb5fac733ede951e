"""Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.distill.maps import same_size
from harness.distill.relations import upcast_to_float32

FIRST_VARIANCE = 5.0
LEAST_VARIANCE = 1e-5


class VidRegressor(nn.Module):
    """Predicts a teacher's map from a student's: the mean of q(t | s) = N(t; mean, variance).

    Three 1x1 convolutions without bias, with ReLU between them. The variance is learned, one number
    per channel: softplus(log_scale) + 1e-5, starting at 5. Train its parameters with the student's.

    Examples:
        >>> VidRegressor(3, 5)(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 5, 4, 4])
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        start = math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    def variance(self) -> Tensor:
        """Return the variances (Ct,), at least float32."""
        return F.softplus(upcast_to_float32(self.log_scale)) + LEAST_VARIANCE

    def forward(self, student_map: Tensor) -> Tensor:
        """Return the predicted mean (B, Ct, H, W) for student maps (B, Cs, H, W)."""
        return self.regressor(student_map)


def vid_loss(student_map: Tensor, teacher_map: Tensor, regressor: VidRegressor) -> Tensor:
    """Return the mean of [(t - mean(s))^2 / variance + log variance] / 2 over one pair of maps.

    This is -log q(t | s) without its constant. The larger map is pooled (`same_size`), the
    student's before the regressor. The student and the regressor get a gradient.

    Args:
        student_map: (B, Cs, H, W).
        teacher_map: (B, Ct, H', W').
        regressor: from Cs to Ct channels.

    Returns:
        Scalar, at least float32.

    Examples:
        A student map of zeros predicts zeros, with the initial variance of 5:

        >>> zeros = torch.zeros(1, 3, 4, 4)
        >>> round(vid_loss(zeros, zeros, VidRegressor(3, 3)).item(), 4)  # log(5) / 2
        0.8047
    """
    with torch.autocast(student_map.device.type, enabled=False):
        student, teacher = same_size(
            upcast_to_float32(student_map), upcast_to_float32(teacher_map.detach())
        )
        variance = regressor.variance()[:, None, None]
        error = (regressor(student) - teacher).square()
    return ((error / variance + variance.log()) / 2).mean()
