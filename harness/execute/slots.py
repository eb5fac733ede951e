"""Slots: how many cells train at once on this machine, and each on which device. A slot is written
as the name of its device; the same name may stand for several."""

from collections import Counter
from collections.abc import Collection, Sequence

from harness.common.errors import UserError


def check_together(devices: Sequence[str]) -> None:
    """Whether cells can be spread over these devices: of one kind, as a cell's numbers depend on
    it, and different ones.

    Args:
        devices: of which `check_device` knows each.

    Raises:
        UserError: they cannot.
    """
    if len(devices) == 1:
        return
    kinds = {kind for kind, _, _ in (name.partition(":") for name in devices)}
    if len(kinds) > 1 or not all(":" in name for name in devices):
        raise UserError(
            f"--device: {','.join(devices)!r}; several devices must be of one kind, each with its "
            "number, as in cuda:0,cuda:1"
        )
    name, times = Counter(devices).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"--device: {name} is named twice; once is enough, and --jobs-per-device says how many "
            "cells train there at once"
        )


def slots_on(devices: Sequence[str], per_device: int) -> tuple[str, ...]:
    """`per_device` slots on each of the devices, which take turns."""
    return tuple(devices) * per_device


def next_slot(slots: Sequence[str], busy: Collection[int], warm: Collection[int]) -> int:
    """The place in `slots` where the next cell trains: a free one, of the device that has the
    fewest cells; of several there one with a worker, which need not be started; the first.

    Args:
        busy: places where a cell trains. One at least is free.
        warm: places that have a worker.
    """
    n_cells = Counter(slots[place] for place in busy)
    free = [place for place in range(len(slots)) if place not in busy]
    return min(free, key=lambda place: (n_cells[slots[place]], place not in warm))
