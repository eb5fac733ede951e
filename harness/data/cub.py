"""CUB-200-2011: 200 species of birds, 5,994 training and 5,794 test images, or some of its classes.

Source: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, The Caltech-UCSD Birds-200-2011
Dataset, California Institute of Technology, 2011, https://doi.org/10.22002/D1.20098.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.common.errors import UserError
from harness.data import Dataset, ResizedCrop, data_root
from harness.data.assemble import (
    assemble,
    check_range,
    check_test_classes,
    check_training_classes,
)
from harness.data.cache import Contents, cached, file_times
from harness.data.decode import Encoded, ImageFormat, decode_all
from harness.data.fetch import Archive, fetch
from harness.data.options import CUB_LABEL, CubOptions
from harness.data.packed import ImageStore

N_CLASSES = 200
TABLES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
ARCHIVE = Archive(
    title="CUB-200-2011",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    filename="CUB_200_2011.tgz",
    md5="97eceeb196236b17998738112f37df78",
    size="1.2 GB",
    folder="CUB_200_2011",
)


def load(options: CubOptions, with_test: bool = True) -> Dataset:
    """The official split. Images are kept with a shorter side of 8/7 of the image size (256 for
    224): what evaluation crops its centre from, and training its random crops. with_test: False
    leaves the test images unopened.

    Raises:
        UserError: the files are missing and cannot be fetched, a table does not fit the others, an
            image cannot be read, or only some of the classes are there under the label of all.
    """
    folder = _folder(options)
    names, files, labels, in_train = read_tables(folder)
    if len(names) != N_CLASSES and options.label == CUB_LABEL:
        raise UserError(
            f"dataset.label: {folder} has {len(names)} of CUB's {N_CLASSES} classes; give it a "
            f"name of its own, as in `label: cub{len(names)}`"
        )
    for part in (in_train, ~in_train):
        check_range(labels[part], names, str(folder))
    check_training_classes(labels[in_train], names, str(folder))
    check_test_classes(labels[~in_train], names, str(folder))
    augmentation = ResizedCrop(options.image_size, flip=True)
    form = ImageFormat(augmentation.shorter_side, square=False)
    tables = file_times(folder / table for table in TABLES)

    def stored(chosen: np.ndarray) -> ImageStore:
        part = [files[i] for i in np.flatnonzero(chosen)]
        source = {
            "path": str(folder),
            "tables": tables,
            "files": file_times(part),
            "form": form.as_json(),
        }
        images = decode_all((Encoded(Path(f), f) for f in part), form)
        return cached(source, lambda: Contents(images, labels[chosen], names))

    test = stored(~in_train) if with_test else None
    return assemble(options, augmentation, stored(in_train), test)


def _folder(options: CubOptions) -> Path:
    if options.path is None:
        return fetch(ARCHIVE, data_root())
    for folder in (options.path, options.path / ARCHIVE.folder):
        if (folder / "images.txt").is_file():
            return folder
    raise UserError(
        f"dataset.path: no images.txt in {options.path}; correct the path, or leave it out to "
        f"fetch {ARCHIVE.by_hand}"
    )


def place() -> Path | None:
    """Where the files lie, if they do; nothing is fetched."""
    folder = data_root() / ARCHIVE.folder
    return folder if (folder / "images.txt").is_file() else None


def read_tables(folder: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """
    Returns:
        The names of the classes that classes.txt lists; and in the order of images.txt: the image
        files, their classes (N,) from 0, and whether they are for training (N,) bool.
    """
    images, classes, split, listed = (_table(folder / name) for name in TABLES)
    position, named = {number: i for i, number in enumerate(listed)}, {*listed.values()}
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
        name, place = listed[classes[image]], images[image].rpartition("/")[0]
        if place != name and place in named:
            raise UserError(
                f"dataset: {folder / TABLES[1]}: image {image} lies in {place}/, but has the "
                f"class {name!r}; restore it"
            )
        if split[image] not in ("0", "1"):
            raise UserError(
                f"dataset: {folder / TABLES[2]}: {split[image]!r} of image {image} is neither 0 "
                "(test) nor 1 (train); restore it"
            )
        labels.append(position[classes[image]])
        in_train.append(split[image] == "1")
    files = [f"{folder}/images/{name}" for name in images.values()]
    return list(listed.values()), files, np.asarray(labels, np.int64), np.asarray(in_train, bool)


def _table(path: Path) -> dict[str, str]:
    """`key value` lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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
