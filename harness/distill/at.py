"""Attention transfer (Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928)."""

from torch import Tensor

from harness.distill.maps import same_size
from harness.distill.relations import unit_rows, upcast_to_float32


def at_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean over images and positions of (a_S - a_T)^2, for one map; sum it over the maps.

    a = v / ||v|| with v (H W) the mean of the squares over the channels. Maps of other sizes are
    pooled (`same_size`). A map of zeros has no attention and gets zero gradient. Only the student
    gets a gradient.

    Args:
        student_map: (B, Cs, H, W).
        teacher_map: (B, Ct, H', W'); any number of channels.

    Returns:
        Scalar, float32 at least.
    """
    student, teacher = same_size(
        upcast_to_float32(student_map), upcast_to_float32(teacher_map.detach())
    )
    return (_attention(student) - _attention(teacher)).square().mean()


def _attention(feature_map: Tensor) -> Tensor:
    """(B, H W) of unit rows."""
    return unit_rows(feature_map.square().mean(1).flatten(1))
