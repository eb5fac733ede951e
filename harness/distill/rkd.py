"""Relational knowledge distillation (Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import unit_rows, upcast_to_float32

# Two different images are never nearer than this, as in the original: the mean distance that
# everything is divided by stays above zero.
NEAREST = 1e-6


def rkd_distance_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over i, j of smooth_l1(d_S(i, j) / mean d_S - d_T(i, j) / mean d_T).

    d are Euclidean distances between the raw embeddings; their mean is over i != j. Images whose
    embeddings are equal count as 1e-6 apart and pull at nothing. Only the student gets a gradient.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, float32 at least; 0 for a batch of one image.
    """
    with torch.no_grad():
        teacher = _relative_distances(teacher_embedding)
    return F.smooth_l1_loss(_relative_distances(student_embedding), teacher)


def rkd_angle_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over i, j, k of smooth_l1(cos_S(j, i, k) - cos_T(j, i, k)).

    cos(j, i, k) is the cosine of the angle at i between the directions to j and to k; 0 where
    one of them has no length. Takes memory for B^3 numbers and B^2 (Ds + Dt). Only the student
    gets a gradient.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, float32 at least.
    """
    with torch.no_grad():
        teacher = _cosines(teacher_embedding)
    return F.smooth_l1_loss(_cosines(student_embedding), teacher)


def rkd_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, distance: float, angle: float
) -> Tensor:
    """distance x `rkd_distance_loss` + angle x `rkd_angle_loss`; the paper takes 25 and 50.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, float32 at least.
    """
    return distance * rkd_distance_loss(
        student_embedding, teacher_embedding
    ) + angle * rkd_angle_loss(student_embedding, teacher_embedding)


def _relative_distances(embedding: Tensor) -> Tensor:
    """(B, B), zeros on the diagonal, 1 in the mean off it."""
    n = len(embedding)
    with torch.autocast(embedding.device.type, enabled=False):
        x = upcast_to_float32(embedding)
        # From differences, as in `unit_distances`: exact where images are near each other.
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    distances = distances.clamp(min=NEAREST).masked_fill(itself, 0)
    return distances / (distances.sum() / max(n * (n - 1), 1)).clamp(min=NEAREST)


def _cosines(embedding: Tensor) -> Tensor:
    """(B, B, B): [i, j, k] is the cosine at i between the directions to j and to k."""
    with torch.autocast(embedding.device.type, enabled=False):
        x = upcast_to_float32(embedding)
        directions = unit_rows(x[None, :] - x[:, None])
        return directions @ directions.mT
