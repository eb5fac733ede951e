"""Neuron selectivity transfer (Huang, Wang, arXiv 1707.01219)."""

import torch
from torch import Tensor

from harness.distill.maps import same_size
from harness.distill.relations import unit_rows, upcast_to_float32


def nst_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy between the channels of one pair of maps.

    mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') - 2 mean_cc' k(s_c, t_c'), averaged over the
    images, with k(a, b) = <a, b>^2 and each channel (H W) normalised. Sum it over the maps. The
    larger map is pooled (`same_size`). A channel of zeros stays zero, with zero gradient. Only the
    student gets a gradient.

    Args:
        student_map: (B, Cs, H, W).
        teacher_map: (B, Ct, H', W'), with any number of channels.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> nst_loss(left, right)  # 1 + 1 - 2 x 0
        tensor(2.)
    """
    with torch.autocast(student_map.device.type, enabled=False):
        student, teacher = same_size(
            upcast_to_float32(student_map), upcast_to_float32(teacher_map.detach())
        )
        s, t = unit_rows(student.flatten(2)), unit_rows(teacher.flatten(2))
        return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean kernel between the channels of (B, Ca, H W) and (B, Cb, H W).

    One product per batch: it needs no (B, Ca, Cb, H W) in between.
    """
    return (a @ b.mT).square().mean()
