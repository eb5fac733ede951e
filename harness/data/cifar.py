"""CIFAR-10 and CIFAR-100: torchvision's layout, or the Hugging Face hub's parquet files.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data import Augmentation, Dataset, data_root
from harness.data.assemble import check_labels, split_store
from harness.data.cache import Contents, cached, file_times
from harness.data.decode import Form
from harness.data.fetch import Archive, fetch
from harness.data.options import CifarOptions
from harness.data.packed import Store
from harness.data.parquet import Columns, open_files, parquet_files
from harness.errors import UserError

SIZES = (50_000, 10_000)  # training and test images of both


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


def load(options: CifarOptions) -> Dataset:
    """From `path` alone if it is given; else from the data root, and fetched if it is not there.

    Raises:
        UserError: the files are missing and cannot be fetched, or they are broken, or not CIFAR.
    """
    cifar = CIFAR[options.name]
    folder = cifar.archive.folder
    # In the data root, parquet files lie in a folder of the data set's own.
    root = options.path or data_root()
    parquet = root if options.path else root / options.name
    if root.name == folder and root.is_dir():
        store = _from_torchvision(cifar, root.parent)
    elif (root / folder).is_dir():
        store = _from_torchvision(cifar, root)
    elif train := parquet_files(parquet, "train"):
        store = open_files(
            train,
            parquet_files(parquet, "test"),
            Columns(label=cifar.label_column),
            Form(32, square=True),
            names=[str(c) for c in range(cifar.n_classes)],
            sizes=SIZES,
        )
    elif options.path:
        raise UserError(
            f"dataset.path: neither {folder}/ nor train*.parquet in {root}; correct the path, or "
            "leave it out to fetch the data"
        )
    else:
        fetch(cifar.archive, root)
        store = _from_torchvision(cifar, root)
    return split_store(store, options, Augmentation(padding=4, flip=True))


def _from_torchvision(cifar: Cifar, root: Path) -> Store:
    folder = root / cifar.archive.folder
    source: dict[str, Any] = {
        "path": str(folder),
        "files": file_times(sorted(p for p in folder.iterdir() if p.is_file())),
    }

    def make() -> Contents:
        import torchvision.datasets

        reader = getattr(torchvision.datasets, cifar.reader)
        try:
            parts = [reader(root, train=train) for train in (True, False)]
        except (RuntimeError, OSError):  # torchvision checks every file's md5
            raise UserError(
                f"dataset: {folder} is not whole (a file is missing, or its md5 is wrong); delete "
                f"it, then {cifar.archive.by_hand} is fetched or extracted anew"
            ) from None
        labels = [np.asarray(p.targets, np.int64) for p in parts]
        check_labels(labels[0], labels[1], parts[0].classes, str(folder))
        blocks = (p.data[i : i + 1000] for p in parts for i in range(0, len(p.data), 1000))
        return Contents(blocks, np.concatenate(labels), len(labels[0]), parts[0].classes)

    return cached(source, make)
