"""Choose where a part's images lie during training, and so how its batches are made."""

import torch

from harness.data.batches import Images
from harness.data.dataset import Dataset, ImageSet, ResizedCrop
from harness.data.packed import PackedImages
from harness.data.small import DeviceImages

RESIDENT_SHARE = 0.1  # of a GPU's memory for one part's pixels: the rest is for training


def on_device(dataset: Dataset, part: ImageSet, device: torch.device, n_workers: int) -> Images:
    """Return the batches of a part of a data set.

    Images of one size lie on the device. So do images for resized crops on a GPU with room for
    them; else they come from a loader with `n_workers` processes (0 for none but this one).
    """
    if not isinstance(dataset.augmentation, ResizedCrop):
        return DeviceImages(dataset, part, device)
    # Imported here: torchvision takes seconds, and small images do not need it.
    from harness.data.loader import LoaderImages, ResidentImages

    if fits(part, device):
        return ResidentImages(dataset, part, device)
    return LoaderImages(dataset, part, device, n_workers)


def fits(part: ImageSet, device: torch.device) -> bool:
    """Return whether the device is a GPU that easily holds the part's pixels.

    The total memory decides, not the free memory, so that a device always decides the same.
    """
    if device.type != "cuda" or not isinstance(part.images, PackedImages):
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return part.images.nbytes <= RESIDENT_SHARE * total
