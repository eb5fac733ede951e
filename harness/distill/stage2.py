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

# Release of 2020-06: 1000 exp(-0.05 (epoch - 1)) in place of lambd.
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
    """Return lambd x (1/B) sum_i w_i KL(softmax(s_T / tau2) || softmax(f_S / tau2)), over C_B.

    s_T = [<phi_T, c_j>]_j with raw phi_T; C_B are the classes present in the batch, and all others
    are left out of both softmaxes.

    - With `centers`: global centres (2021). `tau_on="teacher"` leaves the student's logits
      undivided (2022); `weighted` weights the images by `instance_weights` (2022).
    - `centers=None`: the batch's own centres and a mean over the B x |C_B| entries (2020-06).

    Computed in at least float32, also under autocast, without host-device synchronisation. Only the
    student gets a gradient.

    Args:
        student_logits: (B, C).
        teacher_embedding: (B, Dt), raw.
        labels: (B,) in [0, C).
        centers: (C, Dt), from `class_centers`, or None.
        tau2: temperature.
        lambd: weight of the loss.
        tau_on: one of `TAU_ON`.
        weighted: weight each image by the teacher's certainty.
        teacher_logits: (B, Ct), from the teacher's own classifier; required if `weighted`.

    Returns:
        Scalar.

    Raises:
        ValueError: unknown `tau_on`, or `weighted` without `teacher_logits`.

    Examples:
        >>> labels, centers = torch.tensor([0, 1]), torch.eye(2)
        >>> settings = {"tau2": 2.0, "lambd": 100.0, "tau_on": "both", "weighted": False}
        >>> loss = teaching_loss(torch.zeros(2, 2), 4 * torch.eye(2), labels, centers, **settings)
        >>> round(loss.item(), 4)
        32.7813
    """
    if tau_on not in TAU_ON:
        raise ValueError(f"tau_on: unknown side {tau_on!r}; allowed: {', '.join(TAU_ON)}")
    if weighted and teacher_logits is None:
        raise ValueError("weighted needs teacher_logits")
    n_images, n_classes = student_logits.shape
    # A mask, not torch.unique: the number of classes present need not leave the device.
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
    """Return the loss of the release of 2020-06: local centres, weight 1000 exp(-0.05 (epoch - 1)).

    Args:
        student_logits: (B, C).
        teacher_embedding: (B, Dt), raw.
        labels: (B,) in [0, C).
        tau2: temperature.
        epoch: counted from 1.

    Returns:
        Scalar.

    Examples:
        >>> labels, embedding = torch.tensor([0, 1]), 4 * torch.eye(2)
        >>> loss = local_teaching_loss(torch.zeros(2, 2), embedding, labels, tau2=2.0, epoch=1)
        >>> round(loss.item(), 3)
        163.907
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


def _kl_over(teacher_scores: Tensor, student_scores: Tensor, selected: Tensor) -> Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of each row over the selected columns."""
    left_out = ~selected
    # The second fill keeps -inf - -inf out of the difference: the columns left out give exactly
    # 0, in the value and in the gradient.
    log_t = teacher_scores.masked_fill(left_out, -torch.inf).log_softmax(1).masked_fill(left_out, 0)
    log_s = student_scores.masked_fill(left_out, -torch.inf).log_softmax(1).masked_fill(left_out, 0)
    return (log_t.exp() * (log_t - log_s)).sum(1)


@torch.no_grad()
def instance_weights(teacher_logits: Tensor) -> Tensor:
    """Return w = 2 sigmoid(-u'), large where the teacher is certain.

    u' is u = -log max softmax(f_T), scaled to [0, 1] over the batch. The image the teacher is most
    certain of gets 1, the one it is least certain of 0.538; all get 1 if it is equally certain of
    all. Release of 2022.

    Args:
        teacher_logits: (B, Ct).

    Returns:
        (B,), at least float32, without gradient.

    Examples:
        >>> instance_weights(torch.tensor([[9.0, 0.0], [0.0, 0.0]]))
        tensor([1.0000, 0.5379])
    """
    doubt = -upcast_to_float32(teacher_logits).log_softmax(1).amax(1)
    doubt = doubt - doubt.min()
    widest = doubt.max()
    return 2 * torch.sigmoid(-doubt / torch.where(widest > 0, widest, 1))
