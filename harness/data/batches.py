"""Batches of an image set: shuffled, cropped, mirrored and normalised, where that is fastest.

The randomness of an epoch is drawn on the CPU from (seed, epoch) alone and moved in one copy, so
an epoch is the same on every device and after every resume, and no step waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data import Augmentation, Dataset, ImageSet, ResizedCrop

if TYPE_CHECKING:
    from harness.data.loader import LoaderImages


@dataclass(frozen=True)
class Batch:
    """x: (B, 3, H, W) normalised float32; y: (B,) on the device; y_cpu: the same labels on the
    CPU, for index work that would otherwise wait for the device."""

    x: Tensor
    y: Tensor
    y_cpu: Tensor


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """A random stream of one epoch: a function of (seed, epoch, stream) and of nothing before it.
    Stream 0 shuffles and augments, stream 1 drops out."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last-plus-one position of each batch of an epoch. The last, smaller batch is kept,
    as in the releases; one of a single image joins the one before (batch norm needs two)."""
    stops = [*range(batch_size, n, batch_size), n]
    if len(stops) > 1 and stops[-1] - stops[-2] == 1:
        del stops[-2]
    return list(zip([0, *stops[:-1]], stops, strict=True))


class Images:
    """Labels on the device and normalisation: what every way to get at the pixels has in common.

    `plain` yields every image once, in order, without augmentation; `augmented` shuffles and
    augments, as a function of its generator's state alone.
    """

    def __init__(self, dataset: Dataset, part: ImageSet, device: torch.device) -> None:
        self.device = device
        self.labels_cpu = torch.from_numpy(part.labels)
        self.labels = self.labels_cpu.to(device)
        std = torch.tensor(dataset.std, dtype=torch.float32, device=device)
        mean = torch.tensor(dataset.mean, dtype=torch.float32, device=device)
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return len(self.labels_cpu)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) of 0 to 255 -> (B, 3, H, W) float32, channels last in memory. Overwrites
        its argument if that is float32 already."""
        n, height, width, _ = pixels.shape
        # As rows of W x 3: on a CPU, an inner loop over three channels takes ten times as long.
        x = pixels.reshape(n, height, width * 3).float()
        x = x.mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return x.view(n, height, width, 3).permute(0, 3, 1, 2)

    def plain(self, batch_size: int = 512) -> Iterator[Batch]:
        raise NotImplementedError

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        raise NotImplementedError


class DeviceImages(Images):
    """Small images of one size: all of them on the device as uint8, padded for the random crop."""

    def __init__(self, dataset: Dataset, part: ImageSet, device: torch.device) -> None:
        super().__init__(dataset, part, device)
        assert isinstance(dataset.augmentation, Augmentation), "LoaderImages does resized crops"
        self.augmentation = dataset.augmentation
        images = torch.from_numpy(np.ascontiguousarray(part.pixels())).to(device)
        self.size = (images.shape[1], images.shape[2])
        pad = self.augmentation.padding
        self.padded = F.pad(images, (0, 0, pad, pad, pad, pad))

    def plain(self, batch_size: int = 512) -> Iterator[Batch]:
        """Every image once, in order, as it is."""
        pad, (height, width) = self.augmentation.padding, self.size
        images = self.padded[:, pad : pad + height, pad : pad + width]
        for start in range(0, len(self), batch_size):
            window = slice(start, start + batch_size)
            x = self.normalised(images[window])
            yield Batch(x, self.labels[window], self.labels_cpu[window])

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Every image once, shuffled and augmented, in the batches of `batch_bounds`."""
        n, pad = len(self), self.augmentation.padding
        order = torch.randperm(n, generator=generator)
        offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
        flips = torch.rand(n, generator=generator) < 0.5
        labels_cpu = self.labels_cpu[order]
        order_on = order.to(self.device, non_blocking=True)
        offsets_on = offsets.to(self.device, non_blocking=True)
        flips_on = flips.to(self.device, non_blocking=True) if self.augmentation.flip else None

        for start, stop in batch_bounds(n, batch_size):
            window = slice(start, stop)
            index = order_on[window]
            rows, columns = crop_indices(
                offsets_on[:, window], self.size, None if flips_on is None else flips_on[window]
            )
            pixels = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield Batch(self.normalised(pixels), self.labels[index], labels_cpu[window])


def on_device(
    dataset: Dataset, part: ImageSet, device: torch.device
) -> "DeviceImages | LoaderImages":
    """A part of a data set as batches: images of one size lie on the device; images to be cropped
    and resized lie there too if it is a GPU with room for them, else they come from a loader.

    Raises:
        UserError: HARNESS_N_WORKERS is no number.
    """
    if not isinstance(dataset.augmentation, ResizedCrop):
        return DeviceImages(dataset, part, device)
    from harness.data.loader import LoaderImages, ResidentImages, fits

    kind = ResidentImages if fits(part, device) else LoaderImages
    return kind(dataset, part, device)


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
