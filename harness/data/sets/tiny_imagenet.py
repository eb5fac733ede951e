"""Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels, 500 training and 50 test images each.

The published validation images are the test part, as the published test images have no labels.
Source: Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015,
http://cs231n.stanford.edu/tiny-imagenet-200.zip; its checksum is the one that the loaders of
avalanche and of many other public repositories hold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, WithJsonSchema

from harness.common.errors import UserError, nearest
from harness.common.reading import read_user_text
from harness.data.assemble import assemble, store_of_files
from harness.data.dataset import Augmentation, Dataset
from harness.data.decode import ImageFormat
from harness.data.fetch import Archive, fetch
from harness.data.listing import TEST, TRAIN, VALIDATION
from harness.data.options import Label, Location, PublishedOptions, register_dataset
from harness.data.packed import ImageStore
from harness.data.parquet import Columns, open_files
from harness.data.parquet_files import parquet_files
from harness.data.root import data_root

Split = Literal["train", "test"]
ARCHIVE = Archive(
    title="Tiny ImageNet",
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    filename="tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    size="248 MB",
    folder="tiny-imagenet-200",
)
PER_CLASS: dict[Split, int] = {"train": 500, "test": 50}  # images
ANNOTATIONS = Path("val", "val_annotations.txt")  # the classes of the test images
CLASS_NAMES = "classes.txt"  # beside parquet files: the identifier of class 0, 1, .. in each line
EVERY_SECOND = "every second"
LABEL = "tiny-imagenet"
# The WordNet identifiers of the classes (the archive's wnids.txt), in order and without their "n".
_NUMBERS = """
    01443537 01629819 01641577 01644900 01698640 01742172 01768244 01770393 01774384 01774750
    01784675 01855672 01882714 01910747 01917289 01944390 01945685 01950731 01983481 01984695
    02002724 02056570 02058221 02074367 02085620 02094433 02099601 02099712 02106662 02113799
    02123045 02123394 02124075 02125311 02129165 02132136 02165456 02190166 02206856 02226429
    02231487 02233338 02236044 02268443 02279972 02281406 02321529 02364673 02395406 02403003
    02410509 02415577 02423022 02437312 02480495 02481823 02486410 02504458 02509815 02666196
    02669723 02699494 02730930 02769748 02788148 02791270 02793495 02795169 02802426 02808440
    02814533 02814860 02815834 02823428 02837789 02841315 02843684 02883205 02892201 02906734
    02909870 02917067 02927161 02948072 02950826 02963159 02977058 02988304 02999410 03014705
    03026506 03042490 03085013 03089624 03100240 03126707 03160309 03179701 03201208 03250847
    03255030 03355925 03388043 03393912 03400231 03404251 03424325 03444034 03447447 03544143
    03584254 03599486 03617480 03637318 03649909 03662601 03670208 03706229 03733131 03763968
    03770439 03796401 03804744 03814639 03837869 03838899 03854065 03891332 03902125 03930313
    03937543 03970156 03976657 03977966 03980874 03983396 03992509 04008634 04023962 04067472
    04070727 04074963 04099969 04118538 04133789 04146614 04149813 04179913 04251144 04254777
    04259630 04265275 04275548 04285008 04311004 04328186 04356056 04366367 04371430 04376876
    04398044 04399382 04417672 04456115 04465501 04486054 04487081 04501370 04507155 04532106
    04532670 04540053 04560804 04562935 04596742 04597913 06596364 07579787 07583066 07614500
    07615774 07695742 07711569 07715103 07720875 07734744 07747607 07749582 07753592 07768694
    07871810 07873807 07875152 07920052 09193705 09246464 09256479 09332890 09428293 12267677
