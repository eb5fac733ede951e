"""CIFAR-10 and CIFAR-100: torchvision's layout, or the Hugging Face hub's parquet files.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from harness.common.errors import UserError
from harness.data.assemble import assemble
from harness.data.cache import Contents, cached_store, file_times
from harness.data.dataset import Augmentation, Dataset
from harness.data.decode import ImageFormat
from harness.data.fetch import Archive, fetch
from harness.data.options import (
    Label,
    Location,
    Mean,
    PublishedOptions,
    Size,
    Std,
    register_dataset,
)
from harness.data.packed import ImageStore
from harness.data.parquet import Columns, open_files
from harness.data.parquet_files import all_parquet, parquet_files
from harness.data.root import data_root

Split = Literal["train", "test"]
SIZES: dict[Split, int] = {"train": 50_000, "test": 10_000}  # of both


@dataclass(frozen=True)
class CifarFiles:
    """The published files of one of the two.

    torchvision's class `reader` reads the archive; parquet files have a column of labels.
    """

    archive: Archive
    reader: str
    n_classes: int
    label_column: str


class CifarOptions(PublishedOptions):
    """CIFAR.

    Attributes:
        path: A folder with torchvision's layout or the Hugging Face hub's parquet files; by default
            both are looked for in the data root, and else the archive is downloaded.
    """

    files: ClassVar[CifarFiles]

    validation: Size = 5000
    path: Location | None = None

    def load(self, with_test: bool) -> Dataset:
        """Load the data from `path` alone if it is given."""
        files, folder = self.files, self.files.archive.folder
        # In the data root, parquet files lie in a folder of the data set's own.
        root = self.path or data_root()
        hub = root if self.path else root / self.name
        read_split = partial(_from_torchvision, files, root)
        if root.name == folder and root.is_dir():
            read_split = partial(_from_torchvision, files, root.parent)
        elif not (root / folder).is_dir() and parquet_files(hub, "train"):
            read_split = partial(_from_parquet, files, hub)
        elif self.path and not (root / folder).is_dir():
            raise UserError(
                f"dataset.path: neither {folder}/ nor train*.parquet in {root}; correct the path, "
                "or leave it out to fetch the data"
            )
        else:
            fetch(files.archive, root)
        test = read_split("test") if with_test else None
        augmentation = Augmentation(padding=4, flip=True)
        return assemble(self, augmentation, read_split("train"), test)

    @classmethod
    def find(cls) -> Path | None:
        """Return the folder that already holds the data, or None."""
        root, folder = data_root(), cls.files.archive.folder
        if root.name == folder and root.is_dir():
            return root
        if (root / folder).is_dir():
            return root / folder
        hub = root / cls.model_fields["name"].default
        return hub if all_parquet(hub) else None


@register_dataset
class Cifar10Options(CifarOptions):
    """50,000 training and 10,000 test images of 10 classes."""

    files: ClassVar[CifarFiles] = CifarFiles(
        Archive(
            title="CIFAR-10",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            filename="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            size="163 MB",
            folder="cifar-10-batches-py",
        ),
        reader="CIFAR10",
        n_classes=10,
        label_column="label",
    )

    name: Literal["cifar10"] = "cifar10"
    label: Label = "cifar10"


@register_dataset
class Cifar100Options(CifarOptions):
    """50,000 training and 10,000 test images of 100 classes; the releases' mean and std."""

    files: ClassVar[CifarFiles] = CifarFiles(
        Archive(
            title="CIFAR-100",
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            filename="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            size="161 MB",
            folder="cifar-100-python",
        ),
        reader="CIFAR100",
        n_classes=100,
        label_column="fine_label",
    )

    name: Literal["cifar100"] = "cifar100"
    label: Label = "cifar100"
    mean: Mean = (0.5071, 0.4867, 0.4408)
    std: Std = (0.2675, 0.2565, 0.2761)


def _from_parquet(cifar: CifarFiles, folder: Path, split: Split) -> ImageStore:
    files = parquet_files(folder, split)
    if not files:
        raise UserError(f"dataset: no {split}*.parquet in {folder}; fetch it too")
    return open_files(
        files,
        split,
        Columns(label=cifar.label_column),
        ImageFormat(32, square=True),
        names=[str(c) for c in range(cifar.n_classes)],
        size=SIZES[split],
        names_from=parquet_files(folder, "train"),
        alphabetical=True,  # as both data sets number their classes
    )


def _from_torchvision(cifar: CifarFiles, root: Path, split: Split) -> ImageStore:
    folder = root / cifar.archive.folder
    source: dict[str, Any] = {
        "path": str(folder),
        "split": split,
        "files": file_times(sorted(p for p in folder.iterdir() if p.is_file())),
    }

    def make() -> Contents:
        import torchvision.datasets

        try:
            part = getattr(torchvision.datasets, cifar.reader)(root, train=split == "train")
        except (RuntimeError, OSError):  # torchvision checks every file's md5
            raise UserError(
                f"dataset: {folder} is not whole (a file is missing, or its md5 is wrong); delete "
                f"it, then {cifar.archive.description} is fetched or extracted anew"
            ) from None
        blocks = (part.data[i : i + 1000] for i in range(0, len(part.data), 1000))
        return Contents(blocks, np.asarray(part.targets, np.int64), part.classes)

    return cached_store(source, make)
