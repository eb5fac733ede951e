"""Probabilistic knowledge transfer (Passalis, Tefas, ECCV 2018, arXiv 1803.10837)."""

import torch
from torch import Tensor

from harness.distill.relations import upcast_to_float32

EPS = 1e-7


def pkt_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over i, j of p_T(j | i) log((p_T(j | i) + eps) / (p_S(j | i) + eps)), eps = 1e-7.

    p(j | i) = k(i, j) / sum_j k(i, j) with the kernel k = (1 + cos(phi_i, phi_j)) / 2, j = i
    included. An embedding of zeros has cosine 0 with all, and zero gradient. Only the student
    gets a gradient.

    Args:
        student_embedding: (B, Ds).
        teacher_embedding: (B, Dt); Dt may differ from Ds.

    Returns:
        Scalar, float32 at least.
    """
    with torch.no_grad():
        teacher = _probabilities(teacher_embedding)
    student = _probabilities(student_embedding)
    return (teacher * ((teacher + EPS) / (student + EPS)).log()).mean()


def _probabilities(embedding: Tensor) -> Tensor:
    """(B, B) of rows that sum to 1."""
    with torch.autocast(embedding.device.type, enabled=False):
        x = upcast_to_float32(embedding)
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        # The original adds eps to the norm, which 1e-9 tells from `unit_rows`.
        unit = torch.where(norm > 0, x / (norm + EPS), 0)
        kernel = (unit @ unit.T + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)
