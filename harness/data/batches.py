"""A whole image set on the device, and its batches: shuffled, cropped, mirrored, normalised there.

The randomness of an epoch is drawn on the CPU from (seed, epoch) alone and moved in one copy, so
an epoch is the same on every device and after every resume, and no step waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data import Augmentation, Dataset, ImageSet


@dataclass(frozen=True)
class Batch:
    """x: (B, 3, H, W) normalised float32; y: (B,) on the device; y_cpu: the same labels on the
    CPU, for index work that would otherwise wait for the device."""

    x: Tensor
    y: Tensor
    y_cpu: Tensor


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random stream of one epoch: a function of (seed, epoch) and of nothing before it."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class DeviceImages:
    """uint8 images on the device, already padded for the random crop."""

    def __init__(self, dataset: Dataset, part: ImageSet, device: torch.device) -> None:
        self.augmentation: Augmentation = dataset.augmentation
        self.size = part.images.shape[1:3]
        self.device = device
        self.labels_cpu = torch.from_numpy(part.labels)
        self.labels = self.labels_cpu.to(device)
        pad = self.augmentation.padding
        images = torch.from_numpy(np.ascontiguousarray(part.images)).to(device)
        self.padded = F.pad(images, (0, 0, pad, pad, pad, pad))
        std = torch.tensor(dataset.std, dtype=torch.float32, device=device)
        mean = torch.tensor(dataset.mean, dtype=torch.float32, device=device)
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return len(self.labels_cpu)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, channels last in memory."""
        return (pixels * self.scale + self.shift).permute(0, 3, 1, 2)

    def plain(self, batch_size: int = 512) -> Iterator[Batch]:
        """Every image once, in order, as it is."""
        pad, (height, width) = self.augmentation.padding, self.size
        images = self.padded[:, pad : pad + height, pad : pad + width]
        for start in range(0, len(self), batch_size):
            window = slice(start, start + batch_size)
            x = self.normalised(images[window])
            yield Batch(x, self.labels[window], self.labels_cpu[window])

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Every image once, shuffled and augmented. The last, smaller batch is kept, as in the
        releases; a last batch of a single image joins the one before (batch norm needs two)."""
        n, pad = len(self), self.augmentation.padding
        order = torch.randperm(n, generator=generator)
        offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
        flips = torch.rand(n, generator=generator) < 0.5
        labels_cpu = self.labels_cpu[order]
        order_on = order.to(self.device, non_blocking=True)
        offsets_on = offsets.to(self.device, non_blocking=True)
        flips_on = flips.to(self.device, non_blocking=True) if self.augmentation.flip else None

        stops = [*list(range(batch_size, n, batch_size)), n]
        if len(stops) > 1 and stops[-1] - stops[-2] == 1:
            del stops[-2]
        start = 0
        for stop in stops:
            window = slice(start, stop)
            index = order_on[window]
            rows, columns = crop_indices(
                offsets_on[:, window], self.size, None if flips_on is None else flips_on[window]
            )
            pixels = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield Batch(self.normalised(pixels), self.labels[index], labels_cpu[window])
            start = stop


def crop_indices(
    offsets: Tensor, size: tuple[int, int], flips: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows (B, H) and columns (B, W) of the padded image that make each crop.

    Args:
        offsets: (2, B) top and left of the crop, as torchvision's RandomCrop draws them.
        size: (H, W) of the crop.
        flips: (B,) bool, mirror left to right; None for never.
    """
    rows = offsets[0, :, None] + torch.arange(size[0], device=offsets.device)
    columns = torch.arange(size[1], device=offsets.device).expand(offsets.shape[1], -1)
    if flips is not None:
        columns = torch.where(flips[:, None], size[1] - 1 - columns, columns)
    return rows, offsets[1, :, None] + columns
