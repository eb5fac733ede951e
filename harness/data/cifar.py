"""CIFAR-10 and CIFAR-100: torchvision's layout, or the Hugging Face hub's parquet files.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, data_root
from harness.data.assemble import assemble
from harness.data.cache import Contents, cached, file_times
from harness.data.decode import ImageFormat
from harness.data.fetch import Archive, fetch
from harness.data.listing import all_parquet, parquet_files
from harness.data.options import CifarOptions
from harness.data.packed import ImageStore
from harness.data.parquet import Columns, open_files

Split = Literal["train", "test"]
SIZES: dict[Split, int] = {"train": 50_000, "test": 10_000}  # of both


@dataclass(frozen=True)
class Cifar:
    """reader: class of torchvision.datasets; its checksums are tested against this table."""

    archive: Archive
    reader: str
    n_classes: int
    label_column: str


CIFAR = {
    "cifar10": Cifar(
        Archive(
            title="CIFAR-10",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            filename="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            size="163 MB",
            folder="cifar-10-batches-py",
        ),
        reader="CIFAR10",
        n_classes=10,
        label_column="label",
    ),
    "cifar100": Cifar(
        Archive(
            title="CIFAR-100",
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            filename="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            size="161 MB",
            folder="cifar-100-python",
        ),
        reader="CIFAR100",
        n_classes=100,
        label_column="fine_label",
    ),
}


def load(options: CifarOptions, with_test: bool = True) -> Dataset:
    """From `path` alone if it is given; else from the data root, and fetched if it is not there.
    with_test: False leaves the test images out.

    Raises:
        UserError: the files are missing and cannot be fetched, or they are broken, or not CIFAR.
    """
    cifar = CIFAR[options.name]
    folder = cifar.archive.folder
    # In the data root, parquet files lie in a folder of the data set's own.
    root = options.path or data_root()
    hub = root if options.path else root / options.name
    if root.name == folder and root.is_dir():
        root = root.parent
    elif not (root / folder).is_dir() and parquet_files(hub, "train"):
        return _assembled(options, with_test, lambda split: _from_parquet(cifar, hub, split))
    elif options.path and not (root / folder).is_dir():
        raise UserError(
            f"dataset.path: neither {folder}/ nor train*.parquet in {root}; correct the path, or "
            "leave it out to fetch the data"
        )
    else:
        fetch(cifar.archive, root)
    return _assembled(options, with_test, lambda split: _from_torchvision(cifar, root, split))


def place(name: str) -> Path | None:
    """Where the files of one of the two lie, if they do; nothing is fetched."""
    root, folder = data_root(), CIFAR[name].archive.folder
    if root.name == folder and root.is_dir():
        return root
    if (root / folder).is_dir():
        return root / folder
    return root / name if all_parquet(root / name) else None


def _assembled(
    options: CifarOptions, with_test: bool, store: Callable[[Split], ImageStore]
) -> Dataset:
    test = store("test") if with_test else None
    return assemble(options, Augmentation(padding=4, flip=True), store("train"), test)


def _from_parquet(cifar: Cifar, folder: Path, split: Split) -> ImageStore:
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
        like=parquet_files(folder, "train"),
        alphabetical=True,  # as both data sets number their classes
    )


def _from_torchvision(cifar: Cifar, root: Path, split: Split) -> ImageStore:
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
                f"it, then {cifar.archive.by_hand} is fetched or extracted anew"
            ) from None
        blocks = (part.data[i : i + 1000] for i in range(0, len(part.data), 1000))
        return Contents(blocks, np.asarray(part.targets, np.int64), part.classes)

    return cached(source, make)
