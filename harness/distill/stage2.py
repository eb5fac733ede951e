"""Stage 2 of ReFilled: classify, with the teacher's class centres as soft targets.

Ye, Lu, Zhan, CVPR 2020 (releases of 2020-06 and 2021), and the code of its extension, arXiv
2205.01915 (2022). These are the teaching terms alone: the caller adds the cross-entropy. None has
a factor tau2^2.
"""

import math

import torch
from torch import Tensor

from harness.distill.centers import class_centers
from harness.distill.relations import upcast_to_float32

TAU_ON = ("both", "teacher")

# Release of 2020-06: 1000 exp(-0.05 (epoch - 1)) in the place of lambd.
LOCAL_WEIGHT = 1000.0
LOCAL_DECAY = 0.05


def teaching_loss(
    student_logits: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    centers: Tensor | None,
    *,
    tau2: float,
    lambd: float,
    tau_on: str,
    weighted: bool,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """lambd x (1/B) sum_i w_i KL(softmax(s_T / tau2) || softmax(f_S / tau2)), over C_B.

    s_T = [<phi_T, c_j>]_j with raw phi_T; C_B are the classes present in the batch, every other
    one is left out of both softmaxes.

    - `centers` given: global centres (2021). `tau_on="teacher"` leaves the student's logits
      undivided (2022); `weighted` weighs the images by `instance_weights` (2022).
    - `centers=None`: the batch's own centres and a mean over the B x |C_B| entries (2020-06).

    Computed in float32 at least, under autocast too, and without waiting for the device. Only
    the student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_embedding: (B, Dt), raw.
        labels: (B,) in [0, C).
        centers: (C, Dt) of `class_centers`, or None.
        tau_on: one of `TAU_ON`.
        teacher_logits: (B, Ct), the teacher's own classifier; needed if `weighted`.

    Returns:
        Scalar.

    Raises:
        ValueError: unknown `tau_on`, or `weighted` without `teacher_logits`.
    """
    if tau_on not in TAU_ON:
        raise ValueError(f"tau_on: unknown side {tau_on!r}; allowed: {', '.join(TAU_ON)}")
    if weighted and teacher_logits is None:
        raise ValueError("weighted needs teacher_logits")
    n_images, n_classes = student_logits.shape
    # A mask, not torch.unique: the number of classes present never has to leave the device.
    present = torch.zeros(n_classes, dtype=torch.bool, device=labels.device)
    present = present.index_fill(0, labels, True)

    with torch.no_grad(), torch.autocast(student_logits.device.type, enabled=False):
        embedding = upcast_to_float32(teacher_embedding)
        c = class_centers(embedding, labels, n_classes) if centers is None else centers
        scores = embedding @ c.to(embedding.dtype).T / tau2
    logits = upcast_to_float32(student_logits)
    divergence = _kl_over(scores, logits / tau2 if tau_on == "both" else logits, present)
    if weighted and teacher_logits is not None:
        divergence = divergence * instance_weights(teacher_logits)
    loss = lambd * divergence.sum() / n_images
    return loss / present.sum() if centers is None else loss


def local_teaching_loss(
    student_logits: Tensor, teacher_embedding: Tensor, labels: Tensor, *, tau2: float, epoch: int
) -> Tensor:
    """The release of 2020-06: the batch's own centres, weight 1000 exp(-0.05 (epoch - 1)).

    Args:
        student_logits: (B, C).
        teacher_embedding: (B, Dt), raw.
        labels: (B,) in [0, C).
        epoch: counted from 1.

    Returns:
        Scalar.
    """
    weight = LOCAL_WEIGHT * math.exp(-LOCAL_DECAY * (epoch - 1))
    return teaching_loss(
        student_logits,
        teacher_embedding,
        labels,
        None,
        tau2=tau2,
        lambd=weight,
        tau_on="both",
        weighted=False,
    )


def _kl_over(teacher_scores: Tensor, student_scores: Tensor, taken: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row (B,), over the columns `taken` (C,)."""
    left_out = ~taken
    # The second fill keeps -inf - -inf out of the difference: the columns left out give exactly
    # 0, in the value and in the gradient.
    log_t = teacher_scores.masked_fill(left_out, -torch.inf).log_softmax(1).masked_fill(left_out, 0)
    log_s = student_scores.masked_fill(left_out, -torch.inf).log_softmax(1).masked_fill(left_out, 0)
    return (log_t.exp() * (log_t - log_s)).sum(1)


@torch.no_grad()
def instance_weights(teacher_logits: Tensor) -> Tensor:
    """w = 2 sigmoid(-u'), with u = -log max softmax(f_T) scaled to u' in [0, 1] over the batch.

    The image the teacher is surest of gets 1, the one it is least sure of 0.538; all get 1 if it
    is equally sure of all. Release of 2022.

    Args:
        teacher_logits: (B, Ct).

    Returns:
        (B,), float32 at least, without gradient.
    """
    doubt = -upcast_to_float32(teacher_logits).log_softmax(1).amax(1)
    doubt = doubt - doubt.min()
    widest = doubt.max()
    return 2 * torch.sigmoid(-doubt / torch.where(widest > 0, widest, 1))
