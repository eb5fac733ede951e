"""CUB-200-2011: 200 species of birds, 5,994 training and 5,794 test images, or some of its classes.

Source: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, The Caltech-UCSD Birds-200-2011
Dataset, California Institute of Technology, 2011, https://doi.org/10.22002/D1.20098.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from harness.common.errors import UserError
from harness.common.reading import read_user_text
from harness.data.assemble import (
    assemble,
    check_part_classes,
    check_range,
    check_training_classes,
    store_of_files,
)
from harness.data.cache import file_times
from harness.data.dataset import Dataset, ResizedCrop
from harness.data.decode import ImageFormat
from harness.data.fetch import Archive, fetch
from harness.data.options import Label, Location, Mean, PublishedOptions, Std, register_dataset
from harness.data.packed import ImageStore
from harness.data.root import data_root

N_CLASSES = 200
CUB_LABEL = "cub200"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TABLES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
ARCHIVE = Archive(
    title="CUB-200-2011",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    filename="CUB_200_2011.tgz",
    md5="97eceeb196236b17998738112f37df78",
    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    size="1.2 GB",
    folder="CUB_200_2011",
)


@register_dataset
class CubOptions(PublishedOptions):
    """CUB-200-2011 in its original layout and split.

    Attributes:
        image_size: Height and width of the crops that a network gets. Images are kept with a
            shorter side of 8/7 of it, 256 for 224.
        path: The folder that holds images.txt; by default CUB_200_2011 in the data root,
            downloaded if it is not there.
    """

    name: Literal["cub200"] = "cub200"
    label: Label = CUB_LABEL
    image_size: Annotated[int, Field(ge=8, le=1024)] = 224
    mean: Mean = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    path: Location | None = None

    def load(self, with_test: bool) -> Dataset:
        """Load the official split."""
        folder = self._folder()
        names, files, labels, in_train = read_tables(folder)
        if len(names) != N_CLASSES and self.label == CUB_LABEL:
            raise UserError(
                f"dataset.label: {folder} has {len(names)} of CUB's {N_CLASSES} classes; give it a "
                f"name of its own, as in `label: cub{len(names)}`"
            )
        for part in (in_train, ~in_train):
            check_range(labels[part], names, str(folder))
        check_training_classes(labels[in_train], names, str(folder))
        check_part_classes(labels[~in_train], names, str(folder))
        augmentation = ResizedCrop(self.image_size, flip=True)
        image_format = ImageFormat(augmentation.shorter_side, square=False)
        table_times = file_times(folder / table for table in TABLES)

        def open_part(is_member: np.ndarray) -> ImageStore:
            part = [files[i] for i in np.flatnonzero(is_member)]
            return store_of_files(
                part, labels[is_member], names, image_format, path=str(folder), tables=table_times
            )

        test = open_part(~in_train) if with_test else None
        return assemble(self, augmentation, open_part(in_train), test)

    def _folder(self) -> Path:
        if self.path is None:
            return fetch(ARCHIVE, data_root())
        for folder in (self.path, self.path / ARCHIVE.folder):
            if (folder / "images.txt").is_file():
                return folder
        raise UserError(
            f"dataset.path: no images.txt in {self.path}; correct the path, or leave it out to "
            f"fetch {ARCHIVE.description}"
        )

    @classmethod
    def find(cls) -> Path | None:
        """Return the folder that already holds the data, or None."""
        folder = data_root() / ARCHIVE.folder
        return folder if (folder / "images.txt").is_file() else None


def read_tables(folder: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Read the tables of the data set.

    Returns:
        The names of the classes in classes.txt; and in the order of images.txt: the image files,
        their labels (N,) from 0, and whether each is for training (N,) bool.

    Raises:
        UserError: A table cannot be read, or does not fit the others.
    """
    images, classes, split, names = (_table(folder / name) for name in TABLES)
    position, folders = {number: i for i, number in enumerate(names)}, {*names.values()}
    labels, in_train = [], []
    for image in images:
        for table, name in ((classes, TABLES[1]), (split, TABLES[2])):
            if image not in table:
                raise UserError(f"dataset: {folder / name}: no line for image {image}; restore it")
        if classes[image] not in position:
            raise UserError(
                f"dataset: {folder / TABLES[3]}: no line for class {classes[image]} of image "
                f"{image}; restore it"
            )
        class_name, place = names[classes[image]], images[image].rpartition("/")[0]
        if place != class_name and place in folders:
            raise UserError(
                f"dataset: {folder / TABLES[1]}: image {image} lies in {place}/, but has the "
                f"class {class_name!r}; restore it"
            )
        if split[image] not in ("0", "1"):
            raise UserError(
                f"dataset: {folder / TABLES[2]}: {split[image]!r} of image {image} is neither 0 "
                "(test) nor 1 (train); restore it"
            )
        labels.append(position[classes[image]])
        in_train.append(split[image] == "1")
    files = [f"{folder}/images/{file}" for file in images.values()]
    return list(names.values()), files, np.asarray(labels, np.int64), np.asarray(in_train, bool)


def _table(path: Path) -> dict[str, str]:
    """Read lines of the form `key value`.

    Raises:
        UserError: The file cannot be read, or a line has another form.
    """
    try:
        lines = read_user_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"dataset: cannot read {path} ({reason}); restore it") from None
    rows = {}
    for n, line in enumerate(lines, start=1):
        key, space, value = line.strip().partition(" ")
        if not space and line.strip():
            raise UserError(f"dataset: {path}, line {n}: expected two words; restore it")
        if key in rows:
            raise UserError(f"dataset: {path}, line {n}: {key} stands twice; restore it")
        if key:
            rows[key] = value.strip()
    return rows
