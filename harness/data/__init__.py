"""Data sets: described, listed, read, split, viewed, and served in batches. Imports no torch.

- `sets`: one module per data set, found by scanning; `options`: what their options share; `root`:
  the data root.
- `listing`: the only place that says what in a folder is a part, a class, an image or a data
  file, with `parquet_files`; `classes`: classes of several files are matched by name; `parquet`:
  such files; `fetch`: downloads with checksums.
- `decode`, `packed`, `cache`: images are decoded once, into a memory-mapped file that all
  processes share.
- `dataset`: what a loader returns; `split`, `assemble`: seeded, stratified splits; `views`: some
  classes or images.
- `batches`: what a batch is; `placement` chooses between `small` (images on the device) and
  `loader` (large images, with the crops of `resize`); `operations`: RandAugment and its like, in
  loaders, whose small images `small_changed` makes; `mixing`: mixup and CutMix of batches.

A data set is loaded as numpy arrays or as a memory-mapped store, already split. To add one, see
docs/extending.md.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

from harness.data import sets
from harness.data.cache import drop_broken
from harness.data.dataset import Augmentation, Dataset, ImageSet, ResizedCrop, normalisation
from harness.data.options import DATASETS, DatasetOptions, register_dataset
from harness.data.packed import PackedImages
from harness.data.root import data_root, using_data_root

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "DatasetOptions",
    "ImageSet",
    "PackedImages",
    "ResizedCrop",
    "data_root",
    "find_datasets",
    "load",
    "normalisation",
    "register_dataset",
    "using_data_root",
]


def load(options: DatasetOptions, with_test: bool = True, check_pixels: bool = False) -> Dataset:
    """Load a data set with its train / validation / test split.

    Args:
        options: The data set.
        with_test: False for tuning: the data set has no test part, and test images in files of
            their own are not opened.
        check_pixels: Whether to compare all cached pixels with their digest, before a network sees
            them, and to decode again what has changed.

    Raises:
        UserError: Files are missing or broken, or the split does not fit.
    """
    dataset = options.load(with_test)
    if check_pixels:
        images = [part.images for part in dataset.parts.values()]
        stores = {i.store.path: i.store for i in images if isinstance(i, PackedImages)}
        if drop_broken(stores.values()):
            dataset = options.load(with_test)
    return dataset if with_test else replace(dataset, test=None)


def find_datasets() -> None:
    """Import the modules of `harness.data.sets`, so that their data sets register themselves."""
    for module in pkgutil.iter_modules(sets.__path__):
        importlib.import_module(f"{sets.__name__}.{module.name}")


find_datasets()
