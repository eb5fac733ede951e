"""Choose where a part's images lie during training, and so how its batches are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.data.batches import Images
from harness.data.dataset import Dataset, ImageSet, ResizedCrop, has_room
from harness.data.packed import PackedImages
from harness.data.small import DeviceImages

if TYPE_CHECKING:
    from harness.data.operations import ImageOperations


def on_device(
    dataset: Dataset,
    part: ImageSet,
    device: torch.device,
    n_workers: int,
    is_resident: bool | None = None,
    operations: ImageOperations | None = None,
) -> Images:
    """Return the batches of a part of a data set.

    Images of one size lie on the device. So do images for resized crops if `is_resident`, by
    default if the device has room for all parts; else they come from a loader with `n_workers`
    processes (0 for none but this one), and so do all that go through random operations.
    """
    # Imported here: torchvision takes seconds, and small images do not need it.
    if not isinstance(dataset.augmentation, ResizedCrop):
        if operations is None:
            return DeviceImages(dataset, part, device)
        from harness.data.small_changed import ChangedImages

        return ChangedImages(dataset, part, device, n_workers, operations)
    from harness.data.loader import LoaderImages, ResidentImages

    if operations is not None:
        return LoaderImages(dataset, part, device, n_workers, operations)
    if fits(dataset, device) if is_resident is None else is_resident:
        return ResidentImages(dataset, part, device)
    return LoaderImages(dataset, part, device, n_workers)


def fits(
    dataset: Dataset, device: torch.device, n_cells: int = 1, n_bytes: int | None = None
) -> bool:
    """Return whether the device is a GPU that easily holds all parts' images for resized crops.

    Pixels that lie there differ by rounding from those of a loader, so only what stays the same
    decides: all memory, not what is free, and how many cells may share it, not how many do.

    Args:
        dataset: The data set as a cell sees it.
        device: The device of the cell.
        n_cells: Cells that may train on the device at once, each with images of its own.
        n_bytes: Size of the pixels if the data set here is only a part of them.
    """
    stores = (part.images for part in dataset.parts.values())
    if device.type != "cuda" or not all(isinstance(images, PackedImages) for images in stores):
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return has_room(dataset.nbytes if n_bytes is None else n_bytes, total, n_cells)
