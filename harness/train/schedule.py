"""Learning rates as plain functions of the epoch: nothing to save, nothing to restore."""

import math
from collections.abc import Iterable

from harness.methods.schedules import StepSchedule


def cosine_lr(epoch: int, epochs: int, lr: float, final_ratio: float) -> float:
    """Return the rate of an epoch (from 0), which falls from `lr` along half a cosine.

    Epoch `epochs` would reach `final_ratio * lr`. Used by stage 1 of the 2021 release (Loshchilov
    and Hutter, arXiv 1608.03983, without restarts), and where an experiment asks for it.
    """
    final = final_ratio * lr
    return final + (lr - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def warm_cosine_lr(
    epoch: int, epochs: int, lr: float, final_ratio: float, warmup_epochs: int
) -> float:
    """Return the rate of an epoch (from 0) that rises to `lr`, then falls by `cosine_lr`."""
    after = max(0, epoch - warmup_epochs)
    return warmup_factor(epoch, warmup_epochs) * cosine_lr(
        after, epochs - warmup_epochs, lr, final_ratio
    )


def warmup_factor(epoch: int, warmup_epochs: int) -> float:
    """Return the share of its learning rate that an epoch (from 0) of a linear warm-up has.

    As in Goyal et al., arXiv 1706.02677, but by epoch: (e + 1) / (warmup_epochs + 1), then 1.
    """
    return min(1.0, (epoch + 1) / (warmup_epochs + 1))


def multistep_lr(epoch: int, lr: float, milestones: Iterable[int], gamma: float) -> float:
    """Return `lr` times `gamma` for each milestone that an epoch (from 0) has reached.

    Used by stage 2, teachers and plain students. The rate falls in the epoch that equals a
    milestone.
    """
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)


def scheduled_lr(epoch: int, settings: StepSchedule) -> float:
    """Return the learning rate of an epoch (from 0).

    Milestones count from the first epoch of the training, the cosine from the end of the warm-up.
    """
    s = settings
    if s.schedule == "cosine":
        return warm_cosine_lr(epoch, s.epochs, s.lr, s.final_lr_ratio, s.warmup_epochs)
    return warmup_factor(epoch, s.warmup_epochs) * multistep_lr(epoch, s.lr, s.milestones, s.gamma)
