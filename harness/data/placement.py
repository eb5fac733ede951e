"""Where a part's images lie while it is trained on, and so how its batches are made."""

import torch

from harness.data import Dataset, ImageSet, PackedImages, ResizedCrop
from harness.data.batches import Images
from harness.data.small import DeviceImages

RESIDENT_SHARE = 0.1  # of a GPU's memory for one part's pixels: the rest is for training


def on_device(dataset: Dataset, part: ImageSet, device: torch.device, n_workers: int) -> Images:
    """A part of a data set as batches: images of one size lie on the device; images to be cropped
    and resized lie there too if it is a GPU with room for them, else they come from a loader with
    `n_workers` processes (0: this one)."""
    if not isinstance(dataset.augmentation, ResizedCrop):
        return DeviceImages(dataset, part, device)
    # Imported here: torchvision takes seconds, and small images need none of it.
    from harness.data.loader import LoaderImages, ResidentImages

    if fits(part, device):
        return ResidentImages(dataset, part, device)
    return LoaderImages(dataset, part, device, n_workers)


def fits(part: ImageSet, device: torch.device) -> bool:
    """Whether a GPU holds this part's pixels with ease. By its total memory, so that the same
    device always decides the same."""
    if device.type != "cuda" or not isinstance(part.images, PackedImages):
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return part.images.nbytes <= RESIDENT_SHARE * total
