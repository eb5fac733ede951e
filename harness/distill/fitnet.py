"""Hints from inner maps (FitNets: Romero et al., ICLR 2015, arXiv 1412.6550)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.distill.maps import same_size
from harness.distill.relations import upcast_to_float32


def fitnet_regressor(student_channels: int, teacher_channels: int) -> nn.Conv2d:
    """A 1x1 convolution without bias: what takes the student's map to the teacher's channels.

    Train its parameters with the student's.
    """
    return nn.Conv2d(student_channels, teacher_channels, 1, bias=False)


def fitnet_loss(student_map: Tensor, teacher_map: Tensor, regressor: nn.Module) -> Tensor:
    """Mean over all entries of (regressor(s) - t)^2, for one map.

    Maps of other sizes are pooled (`same_size`), the student's before the regressor. The student
    and the regressor get a gradient.

    Args:
        student_map: (B, Cs, H, W).
        teacher_map: (B, Ct, H', W').
        regressor: (B, Cs, H, W) to (B, Ct, H, W), such as `fitnet_regressor`.

    Returns:
        Scalar, float32 at least.

    Raises:
        ValueError: the regressor's output has another shape than the teacher's map.
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
