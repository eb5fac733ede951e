"""Decoded images in one memory-mapped file, so that no process decodes what another one did.

A store is a folder: pixels.bin (uint8, image after image, each H x W x 3), index.npz (labels,
shapes, sums of each image's channels) and meta.json. Its `digest` is that of pixels and labels,
taken while they were written (harness.data.cache), so nobody has to read them all again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from harness.common.errors import UserError
from harness.data.options import Channels


@dataclass(frozen=True, eq=False)
class ImageStore:
    """An open store of N images. pixels: (bytes,) memory-mapped uint8; shapes: (N, 2) height and
    width; sums, squares: (N, 3) of each image's channels; labels: (N,) int64."""

    path: Path
    pixels: np.ndarray
    shapes: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    digest: str

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N,) first byte of each image."""
        return np.concatenate([[0], np.cumsum(self.shapes.prod(1) * 3)[:-1]])

    def images(self, index: np.ndarray | None = None) -> PackedImages:
        """The images at these positions, or all of them."""
        return PackedImages(self, np.arange(len(self.labels)) if index is None else index)

    def __reduce__(self) -> tuple[Any, ...]:  # a loader's worker maps the file itself
        return (reopened, (self.path,))


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images of a store. index: (N,) int64 positions there."""

    store: ImageStore
    index: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.index)

    @overload
    def __getitem__(self, key: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: np.ndarray) -> PackedImages: ...
    def __getitem__(self, key: int | np.ndarray) -> np.ndarray | PackedImages:
        """One image, (H, W, 3) uint8, not copied; or with an array of positions a subset."""
        if isinstance(key, np.ndarray):
            return PackedImages(self.store, self.index[key])
        i = self.index[key]
        height, width = self.store.shapes[i]
        start = self.store.offsets[i]
        return self.store.pixels[start : start + height * width * 3].reshape(height, width, 3)

    @property
    def shapes(self) -> np.ndarray:
        """(N, 2) height and width."""
        return self.store.shapes[self.index]

    @property
    def nbytes(self) -> int:
        return int(self.shapes.prod(1).sum()) * 3

    @cached_property
    def digest(self) -> str:
        """Of the store's pixels and labels, and of which images of it these are."""
        index = np.ascontiguousarray(self.index, dtype="<i8")
        return hashlib.sha256(self.store.digest.encode() + index.tobytes()).hexdigest()

    def joined(self, other: PackedImages) -> PackedImages:
        """These images, then the other ones of the same store."""
        if other.store.digest != self.store.digest:
            raise ValueError("images of two stores cannot be joined")
        return PackedImages(self.store, np.concatenate([self.index, other.index]))

    def stack(self) -> np.ndarray:
        """(N, H, W, 3) uint8, copied.

        Raises:
            ValueError: the store's images are not of one size.
        """
        if (self.store.shapes != self.store.shapes[0]).any():
            raise ValueError(f"{self.store.path}: images of several sizes cannot be stacked")
        return self.store.pixels.reshape(-1, *self.store.shapes[0], 3)[self.index]

    def normalisation(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of each channel, of pixels scaled to [0, 1], from the
        stored sums: exact, and no pixel is read."""
        n = int(self.shapes.prod(1).sum()) * 255
        mean = self.store.sums[self.index].sum(0) / n
        square = self.store.squares[self.index].sum(0) / (n * 255)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        deviation[deviation == 0] = 1.0  # as harness.data.normalisation
        (r, g, b), (sr, sg, sb) = mean.tolist(), deviation.tolist()
        return (r, g, b), (sr, sg, sb)


def open_store(path: Path) -> ImageStore | None:
    """None if it is not there or not whole."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        if (path / "pixels.bin").stat().st_size != meta["bytes"]:
            return None
        pixels = np.memmap(path / "pixels.bin", dtype=np.uint8, mode="r")
        with np.load(path / "index.npz", allow_pickle=False) as arrays:
            index = {k: arrays[k] for k in ("shapes", "sums", "squares", "labels")}
    except (OSError, ValueError, KeyError):
        return None
    return ImageStore(
        path=path,
        pixels=pixels,
        **index,
        class_names=tuple(meta["class_names"]),
        digest=meta["digest"],
    )


def reopened(path: Path) -> ImageStore:
    store = open_store(path)
    if store is None:
        raise UserError(f"dataset: the decoded images in {path} are gone or broken; delete it")
    return store
