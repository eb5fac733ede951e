"""Batches, and what all ways to make them share; harness.data.placement chooses one.

The random numbers of an epoch are drawn on the CPU from (seed, epoch) alone and moved in one copy,
so an epoch is the same on every device and after every resume, and no step waits for the device.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from harness.data.dataset import Dataset, ImageSet

TARGET = "target"  # in what is prepared for a batch: the share of each class in each image, (B, C)
MIXING = 3  # the stream of `epoch_generator`


@dataclass(frozen=True)
class Batch:
    """A batch of images.

    Attributes:
        x: The normalised images, (B, 3, H, W) float32.
        y: Their labels on the device, (B,).
        y_cpu: The same labels on the CPU, for index work that would else wait for the device.
        index: The positions of the images in their part, (B,) int64, on the device.
        prepared: What the step needs besides, on the device: the teacher's embedding, pairs.
    """

    x: Tensor
    y: Tensor
    y_cpu: Tensor
    index: Tensor
    prepared: Mapping[str, Tensor] = field(default_factory=dict)

    def with_prepared(self, **tensors: Tensor) -> "Batch":
        """Return the batch with more tensors that its step needs."""
        return replace(self, prepared={**self.prepared, **tensors})


@dataclass(frozen=True)
class Epoch:
    """The augmented batches of an epoch; to iterate again yields the same ones.

    Attributes:
        labels: The labels of each batch, on the CPU: known before any pixels are made.
        make: Yields the batches.
        is_resident: Whether the images lie on the device, so that making batches costs little.
    """

    labels: list[Tensor]
    make: Callable[[], Iterator[Batch]]
    is_resident: bool

    def __iter__(self) -> Iterator[Batch]:
        return self.make()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device; the host does not wait for a GPU to come so far."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """Return a random stream that depends on (seed, epoch, stream) alone.

    Stream 0 is for shuffling and augmentation, 1 for dropout, 2 for negatives, 3 (MIXING) for mixed
    images.
    """
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the first position and the end of each batch of an epoch.

    The last, smaller batch is kept, as in the releases; if it is a single image, it joins the batch
    before (batch norm needs two).
    """
    stops = [*range(batch_size, n, batch_size), n]
    if len(stops) > 1 and stops[-1] - stops[-2] == 1:
        del stops[-2]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def chunk_size(device: torch.device, height: int, width: int) -> int:
    """Return how many images to process at once where only the time depends on it.

    On a CPU, as many as leave the activations in its caches: 32 images of 32 x 32 pixels
    (docs/performance.md has what that saves). Smaller images come in larger batches, as each call
    has a cost, but not in so large ones that each call asks the system for its memory anew.
    """
    if device.type != "cpu":
        return 512 if height * width <= 64 * 64 else 128
    return min(max(16, 2**15 // (height * width)), 256)


class Images:
    """The images of a part, as batches: the base of all ways to get at the pixels."""

    def __init__(self, dataset: Dataset, part: ImageSet, device: torch.device) -> None:
        self.device = device
        self.labels_cpu = torch.from_numpy(part.labels)
        self.labels = self.labels_cpu.to(device)
        std = torch.tensor(dataset.std, dtype=torch.float32, device=device)
        mean = torch.tensor(dataset.mean, dtype=torch.float32, device=device)
        # In rows of W x 3: on a CPU, an inner loop over three channels takes ten times as long.
        width = dataset.image_size[1]
        self.scale, self.shift = (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)

    def __len__(self) -> int:
        return len(self.labels_cpu)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels (B, H, W, 3) of 0 to 255 as (B, 3, H, W) float32, channels last in memory.

        They are normalised, and overwritten if they are float32.
        """
        n, height, width, _ = pixels.shape
        x = pixels.reshape(n, height, width * 3).float().mul_(self.scale).add_(self.shift)
        return x.view(n, height, width, 3).permute(0, 3, 1, 2)

    def plain(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every image once, in order, without augmentation, `chunk_size` each by default."""
        raise NotImplementedError

    def augmented(self, batch_size: int, generator: torch.Generator) -> Epoch:
        """Return every image once, shuffled and augmented, in the batches of `batch_bounds`.

        Everything random follows from the generator's state alone.
        """
        raise NotImplementedError
