"""Folders of image files, one folder per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from harness.common.errors import UserError
from harness.common.names import normalise_name
from harness.data.assemble import (
    assemble,
    augmentation_of,
    check_range,
    check_test_classes,
    check_training_classes,
    image_format_of,
    store_of_files,
)
from harness.data.dataset import Dataset
from harness.data.listing import Reader, Tally, find_parts
from harness.data.options import CustomOptions, Location, register_dataset
from harness.data.packed import ImageStore


@register_dataset
class FolderOptions(CustomOptions):
    """Folders of image files: path/train/CLASS/* and path/test/CLASS/*, or path/CLASS/*."""

    location: ClassVar[frozenset[str]] = frozenset({"path"})

    name: Literal["folder"] = "folder"
    path: Location

    def load(self, with_test: bool) -> Dataset:
        """Load the images; harness.data.listing says what counts as what.

        Classes are numbered in the order of their names among the training images. Without a test
        folder, the test part is drawn.
        """
        path = self.path
        if not path.is_dir():
            raise UserError(f"dataset.path: no folder {path}; correct the path")
        tally = Tally()
        reader = Reader(tally)
        train_folder, test_folder = find_parts(path, tally)
        train = reader.class_files(train_folder)
        test: dict[str, list[str]] = {}
        if test_folder:
            test = _with_training_names(reader.class_files(test_folder), train, path)
        names = sorted(train)
        train_files, train_labels = _files_and_labels(train, names)
        test_files, test_labels = _files_and_labels(test, names)
        check_range(train_labels, names, str(path))
        check_training_classes(train_labels, names, str(path))
        if test_folder:
            check_range(test_labels, names, str(test_folder))
            check_test_classes(test_labels, names, str(path))

        def open_part(files: list[str], labels: np.ndarray, folder: Path) -> ImageStore:
            return store_of_files(
                files, labels, names, image_format_of(self), path=str(folder), names=names
            )

        dataset = assemble(
            self,
            augmentation_of(self),
            open_part(train_files, train_labels, train_folder),
            open_part(test_files, test_labels, test_folder) if test_folder and with_test else None,
            draw_test=test_folder is None,
        )
        return replace(dataset, left_out=tally.left_out())


def _with_training_names(
    test: dict[str, list[str]], train: dict[str, list[str]], path: Path
) -> dict[str, list[str]]:
    """Return the test files by the names that the training folder has for the classes.

    Raises:
        UserError: The training folder has no class of such a name.
    """
    known = {normalise_name(name): name for name in train}
    by_casefold = {key.casefold(): name for key, name in known.items()}
    for name in test:
        if normalise_name(name) not in known:
            near = by_casefold.get(normalise_name(name).casefold())
            remedy = f"call it {near!r} in both" if near else "add some, or remove the class"
            raise UserError(
                f"dataset: {path}: class {name!r} has test images, but no training images; {remedy}"
            )
    return {known[normalise_name(name)]: files for name, files in test.items()}


def _files_and_labels(
    class_files: dict[str, list[str]], names: list[str]
) -> tuple[list[str], np.ndarray]:
    """Return the files, class after class, and their labels (N,)."""
    files = [file for name in names for file in class_files.get(name, [])]
    counts = [len(class_files.get(name, [])) for name in names]
    return files, np.repeat(np.arange(len(names)), counts)
