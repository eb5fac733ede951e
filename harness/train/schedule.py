"""Learning rates as plain functions of the epoch: nothing to save, nothing to restore."""

import math
from collections.abc import Iterable


def cosine_lr(epoch: int, epochs: int, lr: float, final_ratio: float) -> float:
    """Return the rate of an epoch (from 0), which falls from `lr` along half a cosine.

    Epoch `epochs` would reach `final_ratio * lr`. Used by stage 1 of the 2021 release (Loshchilov
    and Hutter, arXiv 1608.03983, without restarts).
    """
    final = final_ratio * lr
    return final + (lr - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def multistep_lr(epoch: int, lr: float, milestones: Iterable[int], gamma: float) -> float:
    """Return `lr` times `gamma` for each milestone that an epoch (from 0) has reached.

    Used by stage 2, teachers and plain students. The rate falls in the epoch that equals a
    milestone.
    """
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)
