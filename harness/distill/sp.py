"""Similarity-preserving distillation (Tung, Mori, ICCV 2019, arXiv 1907.09682)."""

import torch
from torch import Tensor

from harness.distill.relations import unit_rows, upcast_to_float32


def sp_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return (1 / B^2) ||G_S - G_T||_F^2, with G = Q Q^T, its rows normalised.

    Q (B, C H W) are the flattened maps. An image with an all-zero map has a row of zeros and zero
    gradient. Only the student gets a gradient.

    Args:
        student_map: (B, Cs, H, W), or any (B, ..).
        teacher_map: (B, ..), of any shape: only images are compared.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> alike, apart = torch.tensor([[1.0], [1.0]]), torch.eye(2)
        >>> round(sp_loss(alike, apart).item(), 4)
        0.2929
    """
    with torch.no_grad():
        teacher = _similarities(teacher_map)
    return (_similarities(student_map) - teacher).square().mean()


def _similarities(feature_map: Tensor) -> Tensor:
    """Return (B, B), with unit rows."""
    with torch.autocast(feature_map.device.type, enabled=False):
        q = upcast_to_float32(feature_map).flatten(1)
        return unit_rows(q @ q.T)
