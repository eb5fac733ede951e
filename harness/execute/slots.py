"""Slots: how many cells train at once on this machine, and on which devices.

A slot is written as the name of its device; the same name may stand for several slots.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from harness.common.errors import UserError


def check_devices(devices: Sequence[str]) -> None:
    """Check that cells can be spread over these devices: different ones of one kind.

    A cell's numbers depend on the kind. `check_device` accepts each of the names.

    Raises:
        UserError: They differ in kind, or one is named twice.
    """
    if len(devices) == 1:
        return
    kinds = {name.partition(":")[0] for name in devices}
    if len(kinds) > 1 or not all(":" in name for name in devices):
        raise UserError(
            f"--device: {','.join(devices)!r}; several devices must be of one kind, each with its "
            "number, as in cuda:0,cuda:1"
        )
    name, n_times = Counter(devices).most_common(1)[0]
    if n_times > 1:
        raise UserError(
            f"--device: {name} is named twice; name it once, and set how many cells train there at "
            "once with --jobs-per-device"
        )


def make_slots(devices: Sequence[str], per_device: int) -> tuple[str, ...]:
    """Return `per_device` slots on each of the devices, in turn."""
    return tuple(devices) * per_device


def next_slot(slots: Sequence[str], busy: Collection[int], warm: Collection[int]) -> int:
    """Return the index of the slot where the next cell trains.

    It is a free slot on the device with the fewest cells; preferably one that has a worker, which
    need not be started; otherwise the first.

    Args:
        slots: The device of each slot.
        busy: Indices of the slots where a cell trains; at least one slot is free.
        warm: Indices of the slots that have a worker.
    """
    n_cells = Counter(slots[index] for index in busy)
    free = [index for index in range(len(slots)) if index not in busy]
    return min(free, key=lambda index: (n_cells[slots[index]], index not in warm))
