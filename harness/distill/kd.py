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
    """(1 - alpha) CE(f_S, y) + alpha T^2 (1/B) sum KL(softmax(f_T / T) || softmax(f_S / T)).

    RepDistiller's weights: its `-a` is alpha, its `-r` 1 - alpha. Both models must share the label
    space. Only the student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        labels: (B,).

    Returns:
        The two weighted terms, `ce` and `kd`: scalars whose sum is the loss.
    """
    student = upcast_to_float32(student_logits)
    return {
        "ce": (1 - alpha) * F.cross_entropy(student, labels),
        "kd": kd_term(student, teacher_logits, temperature=temperature, alpha=alpha),
    }


def kd_term(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, alpha: float
) -> Tensor:
    """The teacher's term of `kd_loss`.

    Not `alpha * kd_divergence(..)`: that rounds in another order, and recorded results hold this
    one.
    """
    return alpha * temperature**2 * _divergence(student_logits, teacher_logits, temperature)


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T^2 (1/B) sum KL(softmax(f_T / T) || softmax(f_S / T)), without weight or cross-entropy.

    Both models must share the label space. Only the student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).

    Returns:
        Scalar, float32 at least.
    """
    return temperature**2 * _divergence(student_logits, teacher_logits, temperature)


def _divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    return F.kl_div(
        (upcast_to_float32(student_logits) / temperature).log_softmax(1),
        (upcast_to_float32(teacher_logits.detach()) / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
