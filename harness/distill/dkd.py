"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679)."""

import torch
from torch import Tensor

from harness.distill.kd import kd_divergence
from harness.distill.relations import upcast_to_float32
from harness.distill.stage1 import bernoulli_kl


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
) -> Tensor:
    """Return the decoupled loss T^2 (1/B) sum [alpha KL(b_T || b_S) + beta KL(q_T || q_S)].

    With p = softmax(f / T), b = (p_y, 1 - p_y) is the label's class against all others, and q is p
    without the label's class, renormalised. alpha = 1 and beta = 1 - p_y of the teacher give
    classic distillation. Only the student gets a gradient. No host-device synchronisation.

    Args:
        student_logits: (B, C), C >= 2.
        teacher_logits: (B, C).
        labels: (B,) in [0, C).
        alpha: weight of the label's class against the others.
        beta: weight of the distribution over the others.
        temperature: T.

    Returns:
        Scalar, at least float32.

    Examples:
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[4.0, 0.0, 0.0]])
        >>> weights = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
        >>> round(dkd_loss(student, teacher, torch.tensor([0]), **weights).item(), 4)
        1.9726
    """
    odds_s, others_s = _decoupled(upcast_to_float32(student_logits), labels, temperature)
    odds_t, others_t = _decoupled(upcast_to_float32(teacher_logits.detach()), labels, temperature)
    target = temperature**2 * bernoulli_kl(odds_t, odds_s).mean()
    return alpha * target + beta * kd_divergence(others_s, others_t, temperature=temperature)


def _decoupled(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log(p_y / (1 - p_y)), (B,), and the logits of the other classes, (B, C - 1)."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, columns + (columns >= labels[:, None]))
    target = logits.gather(1, labels[:, None]).squeeze(1)
    return target / temperature - (others / temperature).logsumexp(1), others
