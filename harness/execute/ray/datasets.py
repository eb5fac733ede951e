"""Data sets that are sent to nodes which do not have them, once to each node.

Arrays in memory are sent as they are. The files of a memory-mapped store are sent in chunks and
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
from harness.data import Dataset, ImageSet
from harness.data.fetch import without_fetching
from harness.data.packed import ImageStore, PackedImages, open_store, reopen_store
from harness.train.data_request import DataRequest

CHUNK = 64 * 2**20  # bytes
Put = Callable[[Any], Any]  # stores an object and returns a reference, as ray.put
Get = Callable[[Any], Any]  # returns the object of a reference, as ray.get


class NoData(Exception):
    """The data that a cell was planned with are not on this node."""


@dataclass(frozen=True)
class StoreImages:
    """A reference to images of a store, sent in place of PackedImages.

    Attributes:
        digest: The store's digest.
        index: (N,) positions in the store.
    """

    digest: str
    index: np.ndarray


@dataclass(frozen=True)
class DatasetRef:
    """A data set in Ray's object store.

    Attributes:
        dataset: A reference to the data set, with StoreImages in place of a store's images.
        stores: digest -> file name -> references to the file's chunks.
    """

    dataset: Any
    stores: dict[str, dict[str, list[Any]]]


def pack(dataset: Dataset, put: Put) -> DatasetRef:
    """Put a data set into the object store."""
    stores: dict[str, dict[str, list[Any]]] = {}

    def packed(part: ImageSet) -> ImageSet:
        if not isinstance(part.images, PackedImages):
            return part
        store = part.images.store
        if store.digest not in stores:
            stores[store.digest] = {
                file.name: [put(chunk) for chunk in _chunks(file)]
                for file in sorted(store.path.iterdir())
            }
        return replace(part, images=StoreImages(store.digest, part.images.index))  # type: ignore[arg-type]

    parts: dict[str, Any] = {name: packed(part) for name, part in dataset.parts.items()}
    return DatasetRef(put(replace(dataset, **parts)), stores)


def unpack(ref: DatasetRef, get: Get, folder: Path) -> Dataset:
    """Get a data set from the object store; `folder` is the node's folder of image stores.

    Raises:
        OSError: The folder cannot be written.
    """
    dataset: Dataset = get(ref.dataset)
    stores = {
        digest: _write_store(folder / digest[:32], files, get)
        for digest, files in ref.stores.items()
    }

    def unpacked(part: ImageSet) -> ImageSet:
        if not isinstance(part.images, StoreImages):
            return part
        return replace(part, images=stores[part.images.digest].images(part.images.index))

    parts: dict[str, Any] = {name: unpacked(part) for name, part in dataset.parts.items()}
    return replace(dataset, **parts)


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _write_store(path: Path, files: dict[str, list[Any]], get: Get) -> ImageStore:
    """Return the store at `path`; the first process that needs it writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock"), "it receives the data set"):
        store = open_store(path)
        if store is None or not store.is_whole():
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            try:
                for name, chunks in files.items():
                    with open(temporary / name, "wb") as file:
                        for chunk in chunks:
                            file.write(get(chunk))
                shutil.rmtree(path, ignore_errors=True)  # an incomplete one
                os.rename(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            store = reopen_store(path)
    return store


def data_on_node(request: DataRequest, ref: DatasetRef | None, get: Get, folder: Path) -> Dataset:
    """Return the data that were sent or, if none were, the same data from this node's disk.

    Raises:
        NoData: None were sent, and the node does not have exactly these.
    """
    if ref is not None:
        return unpack(ref, get, folder)
    try:
        with without_fetching():
            dataset = request.load()
    except UserError as error:
        raise NoData(str(error)) from None
    if dataset.digest != request.digest:
        raise NoData(f"{request.options.name} has another digest")
    return dataset
