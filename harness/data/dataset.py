"""A data set in memory, or memory-mapped, and how its images are augmented."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.data.listing import LeftOut
from harness.data.packed import Channels, PackedImages


@dataclass(frozen=True)
class ImageSet:
    """Images, (N, H, W, 3) uint8 or in a memory-mapped store, and their labels, (N,) int64."""

    images: np.ndarray | PackedImages
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray) -> ImageSet:
        """Return the images at these positions, in this order."""
        return ImageSet(self.images[index], self.labels[index])

    def pixels(self) -> np.ndarray:
        """Return the pixels in memory, (N, H, W, 3) uint8.

        Raises:
            ValueError: The images are of different sizes.
        """
        images = self.images
        return images.stack() if isinstance(images, PackedImages) else images


@dataclass(frozen=True)
class Augmentation:
    """Random crop from an image with a border of `padding` black pixels, and mirroring."""

    padding: int
    flip: bool


@dataclass(frozen=True)
class ResizedCrop:
    """torchvision's RandomResizedCrop and mirroring for training, CenterCrop for evaluation.

    Attributes:
        scale: Range of a crop's share of the image's area.
        ratio: Range of a crop's width over its height.
    """

    size: int
    flip: bool
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @property
    def shorter_side(self) -> int:
        """Shorter side of the images to crop: 256 for crops of 224, as in torchvision's recipes."""
        return self.size * 8 // 7


@dataclass(frozen=True)
class Dataset:
    """A data set after its split.

    Attributes:
        name: The label in tables.
        class_names: The names of the labels 0, 1, ..
        train, validation, test: The parts; None for a part that a cell must not have.
        mean, std: Normalisation of each channel, for pixels scaled to [0, 1].
        augmentation: How training images are changed at random.
        left_out: Files beside the images that are not used; not part of the identity.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    mean: Channels
    std: Channels
    augmentation: Augmentation | ResizedCrop
    left_out: tuple[LeftOut, ...] = ()

    @property
    def parts(self) -> dict[str, ImageSet]:
        """The parts that there are, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def nbytes(self) -> int:
        """Size of the pixels of all parts in bytes."""
        return sum(part.images.nbytes for part in self.parts.values())

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that a network gets."""
        if isinstance(self.augmentation, ResizedCrop):
            return self.augmentation.size, self.augmentation.size
        images = self.train.images
        shape = images.shapes[0] if isinstance(images, PackedImages) else images.shape[1:3]
        return int(shape[0]), int(shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every pixel, label and split boundary: equal digests mean equal data.

        The digest of a store's pixels was taken when it was written, so nothing large is read. For
        stores, the names are left out: the same images are the same data, whatever their files.
        """
        identity: tuple[object, ...] = (self.name, self.class_names, self.augmentation)
        if isinstance(self.train.images, PackedImages):
            identity = (len(self.class_names), self.augmentation)
        sha = hashlib.sha256(repr(identity).encode())
        for part in (self.train, self.validation, self.test):
            sha.update(b"|")
            if part is not None:
                if isinstance(part.images, PackedImages):
                    sha.update(part.images.digest.encode())
                else:
                    sha.update(repr(part.images.shape).encode())
                    sha.update(np.ascontiguousarray(part.images).tobytes())
                sha.update(np.ascontiguousarray(part.labels).tobytes())
        return sha.hexdigest()


# The part of a GPU's memory that the pixels of all parts, of all cells on it, may take: the rest is
# for training. That of 16 GB holds CUB-200 once.
RESIDENT_SHARE = 0.2


def has_room(n_bytes: int, memory: int, n_cells: int) -> bool:
    """Return whether a GPU of `memory` bytes easily holds `n_bytes` of pixels for each cell."""
    return n_cells * n_bytes <= RESIDENT_SHARE * memory


def normalisation(images: np.ndarray | PackedImages) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of each channel, of pixels scaled to [0, 1]."""
    if isinstance(images, PackedImages):
        return images.normalisation()
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    deviation = pixels.std(0)
    deviation[deviation == 0] = 1.0  # a constant channel carries nothing; do not divide by 0
    (r, g, b), (sr, sg, sb) = pixels.mean(0).tolist(), deviation.tolist()
    return (r, g, b), (sr, sg, sb)
