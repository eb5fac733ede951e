"""Batches of small images of one size, which lie on the device, so that a crop is one gather."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.batches import Batch, Epoch, Images, batch_bounds, chunk_size, to_device
from harness.data.dataset import Augmentation, Dataset, ImageSet


class DeviceImages(Images):
    """Images of one size, on the device as uint8, padded for the random crop."""

    def __init__(self, dataset: Dataset, part: ImageSet, device: torch.device) -> None:
        super().__init__(dataset, part, device)
        assert isinstance(dataset.augmentation, Augmentation), "LoaderImages does resized crops"
        self.augmentation = dataset.augmentation
        images = torch.from_numpy(np.ascontiguousarray(part.pixels())).to(device)
        self.size = (images.shape[1], images.shape[2])
        pad = self.augmentation.padding
        self.padded = F.pad(images, (0, 0, pad, pad, pad, pad))

    def plain(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every image once, in order and without augmentation."""
        pad, (height, width) = self.augmentation.padding, self.size
        images = self.padded[:, pad : pad + height, pad : pad + width]
        order = torch.arange(len(self), device=self.device)
        batch_size = batch_size or chunk_size(self.device, height, width)
        for start in range(0, len(self), batch_size):
            window = slice(start, start + batch_size)
            x = self.normalised(images[window])
            yield Batch(x, self.labels[window], self.labels_cpu[window], order[window])

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw an epoch: the images' order (N,), the offsets of their crops (2, N), flips (N,)."""
        n, pad = len(self), self.augmentation.padding
        order = torch.randperm(n, generator=generator)
        offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
        return order, offsets, torch.rand(n, generator=generator) < 0.5

    def augmented(self, batch_size: int, generator: torch.Generator) -> Epoch:
        """Return every image once, shuffled and augmented, in the batches of `batch_bounds`."""
        order, offsets, flips = self.draw(generator)
        labels_cpu = self.labels_cpu[order]
        order_on, offsets_on = to_device(order, self.device), to_device(offsets, self.device)
        flips_on = to_device(flips, self.device) if self.augmentation.flip else None
        windows = [slice(*bounds) for bounds in batch_bounds(len(self), batch_size)]

        def batches() -> Iterator[Batch]:
            for window in windows:
                index = order_on[window]
                rows, columns = crop_indices(
                    offsets_on[:, window], self.size, None if flips_on is None else flips_on[window]
                )
                pixels = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
                x = self.normalised(pixels)
                yield Batch(x, self.labels[index], labels_cpu[window], index)

        return Epoch([labels_cpu[window] for window in windows], batches, is_resident=True)


def crop_indices(
    offsets: Tensor, size: tuple[int, int], flips: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the rows (B, H) and columns (B, W) of the padded image that make each crop.

    Args:
        offsets: Top and left of each crop, (2, B), as torchvision's RandomCrop draws them.
        size: Height and width of the crops.
        flips: Whether to mirror each crop, (B,) bool; None for never.
    """
    rows = offsets[0, :, None] + torch.arange(size[0], device=offsets.device)
    columns = torch.arange(size[1], device=offsets.device).expand(offsets.shape[1], -1)
    if flips is not None:
        columns = torch.where(flips[:, None], size[1] - 1 - columns, columns)
    return rows, offsets[1, :, None] + columns
