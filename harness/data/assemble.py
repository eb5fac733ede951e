"""Labels checked, and stores of decoded images turned into a Dataset with its split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, ImageSet, ResizedCrop, normalisation
from harness.data.decode import ImageFormat
from harness.data.options import ImageOptions, OwnOptions
from harness.data.packed import ImageStore
from harness.data.split import called, limited, split


def assemble(
    options: ImageOptions,
    augmentation: Augmentation | ResizedCrop,
    train: ImageStore,
    test: ImageStore | None,
    draw_test: bool = False,
    n_train: int | None = None,
) -> Dataset:
    """A data set with its validation images held out of train: stratified, and seeded.

    Args:
        options: of the data set.
        augmentation: of its training images.
        train, test: its images; test is None for a data set without test images.
        draw_test: the data come without a test split: draw one from train first, in the same way.
        n_train: how many of the images that are left for training to keep, drawn in the same way.

    Raises:
        UserError: the split sizes leave a class empty, or the classes of train and test differ.
    """
    labels, test_size, test_set = train.labels, None, None
    if draw_test:
        assert isinstance(options, OwnOptions), "only one's own data come without a test split"
        test_size = options.test_size
    elif test is not None:
        check_test_classes(test.labels, train.class_names, options.label)
        test_set = ImageSet(test.images(), test.labels)
    rest, held_out, drawn = split(
        labels, options.split_seed, options.validation, test_size, names=train.class_names
    )
    if draw_test:
        test_set = ImageSet(train.images(drawn), labels[drawn])

    if n_train is not None:
        rest = limited(rest, labels, n_train, options.split_seed + 2, train.class_names)

    mean, std = options.mean, options.std
    if mean is None or std is None:
        mean, std = normalisation(train.images(rest))
        if min(std) == 0:
            raise UserError(
                "dataset: a colour channel has one value in every training image; give "
                "dataset.mean and dataset.std"
            )
    return Dataset(
        name=options.label,
        class_names=train.class_names,
        train=ImageSet(train.images(rest), labels[rest]),
        validation=ImageSet(train.images(held_out), labels[held_out]),
        test=test_set,
        mean=mean,
        std=std,
        augmentation=augmentation,
    )


def augmentation_of(options: OwnOptions) -> Augmentation | ResizedCrop:
    if options.augmentation == "resized-crop":
        return ResizedCrop(options.image_size, options.flip)
    return Augmentation(options.padding, options.flip)


def form_of(options: OwnOptions) -> ImageFormat:
    """How its images are kept: crops are cut of somewhat larger ones, each time anew."""
    augmentation = augmentation_of(options)
    if isinstance(augmentation, ResizedCrop):
        return ImageFormat(augmentation.shorter_side, square=False)
    return ImageFormat(options.image_size, square=True)


def check_range(
    labels: np.ndarray,
    names: Sequence[str] | None,
    source: str,
    place: Callable[[int], str] = "image {}".format,
) -> None:
    """
    Args:
        labels: (N,) class of each image.
        names: of the classes, if they are known.
        source: the data, for messages. place: what to call image i.

    Raises:
        UserError: no labels, or a negative one, or one without a name.
    """
    if not len(labels):
        raise UserError(f"dataset: {source}: no images; add some")
    if labels.min() < 0:
        raise UserError(
            f"dataset: {place(int(labels.argmin()))}: negative label {labels.min()}; number the "
            "classes from 0 (images without a class cannot be used)"
        )
    if names is not None and labels.max() >= len(names):
        raise UserError(
            f"dataset: {place(int(labels.argmax()))}: label {labels.max()} is out of range; there "
            f"are {len(names)} classes, 0 to {len(names) - 1}"
        )


def check_training_classes(
    labels: np.ndarray, names: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    """The names of the classes; where there are none, the numbers up to the largest label.

    Raises:
        UserError: a class without training images, or fewer than two classes.
    """
    present = np.unique(labels)
    n_classes = int(present[-1]) + 1 if names is None else len(names)
    empty = _first_missing(present, n_classes)
    if empty is not None:
        raise UserError(
            f"dataset: {source}: class {called(empty, names)} has no training images; add some, or "
            "remove the class"
        )
    if n_classes < 2:
        raise UserError(f"dataset: {source}: one class only; add the others")
    return tuple(str(c) for c in range(n_classes)) if names is None else tuple(names)


def check_test_classes(labels: np.ndarray, names: Sequence[str], source: str) -> None:
    """names: of the training images' classes.

    Raises:
        UserError: a class with training images only, or with test images only.
    """
    present = np.unique(labels)
    if present[-1] >= len(names):
        raise UserError(
            f"dataset: {source}: class '{present[-1]}' has test images, but no training images; "
            "add some, or remove the class"
        )
    empty = _first_missing(present, len(names))
    if empty is not None:
        raise UserError(
            f"dataset: {source}: class {called(empty, names)} has no test images; add some, or "
            "remove the class"
        )


def _first_missing(present: np.ndarray, n_classes: int) -> int | None:
    """The first of 0 .. n_classes - 1 that is not among these sorted numbers."""
    gaps = np.flatnonzero(present != np.arange(len(present)))
    first = int(gaps[0]) if len(gaps) else len(present)
    return first if first < n_classes else None
