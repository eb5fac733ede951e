"""Probabilistic knowledge transfer (Passalis, Tefas, ECCV 2018, arXiv 1803.10837)."""

import torch
from torch import Tensor

from harness.distill.relations import upcast_to_float32

EPS = 1e-7


def pkt_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Return the mean over i, j of p_T(j | i) log((p_T(j | i) + 1e-7) / (p_S(j | i) + 1e-7)).

    p(j | i) = k(i, j) / sum_j k(i, j) with the kernel k = (1 + cos(phi_i, phi_j)) / 2, including
    j = i. An embedding of zeros has cosine 0 with all others, and zero gradient. Only the student
    gets a gradient.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> apart, alike = torch.eye(2), torch.ones(2, 3)
        >>> round(pkt_loss(alike, apart).item(), 4)  # p_T = (2/3, 1/3), p_S = (1/2, 1/2)
        0.0283
    """
    with torch.no_grad():
        teacher = _probabilities(teacher_embedding)
    student = _probabilities(student_embedding)
    return (teacher * ((teacher + EPS) / (student + EPS)).log()).mean()


def _probabilities(embedding: Tensor) -> Tensor:
    """Return (B, B), with rows that sum to 1."""
    with torch.autocast(embedding.device.type, enabled=False):
        x = upcast_to_float32(embedding)
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        # The original adds eps to the norm; `unit_rows` would differ by more than 1e-9.
        unit = torch.where(norm > 0, x / (norm + EPS), 0)
        kernel = (unit @ unit.T + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)
