"""RandAugment and TrivialAugment: random operations on single images.

The transforms are torchvision's. They draw from PyTorch's global stream, so each image gives it a
seed of its own, drawn before the epoch, and puts it back: the pixels do not depend on which process
makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class ImageOperations:
    """Random operations on an image, after its crop and flip.

    Attributes:
        name: randaugment (Cubuk et al., arXiv 1909.13719), or trivialaugment (Müller and Hutter,
            ICCV 2021, with its wide strengths).
        n: The number of operations that RandAugment takes.
        magnitude: Their strength, 0 to 30.
    """

    name: str
    n: int = 2
    magnitude: int = 9

    @cached_property
    def _transform(self) -> v2.Transform:
        if self.name == "trivialaugment":
            return v2.TrivialAugmentWide()
        return v2.RandAugment(num_ops=self.n, magnitude=self.magnitude)

    def apply(self, image: Tensor, seed: int) -> Tensor:
        """Return an image (3, H, W) uint8 after the operations that the seed draws."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not that of a GPU
            changed: Tensor = self._transform(image)
        return changed


def change(pixels: Tensor, operations: ImageOperations, seeds: Iterable[int]) -> None:
    """Replace each image of a batch, (B, H, W, 3) uint8, by itself after its operations."""
    for image, seed in zip(pixels, seeds, strict=True):
        image.copy_(operations.apply(image.permute(2, 0, 1), seed).permute(1, 2, 0))


def draw_seeds(n: int, generator: torch.Generator) -> Tensor:
    """Return a seed for each image of an epoch, (n,) int64."""
    return torch.randint(2**63 - 1, (n,), generator=generator)
