"""Data set registry: a name in an experiment file -> its options and its loader.

This file does not import torch. A loader returns plain numpy arrays; `harness.data.batches` puts
them on the device. To add a data set: write a module with a `load(options) -> Dataset`, an options
model here, and a line in DATASETS.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Channels = tuple[float, float, float]
Count = Annotated[int, Field(ge=1)]


class DatasetOptions(BaseModel):
    """What an experiment file may say about its data."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    validation: Count
    split_seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0  # the next one splits off, too


class DigitsOptions(DatasetOptions):
    """scikit-learn's 1,797 digits; they come without an official test split, so `test` makes one.
    What is neither validation nor test is for training."""

    name: Literal["digits"] = "digits"
    validation: Count = 297
    test: Count = 500


DATASETS: dict[str, tuple[type[DatasetOptions], str]] = {
    "digits": (DigitsOptions, "harness.data.digits:load"),
}


@dataclass(frozen=True)
class ImageSet:
    """images: (N, H, W, 3) uint8; labels: (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the original size from `padding` black pixels on each side, and mirroring."""

    padding: int
    flip: bool


@dataclass(frozen=True)
class Dataset:
    """A data set after its split. `validation` and `test` are None where a cell must not have
    them. mean and std: (3,), of pixels scaled to [0, 1]."""

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    mean: Channels
    std: Channels
    augmentation: Augmentation

    @property
    def digest(self) -> str:
        """SHA-256 of every pixel, label and split boundary: the same digest, the same data."""
        sha = hashlib.sha256(repr((self.name, self.class_names, self.augmentation)).encode())
        for part in (self.train, self.validation, self.test):
            sha.update(b"|")
            if part is not None:
                sha.update(repr(part.images.shape).encode())
                sha.update(np.ascontiguousarray(part.images).tobytes())
                sha.update(np.ascontiguousarray(part.labels).tobytes())
        return sha.hexdigest()


def load(options: DatasetOptions) -> Dataset:
    """The data set with its train / validation / test split.

    Raises:
        UserError: the files are missing or broken, or the split does not fit.
    """
    target = DATASETS[options.name][1]
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(options)


def join_validation(dataset: Dataset) -> Dataset:
    """Train on train + validation, as the releases do without `flag_tuning`: no validation left.
    The normalisation stays that of the training part."""
    if dataset.validation is None:
        return dataset
    parts = (dataset.train, dataset.validation)
    joined = ImageSet(
        np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
    )
    return replace(dataset, train=joined, validation=None)


def normalisation(images: np.ndarray) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    (r, g, b), (sr, sg, sb) = pixels.mean(0).tolist(), pixels.std(0).tolist()
    return (r, g, b), (sr, sg, sb)
