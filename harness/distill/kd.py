"""Knowledge distillation on logits (Hinton, Vinyals, Dean, arXiv 1503.02531)."""

from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import upcast_to_float32


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
) -> dict[str, Tensor]:
    """Return the two terms of (1 - alpha) CE(f_S, y) + alpha T^2 (1/B) sum KL(p_T || p_S).

    p = softmax(f / T). The weights are RepDistiller's: its `-a` is alpha, its `-r` is 1 - alpha.
    Both models must share the label space. Only the student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        labels: (B,) in [0, C).
        temperature: T.
        alpha: weight of the teacher's term, in [0, 1].

    Returns:
        The weighted terms `ce` and `kd`, scalars whose sum is the loss.

    Examples:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[4.0, 0.0]])
        >>> terms = kd_loss(student, teacher, torch.tensor([0]), temperature=4.0, alpha=0.9)
        >>> {name: round(value.item(), 4) for name, value in terms.items()}
        {'ce': 0.0693, 'kd': 1.5976}
    """
    student = upcast_to_float32(student_logits)
    return {
        "ce": (1 - alpha) * F.cross_entropy(student, labels),
        "kd": kd_term(student, teacher_logits, temperature=temperature, alpha=alpha),
    }


def kd_term(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, alpha: float
) -> Tensor:
    """Return the teacher's term of `kd_loss`.

    It is not `alpha * kd_divergence(..)`, which rounds in another order: recorded results depend on
    this one.
    """
    return alpha * temperature**2 * _divergence(student_logits, teacher_logits, temperature)


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 (1/B) sum KL(softmax(f_T / T) || softmax(f_S / T)).

    There is no weight and no cross-entropy. Both models must share the label space. Only the
    student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[4.0, 0.0]])
        >>> round(kd_divergence(student, teacher, temperature=4.0).item(), 4)
        1.7751
    """
    return temperature**2 * _divergence(student_logits, teacher_logits, temperature)


def _divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    return F.kl_div(
        (upcast_to_float32(student_logits) / temperature).log_softmax(1),
        (upcast_to_float32(teacher_logits.detach()) / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
