"""Distillation on standardised logits (Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427)."""

from torch import Tensor

from harness.distill.kd import kd_divergence
from harness.distill.relations import upcast_to_float32

EPS = 1e-7


def standardised(logits: Tensor) -> Tensor:
    """(z - mean z) / (1e-7 + std z) of each row, with the sample's standard deviation (C - 1).

    Equal logits become zeros. The gradient there is finite but of the order of 1e7: a classifier
    whose weights start at zero does not suit this loss.

    Args:
        logits: (B, C), C at least 2.

    Returns:
        (B, C), float32 at least.
    """
    logits = upcast_to_float32(logits)
    return (logits - logits.mean(1, keepdim=True)) / (EPS + logits.std(1, keepdim=True))


def standardised_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """`kd_divergence` of the `standardised` logits: the student need not match their scale.

    Only the student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).

    Returns:
        Scalar, float32 at least.
    """
    return kd_divergence(
        standardised(student_logits), standardised(teacher_logits), temperature=temperature
    )