"""
CLASSES = tuple(f"n{number}" for number in _NUMBERS.split())


def _read_lines(path: Path, remedy: str) -> list[str]:
    """Return the lines of a text file.

    Raises:
        ValueError: The file cannot be read; the message ends with the remedy.
    """
    try:
        return read_user_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(f"cannot read {path} ({reason}); {remedy}") from None


def _read_identifiers(path: Path, remedy: str) -> list[str]:
    """Return the first word of each line of a text file; raise as `_read_lines`."""
    return [line.split()[0] for line in _read_lines(path, remedy) if line.strip()]


def _choose_classes(value: Any) -> tuple[str, ...]:
    """Return the identifiers of the chosen classes, in the order of CLASSES.

    Raises:
        ValueError: There are no such classes, or fewer than two.
    """
    if value == EVERY_SECOND:
        return CLASSES[::2]
    if isinstance(value, str | Path):
        value = _read_identifiers(
            Path(os.path.expanduser(value)),
            f"give a number of classes, {EVERY_SECOND!r}, a list of identifiers, or a .txt file "
            "with one of them in each line",
        )
    if isinstance(value, int) and not isinstance(value, bool):
        if not 2 <= value <= len(CLASSES):
            raise ValueError(f"{value} classes; choose 2 to {len(CLASSES)}")
        return CLASSES[:value]
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"expected a number of classes, {EVERY_SECOND!r}, a list of identifiers or a .txt file"
        )
    names = [str(name) for name in value]
    for name in names:
        if name not in CLASSES:
            raise ValueError(f"{name!r} is not a class of Tiny ImageNet{nearest(name, CLASSES)}")
        if names.count(name) > 1:
            raise ValueError(f"{name} is listed twice; remove one")
    if len(names) < 2:
        raise ValueError("fewer than two classes; add some")
    return tuple(sorted(names))


Classes = Annotated[
    tuple[str, ...],
    BeforeValidator(_choose_classes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 2, "maximum": len(CLASSES)},
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
            ]
        }
    ),
]


@register_dataset
class TinyImageNetOptions(PublishedOptions):
    """Tiny ImageNet, or some of its classes.

    Attributes:
        classes: Which classes: a number of them (the first ones in the order of their identifiers),
            `every second`, a list of identifiers, or a .txt file with an identifier in each line.
        image_size: 64 as published; 32 and 16, means of 2 x 2 and 4 x 4 pixels.
        path: The folder that holds train/ and val/, or the hub's parquet files; by default both are
            looked for in the data root, and else the archive is downloaded. Parquet files may hold
            smaller copies of the images, and fewer classes, if they name them: a line of
            classes.txt beside them begins with the identifier of class 0, the next with that of
            class 1.
    """

    name: Literal["tiny_imagenet"] = "tiny_imagenet"
    label: Label = LABEL
    classes: Classes = Field(default_factory=lambda: CLASSES)
    image_size: Literal[64, 32, 16] = 64
    path: Location | None = None

    def identity(self) -> dict[str, Any]:
        """Return what the data are, with a digest in place of the identifiers of the classes."""
        digest = hashlib.sha256(" ".join(self.classes).encode()).hexdigest()[:16]
        return super().identity() | {"classes": f"{len(self.classes)} ({digest})"}

    def load(self, with_test: bool) -> Dataset:
        """Load the data from `path` alone if it is given."""
        splits: tuple[Split, ...] = ("train", "test") if with_test else ("train",)
        folder, in_parquet = self._folder()
        open_split = self._from_parquet if in_parquet else self._from_archive
        train, *test = (open_split(folder, split) for split in splits)
        augmentation = Augmentation(padding=self.image_size // 8, flip=True)
        return assemble(self, augmentation, train, test[0] if test else None)

    @property
    def _image_format(self) -> ImageFormat:
        return ImageFormat(self.image_size, square=True, resampling="box")

    def _folder(self) -> tuple[Path, bool]:
        """Return the folder of the files, and whether these are parquet files."""
        found = _find(self.path or data_root(), self.path or data_root() / self.name)
        if found:
            return found
        if self.path is None:
            return fetch(ARCHIVE, data_root()), False
        raise UserError(
            f"dataset.path: neither {ANNOTATIONS} nor train*.parquet in {self.path}; correct the "
            "path, or leave it out to fetch the data"
        )

    @classmethod
    def find(cls) -> Path | None:
        """Return the folder that already holds the data, or None."""
        found = _find(data_root(), data_root() / cls.model_fields["name"].default)
        return found[0] if found else None

    def _from_archive(self, folder: Path, split: Split) -> ImageStore:
        if split == "test":
            files = _annotated(folder, self.classes)
        else:
            files = {
                name: sorted(map(str, (folder / "train" / name / "images").glob("*.JPEG")))
                for name in self.classes
            }
        for name, images in files.items():
            _check_count(folder, split, name, len(images))
        return store_of_files(
            [image for images in files.values() for image in images],
            np.repeat(np.arange(len(files)), PER_CLASS[split]),
            self.classes,
            self._image_format,
            path=str(folder),
        )

    def _from_parquet(self, folder: Path, split: Split) -> ImageStore:
        names_file = folder / CLASS_NAMES
        names = None
        try:
            if names_file.exists():
                names = _read_identifiers(names_file, "restore it")
        except ValueError as error:
            raise UserError(f"dataset: {error}") from None
        if names and self.label == LABEL:
            raise UserError(
                f"dataset.label: {names_file} names other files than the published ones; give "
                "these a name of their own, as in `label: my-tiny-imagenet`"
            )
        # On the hub, the test images are those of the split "valid".
        parts = (TRAIN,) if split == "train" else (TEST, VALIDATION)
        files = next((found for part in parts if (found := parquet_files(folder, part))), [])
        if not files:
            raise UserError(f"dataset: no valid*.parquet in {folder}; fetch it too")
        store = open_files(
            files, split, Columns(), self._image_format, names=names, only=self.classes
        )
        counts = np.bincount(store.labels, minlength=len(self.classes)).tolist()
        for name, n in zip(self.classes, counts, strict=True):
            _check_count(folder, split, name, n)
        return store


def _find(root: Path, hub: Path) -> tuple[Path, bool] | None:
    """Return the folder of the archive's or of parquet files, and whether it is the latter."""
    for folder in (root / ARCHIVE.folder, root):
        if (folder / ANNOTATIONS).is_file():
            return folder, False
    return (hub, True) if parquet_files(hub, TRAIN) else None


def _annotated(folder: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Return the test images of each class.

    A line of the table has a file's name, its class, and the corners of a box.

    Raises:
        UserError: The table cannot be read.
    """
    table = folder / ANNOTATIONS
    try:
        lines = _read_lines(table, "restore it")
    except ValueError as error:
        raise UserError(f"dataset: {error}") from None
    files: dict[str, list[str]] = {name: [] for name in classes}
    for n, line in enumerate(lines, start=1):
        file, name, *_ = [*line.split(), "", ""]
        if name not in CLASSES:
            raise UserError(
                f"dataset: {table}, line {n}: {name!r} is not a class of Tiny ImageNet; restore it"
            )
        if name in files:
            files[name].append(str(table.parent / "images" / file))
    return files


def _check_count(folder: Path, split: Split, name: str, n: int) -> None:
    if n != PER_CLASS[split]:
        raise UserError(
            f"dataset: {folder} is not whole: class {name} has {n} of {PER_CLASS[split]} {split} "
            f"images; restore it, or fetch {ARCHIVE.description} anew"
        )
