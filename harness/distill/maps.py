"""Bring the feature maps of two networks to one size."""

from torch import Tensor
from torch.nn import functional as F


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the larger map (adaptive average) to the smaller height and the smaller width.

    Args:
        a: (B, Ca, H, W).
        b: (B, Cb, H', W').

    Returns:
        Both maps at one size; a map that already has it is returned unchanged.

    Examples:
        >>> import torch
        >>> [tuple(x.shape) for x in same_size(torch.ones(1, 3, 8, 8), torch.ones(1, 5, 4, 4))]
        [(1, 3, 4, 4), (1, 5, 4, 4)]
    """
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    return _pooled(a, size), _pooled(b, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        # The same windows, with a gradient that is deterministic on a GPU, unlike that of
        # adaptive pooling.
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(x, size)
