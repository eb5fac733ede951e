"""Attention transfer (Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928)."""

from torch import Tensor

from harness.distill.maps import same_size
from harness.distill.relations import unit_rows, upcast_to_float32


def at_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the attention transfer loss of one pair of maps.

    Mean over images and positions of (a_S - a_T)^2, where a = v / ||v|| and v (H W) is the mean of
    the squares over the channels. Sum it over the maps. The larger map is pooled (`same_size`). A
    map of zeros has no attention and gets zero gradient. Only the student gets a gradient.

    Args:
        student_map: (B, Cs, H, W).
        teacher_map: (B, Ct, H', W'), with any number of channels.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> import torch
        >>> even, peaked = torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
        >>> round(at_loss(even, peaked).item(), 4)
        0.2929
    """
    student, teacher = same_size(
        upcast_to_float32(student_map), upcast_to_float32(teacher_map.detach())
    )
    return (_attention(student) - _attention(teacher)).square().mean()


def _attention(feature_map: Tensor) -> Tensor:
    """Return the attention vectors (B, H W), of unit norm."""
    return unit_rows(feature_map.square().mean(1).flatten(1))
