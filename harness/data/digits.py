"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, inside scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

import numpy as np
from sklearn.datasets import load_digits

from harness.data import Augmentation, Dataset, DigitsOptions, ImageSet, normalisation
from harness.data.split import split


def load(options: DigitsOptions, with_test: bool = True) -> Dataset:
    """Grey values 0..16 become 0..255 in three equal channels; training crops shift by one pixel.

    Raises:
        UserError: the split sizes leave a class empty.
    """
    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    labels = bunch.target.astype(np.int64)

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
