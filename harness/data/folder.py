"""Folders of image files, a folder a class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.common.errors import UserError
from harness.common.names import normalise_name
from harness.data import Dataset
from harness.data.assemble import (
    assemble,
    augmentation_of,
    check_range,
    check_test_classes,
    check_training_classes,
    form_of,
)
from harness.data.cache import Contents, cached, file_times
from harness.data.decode import Encoded, decode_all
from harness.data.listing import Reader, Tally, find_parts
from harness.data.options import FolderOptions
from harness.data.packed import ImageStore


def load(options: FolderOptions, with_test: bool = True) -> Dataset:
    """path/train/CLASS/* and path/test/CLASS/*, or path/CLASS/* with a test split that is drawn;
    harness.data.listing says what counts as what. Classes are numbered in the order of their names
    in train. with_test: False leaves the test images unopened.

    Raises:
        UserError: no such folder, a class without images, an image that cannot be read, or a split
            that leaves a class empty.
    """
    path = options.path
    if not path.is_dir():
        raise UserError(f"dataset.path: no folder {path}; correct the path")
    left = Tally()
    reader = Reader(left)
    train_folder, test_folder = find_parts(path, left)
    train = reader.class_files(train_folder)
    test = _by_training_name(reader.class_files(test_folder), train, path) if test_folder else {}
    names = sorted(train)
    train_files, train_labels = _listed(train, names)
    test_files, test_labels = _listed(test, names)
    check_range(train_labels, names, str(path))
    check_training_classes(train_labels, names, str(path))
    if test_folder:
        check_range(test_labels, names, str(test_folder))
        check_test_classes(test_labels, names, str(path))

    form = form_of(options)

    def stored(files: list[str], labels: np.ndarray, place: Path) -> ImageStore:
        source = {
            "path": str(place),
            "files": file_times(files),
            "names": names,
            "form": form.as_json(),
        }
        images = decode_all((Encoded(Path(f), f) for f in files), form)
        return cached(source, lambda: Contents(images, labels, names))

    dataset = assemble(
        options,
        augmentation_of(options),
        stored(train_files, train_labels, train_folder),
        stored(test_files, test_labels, test_folder) if test_folder and with_test else None,
        draw_test=test_folder is None,
    )
    return replace(dataset, left_out=left.lines())


def _by_training_name(
    test: dict[str, list[str]], train: dict[str, list[str]], path: Path
) -> dict[str, list[str]]:
    """The test files by the names that train has for the classes.

    Raises:
        UserError: train has no class of such a name.
    """
    known = {normalise_name(name): name for name in train}
    for name in test:
        if normalise_name(name) not in known:
            near = {k.casefold(): other for k, other in known.items()}.get(
                normalise_name(name).casefold()
            )
            remedy = f"call it {near!r} in both" if near else "add some, or remove the class"
            raise UserError(
                f"dataset: {path}: class {name!r} has test images, but no training images; {remedy}"
            )
    return {known[normalise_name(name)]: files for name, files in test.items()}


def _listed(found: dict[str, list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    """The files class after class, and their labels (N,)."""
    files = [file for name in names for file in found.get(name, [])]
    return files, np.repeat(np.arange(len(names)), [len(found.get(name, [])) for name in names])
