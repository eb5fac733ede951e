"""Folders of image files, a folder a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harness.data import Dataset
from harness.data.assemble import (
    assemble,
    augmentation_of,
    check_range,
    check_test_classes,
    check_training_classes,
)
from harness.data.cache import Contents, cached, file_times
from harness.data.decode import Encoded, Form, decode_all
from harness.data.options import FolderOptions
from harness.data.packed import ImageStore
from harness.errors import UserError

NOT_DATA = {"thumbs.db", "desktop.ini"}


def load(options: FolderOptions, with_test: bool = True) -> Dataset:
    """path/train/CLASS/* and path/test/CLASS/*, or path/CLASS/* with a test split that is drawn.
    Classes are numbered in the order of their names; folders inside a class count to it. with_test:
    False leaves the test images unopened.

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
    train = class_files(path if missing else splits[0])
    test = {} if missing else class_files(splits[1])
    names = sorted(train)
    extra = sorted(test.keys() - train.keys())
    if extra:
        raise UserError(
            f"dataset: {path}: class {extra[0]!r} has test images, but no training images; add "
            "some, or remove the class"
        )
    train_files, train_labels = _listed(train, names)
    test_files, test_labels = _listed(test, names)
    check_range(train_labels, names, str(path))
    check_training_classes(train_labels, names, str(path))
    if not missing:
        check_range(test_labels, names, str(splits[1]))
        check_test_classes(test_labels, names, str(path))

    resized = options.augmentation == "resized-crop"
    form = Form(options.image_size * 8 // 7 if resized else options.image_size, not resized)

    def stored(files: list[str], labels: np.ndarray, place: Path) -> ImageStore:
        source = {
            "path": str(place),
            "files": file_times(files),
            "names": names,
            "form": form.as_json(),
        }
        images = decode_all((Encoded(Path(f), f) for f in files), form)
        return cached(source, lambda: Contents(images, labels, names))

    return assemble(
        options,
        augmentation_of(options),
        stored(train_files, train_labels, path if missing else splits[0]),
        stored(test_files, test_labels, splits[1]) if test and with_test else None,
        draw_test=bool(missing),
    )


def _listed(found: dict[str, list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    """The files class after class, and their labels (N,)."""
    files = [file for name in names for file in found.get(name, [])]
    return files, np.repeat(np.arange(len(names)), [len(found.get(name, [])) for name in names])


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
