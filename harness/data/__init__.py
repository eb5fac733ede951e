"""Data set registry: a name in an experiment file -> its options and its loader.

Nothing here imports torch. A loader returns numpy arrays or a memory-mapped store;
`harness.data.placement` puts them on the device. To add a data set: write a module with a
`load(options, with_test=True) -> Dataset`, an options model in options.py, and a line in DATASETS.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.data.listing import LeftOut
from harness.data.options import (
    Channels,
    Cifar10Options,
    Cifar100Options,
    Count,
    CubOptions,
    DatasetOptions,
    DigitsOptions,
    FashionMnistOptions,
    FolderOptions,
    ParquetOptions,
)
from harness.data.packed import PackedImages

__all__ = [
    "DATASETS",
    "Augmentation",
    "Channels",
    "Count",
    "Dataset",
    "DatasetOptions",
    "DigitsOptions",
    "ImageSet",
    "PackedImages",
    "ResizedCrop",
    "data_root",
    "load",
    "normalisation",
    "using_data_root",
]

DATASETS: dict[str, tuple[type[DatasetOptions], str]] = {
    "digits": (DigitsOptions, "harness.data.digits:load"),
    "cifar10": (Cifar10Options, "harness.data.cifar:load"),
    "cifar100": (Cifar100Options, "harness.data.cifar:load"),
    "fashion_mnist": (FashionMnistOptions, "harness.data.fashion_mnist:load"),
    "cub200": (CubOptions, "harness.data.cub:load"),
    "folder": (FolderOptions, "harness.data.folder:load"),
    "parquet": (ParquetOptions, "harness.data.parquet:load"),
}


_root: ContextVar[str | Path | None] = ContextVar("data_root", default=None)


def data_root() -> Path:
    """Where data sets are looked for and fetched to: that of `using_data_root`, or else
    $HARNESS_DATA_ROOT, or else ./data."""
    root = _root.get() or os.environ.get("HARNESS_DATA_ROOT") or "data"
    return Path(os.path.abspath(Path(root).expanduser()))


@contextmanager
def using_data_root(path: str | Path | None) -> Iterator[None]:
    """Inside the block, and in this thread, `path` is the data root, whatever the environment says.
    None changes nothing."""
    if path is None:
        yield
        return
    token = _root.set(path)
    try:
        yield
    finally:
        _root.reset(token)


@dataclass(frozen=True)
class ImageSet:
    """images: (N, H, W, 3) uint8, or N images of a memory-mapped store; labels: (N,) int64."""

    images: np.ndarray | PackedImages
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at these positions, in this order."""
        return ImageSet(self.images[indices], self.labels[indices])

    def pixels(self) -> np.ndarray:
        """(N, H, W, 3) uint8, in memory.

        Raises:
            ValueError: the images are not of one size.
        """
        images = self.images
        return images.stack() if isinstance(images, PackedImages) else images


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the original size from `padding` black pixels on each side, and mirroring."""

    padding: int
    flip: bool


@dataclass(frozen=True)
class ResizedCrop:
    """torchvision's RandomResizedCrop(size) and mirroring for training, the central `size` pixels
    for evaluation. scale: of the area; ratio: of width to height."""

    size: int
    flip: bool
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @property
    def shorter_side(self) -> int:
        """Of the images it is given: 256 for crops of 224, as in torchvision's recipes."""
        return self.size * 8 // 7


@dataclass(frozen=True)
class Dataset:
    """A data set after its split. `validation` and `test` are None where a cell must not have
    them. name: its label in tables. mean and std: (3,), of pixels scaled to [0, 1]. left_out: what
    lies beside its images; no part of the identity."""

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
        """Those of train, validation and test that are there."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that a network gets."""
        if isinstance(self.augmentation, ResizedCrop):
            return self.augmentation.size, self.augmentation.size
        images = self.train.images
        shape = images.shapes[0] if isinstance(images, PackedImages) else images.shape[1:3]
        return int(shape[0]), int(shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every pixel, label and split boundary: the same digest, the same data.

        A store knows the digest of its pixels since it was written, so nothing large is read.
        Names are left out there: the same images are the same data, from whatever files.
        """
        what: tuple[object, ...] = (self.name, self.class_names, self.augmentation)
        if isinstance(self.train.images, PackedImages):
            what = (len(self.class_names), self.augmentation)
        sha = hashlib.sha256(repr(what).encode())
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


def load(options: DatasetOptions, with_test: bool = True) -> Dataset:
    """The data set with its train / validation / test split.

    Args:
        with_test: False for tuning: the data set has no test part, and where the test images lie
            in files of their own, these are not opened.

    Raises:
        UserError: the files are missing or broken, or the split does not fit.
    """
    loader = pkgutil.resolve_name(DATASETS[options.name][1])
    if with_test:
        return loader(options)
    return replace(loader(options, with_test=False), test=None)  # whatever the loader makes of it


def normalisation(images: np.ndarray | PackedImages) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""
    if isinstance(images, PackedImages):
        return images.normalisation()
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    deviation = pixels.std(0)
    deviation[deviation == 0] = 1.0  # a constant channel carries nothing; do not divide by 0
    (r, g, b), (sr, sg, sb) = pixels.mean(0).tolist(), deviation.tolist()
    return (r, g, b), (sr, sg, sb)
