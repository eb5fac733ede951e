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
    check_part_classes,
    check_range,
    check_training_classes,
    image_format_of,
    store_of_files,
)
from harness.data.dataset import Dataset
from harness.data.decode import Encoded
from harness.data.listing import TEST, VALIDATION, Reader, Tally, find_parts
from harness.data.options import CustomOptions, Location, SizeOrFolder, register_dataset
from harness.data.packed import ImageStore


@register_dataset
class FolderOptions(CustomOptions):
    """Folders of image files: path/train/CLASS/* and path/test/CLASS/*, or path/CLASS/*.

    Attributes:
        validation: `folder` takes the images of path/val/CLASS/*.
    """

    location: ClassVar[frozenset[str]] = frozenset({"path"})

    name: Literal["folder"] = "folder"
    path: Location
    validation: SizeOrFolder = 0.1  # type: ignore[assignment]

    def some_images(self, most: int) -> list[Encoded]:
        """Return at most so many training images, of all classes."""
        parts = find_parts(self.path, Tally(), self.validation == "folder", draws_test=True)
        files = [f for those in Reader(Tally()).class_files(parts.train).values() for f in those]
        return [Encoded(Path(f), f) for f in files[:: -(-len(files) // most)]]

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
        is_given, is_asked = self.validation == "folder", "test_size" in self.model_fields_set
        parts = find_parts(path, tally, takes_validation=is_given, draws_test=is_asked)
        train = reader.class_files(parts.train)
        names = sorted(train)
        train_files, train_labels = _files_and_labels(train, names)
        check_range(train_labels, names, str(path))
        check_training_classes(train_labels, names, str(path))

        def held_out(part: str, folder: Path | None) -> tuple[list[str], np.ndarray]:
            """Return the files and labels of the test or the validation images."""
            if folder is None:
                return [], train_labels[:0]
            files = _with_training_names(reader.class_files(folder), train, path, part)
            listed, labels = _files_and_labels(files, names)
            check_range(labels, names, str(folder))
            check_part_classes(labels, names, str(path), part)
            return listed, labels

        test_files, test_labels = held_out(TEST, parts.test)
        files, labels = held_out(VALIDATION, parts.validation)
        n = len(train_files)
        # In one store, so that a protocol may join them.
        train_files, train_labels = train_files + files, np.concatenate([train_labels, labels])

        def open_part(files: list[str], labels: np.ndarray, folder: Path) -> ImageStore:
            return store_of_files(
                files, labels, names, image_format_of(self), path=str(folder), names=names
            )

        dataset = assemble(
            self,
            augmentation_of(self),
            open_part(train_files, train_labels, parts.train),
            open_part(test_files, test_labels, parts.test) if parts.test and with_test else None,
            draw_test=parts.test is None,
            given_validation=np.arange(n, len(train_files)) if is_given else None,
        )
        return replace(dataset, left_out=tally.left_out())


def _with_training_names(
    held_out: dict[str, list[str]], train: dict[str, list[str]], path: Path, part: str
) -> dict[str, list[str]]:
    """Return the files of a part by the names that the training folder has for the classes.

    Raises:
        UserError: The training folder has no class of such a name.
    """
    known = {normalise_name(name): name for name in train}
    by_casefold = {key.casefold(): name for key, name in known.items()}
    for name in held_out:
        if normalise_name(name) not in known:
            near = by_casefold.get(normalise_name(name).casefold())
            remedy = f"call it {near!r} in both" if near else "add some, or remove the class"
            raise UserError(
                f"dataset: {path}: class {name!r} has {part} images, but no training images; "
                f"{remedy}"
            )
    return {known[normalise_name(name)]: files for name, files in held_out.items()}


def _files_and_labels(
    class_files: dict[str, list[str]], names: list[str]
) -> tuple[list[str], np.ndarray]:
    """Return the files, class after class, and their labels (N,)."""
    files = [file for name in names for file in class_files.get(name, [])]
    counts = [len(class_files.get(name, [])) for name in names]
    return files, np.repeat(np.arange(len(names)), counts)
