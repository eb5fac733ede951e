"""Learning rates as plain functions of the epoch: nothing to save, nothing to restore."""

import math
from collections.abc import Iterable


def cosine_lr(epoch: int, epochs: int, lr: float, final_ratio: float) -> float:
    """From `lr` along half a cosine towards `final_ratio * lr`, which epoch `epochs` would reach.

    Stage 1 of the 2021 release (Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    Args:
        epoch: counted from 0.
    """
    final = final_ratio * lr
    return final + (lr - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def multistep_lr(epoch: int, lr: float, milestones: Iterable[int], gamma: float) -> float:
    """`lr` times `gamma` for each milestone reached. Stage 2, teachers and plain students.

    Args:
        epoch: counted from 0; the rate falls in the epoch that equals a milestone.
    """
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)
