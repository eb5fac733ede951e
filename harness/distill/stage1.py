"""Stage 1 of ReFilled: the student learns the teacher's relations between instances.

Ye, Lu, Zhan: Distilling Cross-Task Knowledge via Relationship Matching, CVPR 2020, and its
releases of 2020-06 ("one-negative"), 2020-12 ("triplet") and 2021 ("tuple").
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import (
    nearest_negative,
    same_class_pairs,
    semi_hard_mask,
    unit_distances,
)

RELATIONS = ("tuple", "triplet", "one-negative")

# Unit-norm distances over tau1 = 4 leave all probabilities near one half, so the bare divergence
# is of the order of 1e-4. The releases write 1000 for both; for triplets they average over the
# two entries of each Bernoulli distribution, which halves it (docs/protocol.md, quirk 5).
TUPLE_FACTOR = 1000.0
TRIPLET_FACTOR = 500.0

# `softmax_kl` computes up to e^(4 / tau1), and float32 overflows at e^88.
SMALLEST_TAU1 = 0.05


def stage1_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    *,
    relation: str,
    tau1: float,
    margin: float,
    negatives: str,
    weight: float | None,
    pairs: tuple[Tensor, Tensor] | None = None,
    exists: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean divergence between both networks' relations, mined on the student.

    - tuple: a pair (a, p) and all its semi-hard negatives n_1 .. n_K,
      q = softmax(-[D(a,p), D(a,n_1), .., D(a,n_K)] / tau1),
      loss = 1000 x mean over tuples of KL(q_T || q_S).
    - triplet: each semi-hard negative separately, p = sigmoid((D(a,n) - D(a,p)) / tau1),
      loss = 500 x mean over triplets of KL(Bernoulli(p_T) || Bernoulli(p_S)).
    - one-negative: as triplet, with one negative per pair (`nearest_negative`); ignores `margin`.

    D are `unit_distances`, at least float32. Only the student gets a gradient. A batch without any
    relation gives 0 with zero gradients. Given `pairs`, there is no host-device synchronisation.

    Args:
        student_embedding: (B, Ds), raw.
        teacher_embedding: (B, Dt), raw; Dt may differ from Ds.
        labels: (B,), on the embeddings' device.
        relation: one of `RELATIONS`.
        tau1: temperature, at least `SMALLEST_TAU1`.
        margin: the largest D(a,n) - D(a,p) of a semi-hard negative.
        negatives: "all" of a tuple, or "smallest" (see `cut_to_smallest`); tuples only.
        weight: replaces the relation's own factor of 1000 or 500; None keeps it.
        pairs: `same_class_pairs(labels)` if already known, on the embeddings' device.
        exists: (P,) bool, which of the pairs to use; None for all (see `padded_pairs`).

    Returns:
        The loss (scalar), and the number of tuples or triplets it averages (integer scalar).

    Raises:
        ValueError: unknown relation, or `tau1` too small.

    Examples:
        >>> student = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> teacher, labels = torch.eye(3), torch.tensor([0, 0, 1])
        >>> settings = {"tau1": 4.0, "margin": 0.5, "negatives": "all", "weight": None}
        >>> loss, n = stage1_loss(student, teacher, labels, relation="triplet", **settings)
        >>> round(loss.item(), 4), n.item()
        (0.268, 1)
    """
    if relation not in RELATIONS:
        raise ValueError(
            f"relation: unknown relation {relation!r}; allowed: {', '.join(RELATIONS)}"
        )
    if tau1 < SMALLEST_TAU1:
        raise ValueError(f"tau1: {tau1} is too small for float32; use {SMALLEST_TAU1} or more")
    student = unit_distances(student_embedding)
    with torch.no_grad():
        teacher = unit_distances(teacher_embedding)
    anchor, positive = same_class_pairs(labels) if pairs is None else pairs

    # Logits of both models, (B, B); in a tuple only differences along a row matter.
    x_s, x_t = student / -tau1, teacher / -tau1

    if relation == "one-negative":
        negative, mined = nearest_negative(student.detach(), labels, anchor, positive)
        if exists is not None:
            mined = mined & exists
        divergence = bernoulli_kl(
            x_t[anchor, positive] - x_t[anchor, negative],
            x_s[anchor, positive] - x_s[anchor, negative],
        )
        return _mean_over(mined, divergence, weight or TRIPLET_FACTOR)

    semi_hard = semi_hard_mask(student.detach(), labels, anchor, positive, margin)
    if exists is not None:
        semi_hard = semi_hard & exists[:, None]
    if relation == "triplet":
        divergence = bernoulli_kl(
            x_t[anchor, positive][:, None] - x_t[anchor],
            x_s[anchor, positive][:, None] - x_s[anchor],
        )
        return _mean_over(semi_hard, divergence, weight or TRIPLET_FACTOR)

    if negatives == "smallest":
        semi_hard = cut_to_smallest(semi_hard)
    selected = semi_hard.scatter(1, positive[:, None], True)
    divergence = softmax_kl(x_t[anchor], x_s[anchor], selected)
    return _mean_over(semi_hard.any(1), divergence, weight or TUPLE_FACTOR)


def cut_to_smallest(semi_hard: Tensor) -> Tensor:
    """Keep the first K negatives of each tuple, K being the size of the batch's smallest tuple.

    The 2022 release stacks its tuples into one array and so truncates them all to the smallest, in
    practice to one negative (docs/deviations.md, quirk 8). "First" is in the order of the batch.

    Args:
        semi_hard: (P, B) bool.

    Returns:
        (P, B) bool; rows without a negative stay empty.
    """
    counts = semi_hard.sum(1)
    smallest = counts.masked_fill(counts == 0, semi_hard.shape[1]).amin() if len(counts) else 0
    return semi_hard & (semi_hard.cumsum(1) <= smallest)


def softmax_kl(teacher_logits: Tensor, student_logits: Tensor, selected: Tensor) -> Tensor:
    """Return KL(softmax(t) || softmax(s)) of each row, over its selected columns only.

    With d = s - t and c = d - sum q_T d, it is log(1 + sum q_T (exp(c) - 1)). The sum is never
    negative (Jensen), its digits survive where the models nearly agree (float32: 1e-7 of the
    loss, instead of 2e-5 from a difference of two log-softmaxes), and the other columns need no
    -inf on the student's side.

    Args:
        teacher_logits: (P, K).
        student_logits: (P, K).
        selected: (P, K) bool, at least one per row. A single one gives 0.

    Returns:
        (P,)
    """
    q = teacher_logits.masked_fill(~selected, -torch.inf).softmax(1)
    d = student_logits - teacher_logits
    centered = d - (q * d).sum(1, keepdim=True)
    return (q * centered.expm1()).sum(1).log1p()


def bernoulli_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Return KL(Bernoulli(sigmoid(t)) || Bernoulli(sigmoid(s))), elementwise, for any shape.

    It equals p_T (t - s) + log(1 - p_T) - log(1 - p_S), from log p = t + log(1 - p).
    """
    return (
        teacher_logits.sigmoid() * (teacher_logits - student_logits)
        + F.logsigmoid(-teacher_logits)
        - F.logsigmoid(-student_logits)
    )


def _mean_over(mined: Tensor, divergence: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Return `factor` times the mean of the mined entries (0 if none), and their number."""
    n = mined.sum()
    # A product, not a selection: a NaN in the embeddings fails every comparison of the mining,
    # and a diverged student must not be reported as one that has nothing left to learn.
    return factor * (divergence * mined).sum() / n.clamp(min=1), n
