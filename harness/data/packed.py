"""Decoded images in one memory-mapped file, so that no process decodes what another one has.

A store is a folder: pixels.bin (uint8, image after image, each H x W x 3), index.npz (labels,
shapes, sums of each image's channels) and meta.json. Its `digest` is that of pixels and labels,
taken while they were written (harness.data.cache), so that a command need not read them again: that
takes 0.08 s of a core for 50,000 images of 32 x 32 and 0.5 s for each GB, which a call with nothing
to do would spend for nothing, and minutes of ImageNet. A process that trains or measures a network
checks them once (harness.data.load), as it reads them anyway and has started for seconds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.npz import read_npz
from harness.common.reading import read_file

Channels = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ImageStore:
    """An open store of N images.

    Attributes:
        path: The folder of the store.
        pixels: All bytes, memory-mapped uint8.
        shapes: Height and width of each image, (N, 2).
        sums, squares: Sum of values and of their squares in each channel of each image, (N, 3).
        labels: (N,) int64.
        class_names: The names of the labels 0, 1, ..
        digest: SHA-256 of pixels and labels.
    """

    path: Path
    pixels: np.ndarray
    shapes: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    digest: str

    def is_whole(self) -> bool:
        """Return whether pixels and labels are those that were written; reads all of them."""
        return (
            with_labels(hashlib.sha256(self.pixels.data), self.shapes, self.labels) == self.digest
        )

    @cached_property
    def offsets(self) -> np.ndarray:
        """Position of the first byte of each image, (N,)."""
        return np.concatenate([[0], np.cumsum(self.shapes.prod(1) * 3)[:-1]])

    def images(self, index: np.ndarray | None = None) -> PackedImages:
        """Return the images at these positions, (n,) int64, or all of them."""
        return PackedImages(self, np.arange(len(self.labels)) if index is None else index)

    def __reduce__(self) -> tuple[Any, ...]:  # a loader's worker maps the file itself
        return (reopen_store, (self.path,))


@dataclass(frozen=True, eq=False)
class PackedImages:
    """The images of a store at the positions `index`, (N,) int64."""

    store: ImageStore
    index: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.index)

    @overload
    def __getitem__(self, key: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: np.ndarray) -> PackedImages: ...
    def __getitem__(self, key: int | np.ndarray) -> np.ndarray | PackedImages:
        """Return one image, (H, W, 3) uint8, not copied; or a subset for an array of positions."""
        if isinstance(key, np.ndarray):
            return PackedImages(self.store, self.index[key])
        i = self.index[key]
        height, width = self.store.shapes[i]
        start = self.store.offsets[i]
        return self.store.pixels[start : start + height * width * 3].reshape(height, width, 3)

    @property
    def shapes(self) -> np.ndarray:
        """Height and width of each image, (N, 2)."""
        return self.store.shapes[self.index]

    @property
    def nbytes(self) -> int:
        """Size of the pixels in bytes."""
        return int(self.shapes.prod(1).sum()) * 3

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the store's digest and of the positions of these images."""
        index = np.ascontiguousarray(self.index, dtype="<i8")
        return hashlib.sha256(self.store.digest.encode() + index.tobytes()).hexdigest()

    def concatenate(self, other: PackedImages) -> PackedImages:
        """Return these images followed by other images of the same store.

        Raises:
            ValueError: The other images are of another store.
        """
        if other.store.digest != self.store.digest:
            raise ValueError("images of two stores cannot be joined")
        return PackedImages(self.store, np.concatenate([self.index, other.index]))

    def stack(self) -> np.ndarray:
        """Return a copy of the pixels, (N, H, W, 3) uint8.

        Raises:
            ValueError: The store's images are of different sizes.
        """
        if (self.store.shapes != self.store.shapes[0]).any():
            raise ValueError(f"{self.store.path}: images of several sizes cannot be stacked")
        return self.store.pixels.reshape(-1, *self.store.shapes[0], 3)[self.index]

    def normalisation(self) -> tuple[Channels, Channels]:
        """Return mean and standard deviation of each channel, of pixels scaled to [0, 1].

        They follow exactly from the stored sums, so no pixel is read.
        """
        n = int(self.shapes.prod(1).sum()) * 255
        mean = self.store.sums[self.index].sum(0) / n
        square = self.store.squares[self.index].sum(0) / (n * 255)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        deviation[deviation == 0] = 1.0  # as in harness.data.dataset.normalisation
        (r, g, b), (sr, sg, sb) = mean.tolist(), deviation.tolist()
        return (r, g, b), (sr, sg, sb)


def with_labels(pixels: hashlib._Hash, shapes: np.ndarray, labels: np.ndarray) -> str:
    """Return the digest of a store, from that of its pixels alone (SHA-256)."""
    for array in (shapes, labels):
        pixels.update(array.astype("<i8").tobytes())
    return pixels.hexdigest()


def sealed(meta: dict[str, Any], index: bytes) -> str:
    """Return the text of meta.json, with a digest of itself and of the bytes of index.npz."""
    meta = meta | {"index": hashlib.sha256(index).hexdigest()}
    return canonical(meta | {"seal": hashlib.sha256(canonical(meta).encode()).hexdigest()})


def open_store(path: Path, key: str | None = None) -> ImageStore | None:
    """Return the store in a folder, or None if it is missing or broken, or has another key.

    All is checked except the pixels, of which nothing is read; see `ImageStore.is_whole`.
    """
    try:
        index = read_file(path / "index.npz")
        text = read_file(path / "meta.json").decode()
        meta = json.loads(text)
        written = {k: v for k, v in meta.items() if k not in ("index", "seal")}
        if sealed(written, index) != text or key not in (None, meta["key"]):
            return None
        arrays = read_npz(index, ("shapes", "sums", "squares", "labels"), most=len(index))
        if (path / "pixels.bin").stat().st_size != meta["bytes"]:
            return None
        pixels = np.memmap(path / "pixels.bin", dtype=np.uint8, mode="r")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None
    return ImageStore(
        path=path,
        pixels=pixels,
        **arrays,
        class_names=tuple(meta["class_names"]),
        digest=meta["digest"],
    )


def reopen_store(path: Path) -> ImageStore:
    """Return the store in a folder that has one.

    Raises:
        UserError: The store is missing or incomplete.
    """
    store = open_store(path)
    if store is None:
        raise UserError(f"dataset: the decoded images in {path} are gone or broken; delete it")
    return store
