"""Relational knowledge distillation (Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import unit_rows, upcast_to_float32

# The smallest distance between two images, as in the original, so that the mean distance that
# everything is divided by is above zero.
NEAREST = 1e-6


def rkd_distance_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Return the mean over i, j of smooth_l1(d_S(i, j) / mean d_S - d_T(i, j) / mean d_T).

    d are Euclidean distances between the raw embeddings; their mean is over i != j. Images with
    equal embeddings count as 1e-6 apart and exert no pull. Only the student gets a gradient.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, at least float32; 0 for a batch of one image.

    Examples:
        >>> line = torch.tensor([[0.0], [1.0], [2.0]])
        >>> rkd_distance_loss(line, 7 * line)  # only ratios count
        tensor(0.)
        >>> round(rkd_distance_loss(line, torch.eye(3)).item(), 4)
        0.0417
    """
    with torch.no_grad():
        teacher = _relative_distances(teacher_embedding)
    return F.smooth_l1_loss(_relative_distances(student_embedding), teacher)


def rkd_angle_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Return the mean over i, j, k of smooth_l1(cos_S(j, i, k) - cos_T(j, i, k)).

    cos(j, i, k) is the cosine of the angle at i between the directions to j and to k; 0 if one of
    them has zero length. Takes memory for B^3 numbers and B^2 (Ds + Dt). Only the student gets a
    gradient.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> line, corner = torch.tensor([[0.0], [1.0], [2.0]]), torch.eye(3)
        >>> round(rkd_angle_loss(line, corner).item(), 4)
        0.0926
    """
    with torch.no_grad():
        teacher = _cosines(teacher_embedding)
    return F.smooth_l1_loss(_cosines(student_embedding), teacher)


def rkd_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, distance: float, angle: float
) -> Tensor:
    """Return distance x `rkd_distance_loss` + angle x `rkd_angle_loss`; the paper uses 25 and 50.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.
        distance: weight of the distances.
        angle: weight of the angles.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> line, corner = torch.tensor([[0.0], [1.0], [2.0]]), torch.eye(3)
        >>> round(rkd_loss(line, corner, distance=25.0, angle=50.0).item(), 4)
        5.6713
    """
    return distance * rkd_distance_loss(
        student_embedding, teacher_embedding
    ) + angle * rkd_angle_loss(student_embedding, teacher_embedding)


def _relative_distances(embedding: Tensor) -> Tensor:
    """Return (B, B), with zeros on the diagonal and a mean of 1 off it."""
    n = len(embedding)
    with torch.autocast(embedding.device.type, enabled=False):
        x = upcast_to_float32(embedding)
        # From differences, as in `unit_distances`: exact where images are near each other.
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    distances = distances.clamp(min=NEAREST).masked_fill(itself, 0)
    return distances / (distances.sum() / max(n * (n - 1), 1)).clamp(min=NEAREST)


def _cosines(embedding: Tensor) -> Tensor:
    """Return (B, B, B): [i, j, k] is the cosine at i between the directions to j and to k."""
    with torch.autocast(embedding.device.type, enabled=False):
        x = upcast_to_float32(embedding)
        directions = unit_rows(x[None, :] - x[:, None])
        return directions @ directions.mT
