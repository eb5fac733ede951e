"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, inside scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.data.dataset import Augmentation, Dataset, ImageSet, normalisation
from harness.data.options import Count, DatasetOptions, register_dataset
from harness.data.split import split

FILE = Path("datasets", "data", "digits.csv.gz")  # in scikit-learn's folder
N_PIXELS = 64


@register_dataset
class DigitsOptions(DatasetOptions):
    """scikit-learn's 1,797 handwritten digits.

    Attributes:
        test: The number of test images; there is no official test split, so they are drawn.
    """

    test_is_drawn: ClassVar[bool] = True

    name: Literal["digits"] = "digits"
    # It cannot be chosen, so it is not stored: the digits' options are as before there were labels.
    label: Literal["digits"] = Field(default="digits", exclude=True)
    validation: Count = 297
    test: Count = 500

    def load(self, with_test: bool) -> Dataset:
        """Load the data; grey values 0 to 16 become 0 to 255 in three equal channels."""
        values, labels = read_digits()
        grey = np.round(values * (255 / 16)).astype(np.uint8)
        images = np.repeat(grey[..., None], 3, axis=-1)
        train, validation, test = split(
            labels, self.split_seed, self.validation, self.test, "dataset.test"
        )
        mean, std = normalisation(images[train])
        return Dataset(
            name="digits",
            class_names=tuple(str(c) for c in range(10)),
            train=ImageSet(images[train], labels[train]),
            validation=ImageSet(images[validation], labels[validation]),
            test=ImageSet(images[test], labels[test]) if with_test else None,
            mean=mean,
            std=std,
            augmentation=Augmentation(padding=1, flip=False),
        )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the data of scikit-learn's `load_digits`, without the second that its import takes.

    Returns:
        Images (1797, 8, 8) float64, 0 to 16, and labels (1797,) int64.
    """
    package = importlib.util.find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or ()
    path = next((p for p in (Path(folder, FILE) for folder in folders) if p.is_file()), None)
    if path is None:  # a version that keeps it elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target.astype(np.int64)
    with gzip.open(path, "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",")
    return rows[:, :N_PIXELS].reshape(-1, 8, 8), rows[:, N_PIXELS].astype(np.int64)
