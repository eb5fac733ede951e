"""Data sets that travel to nodes which do not have them, once to each node.

Arrays in memory travel as they are. The files of a memory-mapped store travel in pieces, and are
written once into a folder of the node, where its cells map them. Nothing here imports torch or Ray.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UserError
from harness.common.locks import locked
from harness.data import Dataset, ImageSet, load, using_data_root
from harness.data.fetch import without_fetching
from harness.data.options import DatasetOptions
from harness.data.packed import ImageStore, PackedImages, open_store, reopened
from harness.train.data_request import DataRequest

PIECE = 64 * 2**20  # bytes
Put = Callable[[Any], Any]  # gives an object away for a reference
Get = Callable[[Any], Any]  # the object of a reference


class NoData(Exception):
    """The data that a cell was planned with are not on this node."""


@dataclass(frozen=True)
class InStore:
    """In place of PackedImages: the digest of their store, and index: (N,) positions there."""

    digest: str
    index: np.ndarray


@dataclass(frozen=True)
class DatasetRef:
    """dataset: a reference to the data set, with InStore in place of images of a store. stores:
    digest -> file name -> references to its pieces."""

    dataset: Any
    stores: dict[str, dict[str, list[Any]]]


def pack(dataset: Dataset, put: Put) -> DatasetRef:
    stores: dict[str, dict[str, list[Any]]] = {}

    def packed(part: ImageSet) -> ImageSet:
        if not isinstance(part.images, PackedImages):
            return part
        store = part.images.store
        if store.digest not in stores:
            stores[store.digest] = {
                file.name: [put(piece) for piece in _pieces(file)]
                for file in sorted(store.path.iterdir())
            }
        return replace(part, images=InStore(store.digest, part.images.index))  # type: ignore[arg-type]

    parts: dict[str, Any] = {name: packed(part) for name, part in dataset.parts.items()}
    return DatasetRef(put(replace(dataset, **parts)), stores)


def unpack(parcel: DatasetRef, get: Get, folder: Path) -> Dataset:
    """
    Args:
        folder: of this node, for stores; made if need be.

    Raises:
        OSError: it cannot be written.
    """
    dataset: Dataset = get(parcel.dataset)
    stores = {
        digest: _store(folder / digest[:32], files, get) for digest, files in parcel.stores.items()
    }

    def unpacked(part: ImageSet) -> ImageSet:
        if not isinstance(part.images, InStore):
            return part
        return replace(part, images=stores[part.images.digest].images(part.images.index))

    parts: dict[str, Any] = {name: unpacked(part) for name, part in dataset.parts.items()}
    return replace(dataset, **parts)


def _pieces(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        while piece := opened.read(PIECE):
            yield piece


def _store(path: Path, files: dict[str, list[Any]], get: Get) -> ImageStore:
    """The store at `path`, written by the first process that wants it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock"), "it receives the data set"):
        if open_store(path) is None:
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            try:
                for name, pieces in files.items():
                    with open(temporary / name, "wb") as file:
                        for piece in pieces:
                            file.write(get(piece))
                shutil.rmtree(path, ignore_errors=True)  # there, but not whole
                os.rename(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return reopened(path)


def data_on_node(wanted: DataRequest, parcel: DatasetRef | None, get: Get, folder: Path) -> Dataset:
    """The node's own, where it has the very same data; else those that came.

    Raises:
        NoData: neither.
    """
    if parcel is not None:
        return unpack(parcel, get, folder)
    try:
        with using_data_root(wanted.root), without_fetching():
            own = load(wanted.options, wanted.with_test)
    except UserError as error:
        raise NoData(str(error)) from None
    if own.digest != wanted.digest:
        raise NoData(f"{wanted.options.name} of another digest")
    return own


DataKey = tuple[DatasetOptions, bool, str | None]


def data_key(wanted: DataRequest) -> DataKey:
    """What the data that are loaded depend on."""
    return wanted.options, wanted.with_test, wanted.root
