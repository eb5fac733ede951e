"""Which trials of a batch go on: successive halving at fixed epochs. Pure functions.

The trials of a batch are compared at the same epoch, when all of them have come that far. No clock
takes part, so the decision is the same on every machine, with any number of jobs, and after a kill.
"""

from __future__ import annotations

import math


def rung_epochs(rungs: tuple[float, ...], n_epochs: int) -> list[int]:
    """The epochs of the rungs, from 1. Rungs that fall together count once."""
    epochs = {max(1, math.ceil(share * n_epochs)) for share in rungs}
    return sorted(e for e in epochs if e < n_epochs)


def survivors(values: dict[int, float], keep: float, direction: str) -> list[int]:
    """The trials (by number) that go on from a rung: the best share `keep`, rounded up. Of equal
    values the earlier trial is the better one."""
    sign = -1 if direction == "maximize" else 1
    ranked = sorted(values, key=lambda number: (sign * values[number], number))
    return sorted(ranked[: math.ceil(keep * len(ranked))])


def epochs_of_batch(n: int, keep: float, rungs: list[int], n_epochs: int) -> int:
    """Epochs that the last cells of a batch of n train, nothing shared or diverged."""
    total, before = 0, 0
    for epoch in [*rungs, n_epochs]:
        total += n * (epoch - before)
        n, before = math.ceil(keep * n), epoch
    return total
