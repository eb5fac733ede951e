"""Folders of image files, a folder a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harness.data import Dataset
from harness.data.assemble import augmentation_of, check_labels, split_store
from harness.data.cache import Contents, cached, file_times
from harness.data.decode import Encoded, Form, decode_all
from harness.data.options import FolderOptions
from harness.errors import UserError

NOT_DATA = {"thumbs.db", "desktop.ini"}


def load(options: FolderOptions) -> Dataset:
    """path/train/CLASS/* and path/test/CLASS/*, or path/CLASS/* with a test split that is drawn.
    Classes are numbered in the order of their names; folders inside a class count to it.

    Raises:
        UserError: no such folder, a class without images, an image that cannot be read, or a split
            that leaves a class empty.
    """
    path = options.path
    if not path.is_dir():
        raise UserError(f"dataset.path: no folder {path}; correct the path")
    splits = [path / "train", path / "test"]
    missing = [s.name for s in splits if not s.is_dir()]
    if len(missing) == 1:
        raise UserError(
            f"dataset.path: {path} has no folder {missing[0]}/ beside the other one; add it (a "
            "link will do), or give the folder that holds the classes"
        )
    parts = [class_files(s) for s in splits] if not missing else [class_files(path), {}]
    train, test = parts
    extra = sorted(test.keys() - train.keys())
    if extra:
        raise UserError(
            f"dataset: {path}: class {extra[0]!r} has only test images; add training images, or "
            "remove the class"
        )
    names = sorted(train)
    files = [file for part in parts for name in names for file in part.get(name, [])]
    labels = [
        np.repeat(np.arange(len(names)), [len(part.get(name, [])) for name in names])
        for part in parts
    ]
    check_labels(labels[0], labels[1] if test else None, names, str(path))

    resized = options.augmentation == "resized-crop"
    form = Form(options.image_size * 8 // 7 if resized else options.image_size, not resized)
    source = {
        "path": str(path),
        "split": not missing,
        "files": file_times(files),
        "form": form.as_json(),
    }

    def make() -> Contents:
        images = decode_all((Encoded(Path(f), f) for f in files), form)
        n_train = None if missing else len(labels[0])
        return Contents(images, np.concatenate(labels), n_train, names)

    return split_store(cached(source, make), options, augmentation_of(options))


def class_files(folder: Path) -> dict[str, list[str]]:
    """Class -> its files, sorted. What is hidden and a file manager's own files do not count.

    Raises:
        UserError: no folders.
    """
    found: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir() and not entry.name.startswith("."):
            files = found.setdefault(entry.name, [])
            for parent, folders, names in os.walk(entry.path):
                folders[:] = [f for f in folders if not f.startswith(".")]
                files += [
                    os.path.join(parent, name)
                    for name in names
                    if not name.startswith(".") and name.lower() not in NOT_DATA
                ]
            files.sort()
    if not found:
        raise UserError(f"dataset: {folder}: no folders in it; make one for each class")
    return found
