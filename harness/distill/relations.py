"""Relations inside a batch: distances, same-class pairs and their mined negatives.

Everything is dense: a row is an ordered same-class pair (anchor, positive), a column an image of
the batch. There are P such pairs, about B (B - 1) / C, so (P, B) stays small where a list of all
triplets would not.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def upcast_to_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or unchanged if it is float64.

    Half precision is for networks, not losses.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Return x / max(||x||, eps) along the last axis, for any shape.

    A row of zeros stays zero, with zero gradient, whereas F.normalize multiplies the gradient by
    1 / eps = 1e12.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp(min=eps), 0)


def unit_distances(embedding: Tensor) -> Tensor:
    """Return the Euclidean distances ||z_i - z_j|| of the normalised rows z = phi / ||phi||.

    They are computed from differences, not as sqrt(2 - 2 <z_i, z_j>): in float32 that form puts
    7e-4 between an image and itself, takes duplicates for semi-hard negatives, and is subject to
    TF32. The result is symmetric to the last bit, with zeros on the diagonal and for equal rows,
    where the gradient is zero.

    Args:
        embedding: (B, D), raw. Half precision is computed in float32, under autocast too.

    Returns:
        (B, B), in float32 or float64.

    Examples:
        >>> unit_distances(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        tensor([[0.0000, 1.4142],
                [1.4142, 0.0000]])
    """
    with torch.autocast(embedding.device.type, enabled=False):
        unit = F.normalize(upcast_to_float32(embedding))
        return torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")


def same_class_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return all ordered pairs a != p of one class, sorted by anchor, then by positive.

    P depends on the values, so labels on a GPU would make the host wait: pass them on the CPU.

    Args:
        labels: (B,), integer.

    Returns:
        anchor (P,) and positive (P,), indices into the batch.

    Examples:
        >>> same_class_pairs(torch.tensor([5, 7, 5]))
        (tensor([0, 2]), tensor([2, 0]))
    """
    same = labels[:, None] == labels[None, :]
    same.fill_diagonal_(False)
    anchor, positive = same.nonzero(as_tuple=True)
    return anchor, positive


def padded_pairs(labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the `same_class_pairs` of n batches, each filled up to the largest number of them.

    Args:
        labels: n tensors (B,), integer, on the CPU.

    Returns:
        pairs (n, 2, P): anchors and positives; 0, 0 fills up. exists (n, P) bool: which are pairs.

    Examples:
        >>> pairs, exists = padded_pairs([torch.tensor([5, 7, 5]), torch.tensor([5, 7])])
        >>> pairs[0].tolist(), exists.tolist()
        ([[0, 2], [2, 0]], [[True, True], [False, False]])
    """
    found = [torch.stack(same_class_pairs(of_batch)) for of_batch in labels]
    most = max((pairs.shape[1] for pairs in found), default=0)
    pairs = torch.stack([F.pad(pairs, (0, most - pairs.shape[1])) for pairs in found])
    counts = torch.tensor([pairs.shape[1] for pairs in found])
    return pairs, torch.arange(most) < counts[:, None]


def semi_hard_mask(
    distances: Tensor, labels: Tensor, anchor: Tensor, positive: Tensor, margin: float
) -> Tensor:
    """Return which images n are semi-hard negatives of a pair: 0 < D(a, n) - D(a, p) <= margin.

    Schroff et al. (FaceNet, arXiv 1503.03832); the margin itself is included, as in the releases.

    Args:
        distances: (B, B).
        labels: (B,).
        anchor: (P,).
        positive: (P,).
        margin: the largest difference of the distances.

    Returns:
        (P, B) bool.
    """
    gap = distances[anchor] - distances[anchor, positive][:, None]
    return (gap > 0) & (gap <= margin) & (labels[anchor][:, None] != labels[None, :])


def nearest_negative(
    distances: Tensor, labels: Tensor, anchor: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor]:
    """Return one negative per pair: the nearest with D(a, n) > D(a, p), else the farthest of all.

    Release of 2020-06: no margin. Ties go to the first image of the batch.

    Args:
        distances: (B, B).
        labels: (B,).
        anchor: (P,).
        positive: (P,).

    Returns:
        negative (P,), and exists (P,) bool: False if the batch has no other class, in which case
        `negative` is meaningless.
    """
    from_anchor = distances[anchor]
    is_negative = labels[anchor][:, None] != labels[None, :]
    farther = is_negative & (from_anchor > distances[anchor, positive][:, None])
    nearest = from_anchor.masked_fill(~farther, torch.inf).argmin(1)
    farthest = from_anchor.masked_fill(~is_negative, -torch.inf).argmax(1)
    return torch.where(farther.any(1), nearest, farthest), is_negative.any(1)
