"""What a batch is, and what every way to make batches shares; harness.data.placement chooses one.

The randomness of an epoch is drawn on the CPU from (seed, epoch) alone and moved in one copy, so
an epoch is the same on every device and after every resume, and no step waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.data import Dataset, ImageSet


@dataclass(frozen=True)
class Batch:
    """x: (B, 3, H, W) normalised float32; y: (B,) on the device; y_cpu: the same labels on the
    CPU, for index work that would otherwise wait for the device; index: (B,) int64 positions of the
    images in their part, on the device: what was kept for each image there is a gather away."""

    x: Tensor
    y: Tensor
    y_cpu: Tensor
    index: Tensor


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """A random stream of one epoch: a function of (seed, epoch, stream) and of nothing before it.
    Stream 0 shuffles and augments, stream 1 drops out, stream 2 draws negatives."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last-plus-one position of each batch of an epoch. The last, smaller batch is kept,
    as in the releases; one of a single image joins the one before (batch norm needs two)."""
    stops = [*range(batch_size, n, batch_size), n]
    if len(stops) > 1 and stops[-1] - stops[-2] == 1:
        del stops[-2]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def chunk_size(device: torch.device, height: int, width: int) -> int:
    """How many images to look at in one go where nothing but time depends on it. On a CPU, as many
    as leave the activations in its caches: of 32 x 32 images 32 (docs/performance.md has what that
    saves); of fewer pixels more, as a call has its cost, too, but not so many that each call asks
    the system for its memory anew."""
    if device.type != "cpu":
        return 512 if height * width <= 64 * 64 else 128
    return min(max(16, 2**15 // (height * width)), 256)


class Images:
    """Labels on the device and normalisation: what every way to get at the pixels has in common.

    `plain` yields every image once, in order, without augmentation, by default in batches of
    `chunk_size`; `augmented` shuffles and augments, as a function of its generator's state alone.
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

    def plain(self, batch_size: int | None = None) -> Iterator[Batch]:
        raise NotImplementedError

    def augmented(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        raise NotImplementedError
