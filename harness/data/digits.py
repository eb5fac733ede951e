"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, inside scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from harness.data import Augmentation, Dataset, DigitsOptions, ImageSet, normalisation
from harness.data.split import split

FILE = Path("datasets", "data", "digits.csv.gz")  # in scikit-learn's folder
N_PIXELS = 64


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """images: (1797, 8, 8) float64, 0 to 16; labels: (1797,) int64. What scikit-learn's
    `load_digits` gives, without the second that it takes to import scikit-learn."""
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


def load(options: DigitsOptions, with_test: bool = True) -> Dataset:
    """Grey values 0..16 become 0..255 in three equal channels; training crops shift by one pixel.

    Raises:
        UserError: the split sizes leave a class empty.
    """
    values, labels = read_digits()
    grey = np.round(values * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)

    train, validation, test = split(
        labels, options.split_seed, options.validation, options.test, "dataset.test"
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
