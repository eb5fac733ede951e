"""Hints from intermediate maps (FitNets: Romero et al., ICLR 2015, arXiv 1412.6550)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.distill.maps import same_size
from harness.distill.relations import upcast_to_float32


def fitnet_regressor(student_channels: int, teacher_channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution without bias from the student's to the teacher's channels.

    Train its parameters with the student's.

    Examples:
        >>> fitnet_regressor(3, 5)(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 5, 4, 4])
    """
    return nn.Conv2d(student_channels, teacher_channels, 1, bias=False)


def fitnet_loss(student_map: Tensor, teacher_map: Tensor, regressor: nn.Module) -> Tensor:
    """Return the mean of (regressor(s) - t)^2 over all entries of one pair of maps.

    The larger map is pooled (`same_size`), the student's before the regressor. The student and the
    regressor get a gradient.

    Args:
        student_map: (B, Cs, H, W).
        teacher_map: (B, Ct, H', W').
        regressor: maps (B, Cs, H, W) to (B, Ct, H, W), e.g. `fitnet_regressor`.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: the regressor's output and the teacher's map differ in shape.

    Examples:
        >>> fitnet_loss(torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0), nn.Identity())
        tensor(9.)
    """
    with torch.autocast(student_map.device.type, enabled=False):
        student, teacher = same_size(
            upcast_to_float32(student_map), upcast_to_float32(teacher_map.detach())
        )
        prediction = regressor(student)
    if prediction.shape != teacher.shape:
        raise ValueError(
            f"regressor: gives {tuple(prediction.shape)}, the teacher's map is "
            f"{tuple(teacher.shape)}"
        )
    return F.mse_loss(prediction, teacher)
