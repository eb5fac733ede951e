"""The random operations on training images that a cell's settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.methods.schedules import Schedule

if TYPE_CHECKING:
    from harness.data.operations import ImageOperations


def operations_of(settings: Schedule | None) -> ImageOperations | None:
    """Return the operations of a schedule; None if it asks for none."""
    if settings is None or settings.augment is None:
        return None
    # Imported here: torchvision takes seconds, and most trainings do not need it.
    from harness.data.operations import ImageOperations

    return ImageOperations(settings.augment, settings.augment_ops, settings.augment_magnitude)
