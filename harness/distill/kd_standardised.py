"""Distillation on standardised logits (Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427)."""

from torch import Tensor

from harness.distill.kd import kd_divergence
from harness.distill.relations import upcast_to_float32

EPS = 1e-7


def standardised(logits: Tensor) -> Tensor:
    """Return (z - mean z) / (1e-7 + std z) for each row.

    std is the sample standard deviation (C - 1). Equal logits become zeros. The gradient there is
    finite but of the order of 1e7: this loss does not suit a classifier that starts at zero.

    Args:
        logits: (B, C), C >= 2.

    Returns:
        (B, C), at least float32.

    Examples:
        >>> import torch
        >>> standardised(torch.tensor([[10.0, 20.0, 30.0]])).round(decimals=4)
        tensor([[-1.,  0.,  1.]])
    """
    logits = upcast_to_float32(logits)
    return (logits - logits.mean(1, keepdim=True)) / (EPS + logits.std(1, keepdim=True))


def standardised_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """Return the `kd_divergence` of the `standardised` logits, which ignores their scale.

    Only the student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 3.0]])
        >>> round(standardised_kd_loss(student, 10 * student, temperature=2.0).item(), 4)
        0.0
    """
    return kd_divergence(
        standardised(student_logits), standardised(teacher_logits), temperature=temperature
    )
