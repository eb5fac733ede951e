"""The cache of decoded images: each source is decoded once, by the first process that needs it.

A store is written under a lock into a temporary folder and renamed when complete. Its name is a
digest of where the source files lie, of their names, sizes and modification times, and of how they
were decoded; an edit that keeps all of these goes unseen. The cache may be deleted at any time:
running trainings keep what they have mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UserError
from harness.common.files import write_atomically
from harness.common.locks import locked
from harness.common.os_errors import describe_os_error
from harness.common.temporary import remove_temporary, temporary_path, user_folder
from harness.data.packed import ImageStore, open_store, reopen_store, sealed, with_labels
from harness.data.root import data_root

FORMAT = 2  # raise it when the same files would be stored differently
CHANGED = "have changed on the disk, or are of an earlier version; they are decoded again"
ANNOUNCED = 1000  # images from which on a line on stderr says that they are being decoded


@dataclass(frozen=True)
class Contents:
    """The contents of a new store.

    Images come one by one, (H, W, 3), or in blocks, (n, H, W, 3), as uint8; labels are (N,). The
    class names are those of the labels 0, 1, .., including labels that do not occur.
    """

    images: Iterable[np.ndarray]
    labels: np.ndarray
    class_names: Sequence[str]


def file_times(files: Iterable[Path | str]) -> str:
    """Return a digest of names, sizes and modification times; no file is read.

    Raises:
        UserError: A file is missing.
    """
    sha = hashlib.sha256()
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise UserError(f"dataset: cannot read {file} ({error.strerror}); restore it") from None
        sha.update(
            f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return sha.hexdigest()


def cached_store(source: dict[str, Any], make: Callable[[], Contents]) -> ImageStore:
    """Return the store of a source; the first process that asks for it makes it.

    Args:
        source: Plain JSON data that says where the images come from (`path`, for messages), the
            state of the files, and how they are decoded.
        make: Called under a lock if the cache does not have the store.

    Raises:
        UserError: From `make`, or no cache folder can be written.
    """
    text = json.dumps({"format": FORMAT, **source}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    for folder in _cache_folders():
        store = open_store(folder / key, key)
        if store is not None:
            return store
    root = _writable_cache()
    with locked(root / f"{key}.lock", f"it decodes {source['path']}"):
        store = open_store(root / key, key)
        if store is None:
            if os.path.lexists(root / key):
                print(f"{root / key}: the decoded images {CHANGED}", file=sys.stderr, flush=True)
            _write(root / key, make(), str(source["path"]))
            store = reopen_store(root / key)
    return store


def _cache_folders() -> list[Path]:
    """Return the cache in the data root, for all its users, and this user's temporary one."""
    folders = [data_root() / ".cache"]
    with contextlib.suppress(UserError, OSError):  # others may write there, or nobody can
        folders.append(user_folder() / "cache")
    return folders


def _writable_cache() -> Path:
    """Return the first cache folder that can be written.

    Raises:
        UserError: Neither the data root nor the folder for temporary files can be written.
    """
    problems = []
    for folder in _cache_folders():
        try:
            folder.mkdir(
                parents=True, exist_ok=True, mode=0o777 if folder.name[0] == "." else 0o700
            )
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            problems.append(f"{folder} ({error.strerror})")
    raise UserError(
        f"dataset: cannot keep decoded images in {' or '.join(problems)}; choose a folder you may "
        "write to with --data-root"
    )


def _write(path: Path, contents: Contents, source: str) -> None:
    n = len(contents.labels)
    if n >= ANNOUNCED:
        print(f"decoding {n:,} images of {source}, once, into {path}", file=sys.stderr, flush=True)
    temporary = temporary_path(path)
    try:
        temporary.mkdir()
        _write_files(temporary, contents, path.name)
        if open_store(path, path.name) is None:
            _move_aside(path)
            os.rename(temporary, path)
    except OSError as error:
        if open_store(path, path.name):  # another machine, which did not see our lock, was faster
            return
        raise UserError(
            f"dataset: cannot keep decoded images: {describe_os_error(error, path)}; or choose "
            "another folder with --data-root"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    remove_temporary(path)


def _move_aside(path: Path) -> None:
    """Rename a store to a temporary name; processes that have mapped it keep it.

    Raises:
        OSError: The folder cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, temporary_path(path))


def drop_broken(stores: Iterable[ImageStore]) -> bool:
    """Delete the stores whose pixels are not those that were written, and return whether any was.

    Raises:
        UserError: One cannot be deleted.
    """
    broken = [store.path for store in stores if not store.is_whole()]
    for path in broken:
        try:
            with locked(path.with_name(f"{path.name}.lock")):
                store = open_store(path)  # perhaps another process has made it anew by now
                if store is not None and not store.is_whole():
                    print(f"{path}: the decoded images {CHANGED}", file=sys.stderr, flush=True)
                    _move_aside(path)
                    remove_temporary(path)
        except OSError as error:
            raise UserError(
                f"dataset: the decoded images in {path} have changed on the disk, and cannot be "
                f"deleted: {describe_os_error(error, path)}"
            ) from None
    return bool(broken)


def _write_files(folder: Path, contents: Contents, key: str) -> None:
    sha, shapes, sums, squares = hashlib.sha256(), [], [], []
    with open(folder / "pixels.bin", "wb") as file:
        for images in contents.images:
            block = np.ascontiguousarray(images if images.ndim == 4 else images[None])
            n, height, width, _ = block.shape
            sha.update(block.data)
            file.write(block.data)
            planes = np.ascontiguousarray(block.reshape(n, -1, 3).transpose(0, 2, 1))
            shapes += [(height, width)] * n
            sums.append(planes.sum(2, dtype=np.int64))
            squares.append(np.einsum("ncp,ncp->nc", planes, planes, dtype=np.int64))
        n_bytes = file.tell()
        file.flush()
        os.fsync(file.fileno())
    labels, sizes = np.asarray(contents.labels, np.int64), np.asarray(shapes, np.int64)
    assert len(labels) == len(sizes), "one label per image"
    index = io.BytesIO()
    np.savez(
        index,
        shapes=sizes,
        labels=labels,
        sums=np.concatenate(sums),
        squares=np.concatenate(squares),
    )
    meta = {
        "key": key,
        "bytes": n_bytes,
        "digest": with_labels(sha, sizes, labels),
        "class_names": list(contents.class_names),
    }
    write_atomically(folder / "index.npz", index.getvalue())
    write_atomically(folder / "meta.json", sealed(meta, index.getvalue()).encode())
