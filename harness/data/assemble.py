"""Check labels, and turn stores of decoded images into a Dataset with its split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UserError
from harness.data.cache import Contents, cached_store, file_times
from harness.data.dataset import Augmentation, Dataset, ImageSet, ResizedCrop, normalisation
from harness.data.decode import Encoded, ImageFormat, decode_all
from harness.data.options import CustomOptions, ImageOptions
from harness.data.packed import ImageStore
from harness.data.split import class_text, draw_subset, split


def assemble(
    options: ImageOptions,
    augmentation: Augmentation | ResizedCrop,
    train: ImageStore,
    test: ImageStore | None,
    draw_test: bool = False,
    n_train: int | None = None,
    given_validation: np.ndarray | None = None,
) -> Dataset:
    """Return a data set whose validation part is held out of the training images.

    Args:
        options: The options of the data set.
        augmentation: The augmentation of its training images.
        train: The training images.
        test: The test images, if there are any.
        draw_test: Whether to draw a test part from `train` first, for data without a test split.
        n_train: How many of the remaining images to train on, stratified by class; None for all.
        given_validation: The positions in `train` of validation images that come with the data;
            None to draw them.

    Raises:
        UserError: The split sizes leave a class empty, or train and test have different classes.
    """
    labels, test_size, test_set = train.labels, None, None
    if draw_test:
        assert isinstance(options, CustomOptions), "only users' data come without a test split"
        test_size = options.test_size
    elif test is not None:
        check_part_classes(test.labels, train.class_names, options.label)
        test_set = ImageSet(test.images(), test.labels)
    names, seed = train.class_names, options.split_seed
    if given_validation is None:
        assert not isinstance(options.validation, str)
        training, validation, drawn = split(
            labels, seed, options.validation, test_size, names=names
        )
    else:
        own, validation = np.delete(np.arange(len(labels)), given_validation), given_validation
        check_training_classes(labels[own], names, options.label)
        check_part_classes(labels[validation], names, options.label, "validation")
        training, _, drawn = split(labels[own], seed, None, test_size, names=names)
        training, drawn = own[training], own[drawn]
    if draw_test:
        test_set = ImageSet(train.images(drawn), labels[drawn])
    if n_train is not None:
        training = draw_subset(training, labels, n_train, options.split_seed + 2, train.class_names)

    mean, std = options.mean, options.std
    if mean is None or std is None:
        mean, std = normalisation(train.images(training))
        if min(std) == 0:
            raise UserError(
                "dataset: a colour channel has one value in every training image; give "
                "dataset.mean and dataset.std"
            )
    return Dataset(
        name=options.label,
        class_names=train.class_names,
        train=ImageSet(train.images(training), labels[training]),
        validation=ImageSet(train.images(validation), labels[validation]),
        test=test_set,
        mean=mean,
        std=std,
        augmentation=augmentation,
    )


def store_of_files(
    files: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    image_format: ImageFormat,
    **source: Any,
) -> ImageStore:
    """Return the store of image files.

    Args:
        files: The files.
        labels: Their labels, (N,).
        class_names: The names of the labels 0, 1, ..
        image_format: How to store the images.
        source: `path`, the folder of the data set, and what else the labels depend on.
    """
    source = source | {"files": file_times(files), "form": image_format.as_json()}
    images = decode_all((Encoded(Path(f), f) for f in files), image_format)
    return cached_store(source, lambda: Contents(images, labels, class_names))


def augmentation_of(options: CustomOptions) -> Augmentation | ResizedCrop:
    """Return the augmentation that the user chose."""
    if options.augmentation == "resized-crop":
        return ResizedCrop(options.image_size, options.flip)
    return Augmentation(options.padding, options.flip)


def image_format_of(options: CustomOptions) -> ImageFormat:
    """Return how images are stored: somewhat larger than the random crops that are cut of them."""
    augmentation = augmentation_of(options)
    if isinstance(augmentation, ResizedCrop):
        return ImageFormat(augmentation.shorter_side, square=False)
    return ImageFormat(options.image_size, square=True)


def check_range(
    labels: np.ndarray,
    names: Sequence[str] | None,
    source: str,
    describe_image: Callable[[int], str] = "image {}".format,
) -> None:
    """Check that there are labels and that each is the number of a class.

    Args:
        labels: The label of each image, (N,).
        names: The names of the classes, if they are known.
        source: The name of the data in messages.
        describe_image: Returns the name of an image in messages.

    Raises:
        UserError: There are no labels, or one is negative or has no class.
    """
    if not len(labels):
        raise UserError(f"dataset: {source}: no images; add some")
    if labels.min() < 0:
        raise UserError(
            f"dataset: {describe_image(int(labels.argmin()))}: negative label {labels.min()}; "
            "number the classes from 0 (images without a class cannot be used)"
        )
    if names is not None and labels.max() >= len(names):
        raise UserError(
            f"dataset: {describe_image(int(labels.argmax()))}: label {labels.max()} is out of "
            f"range; there are {len(names)} classes, 0 to {len(names) - 1}"
        )


def check_training_classes(
    labels: np.ndarray, names: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    """Return the names of the classes; if there are none, the numbers up to the largest label.

    Raises:
        UserError: A class has no training images, or there are fewer than two classes.
    """
    present = np.unique(labels)
    n_classes = int(present[-1]) + 1 if names is None else len(names)
    empty = _first_missing(present, n_classes)
    if empty is not None:
        raise UserError(
            f"dataset: {source}: class {class_text(empty, names)} has no training images; add "
            "some, or remove the class"
        )
    if n_classes < 2:
        raise UserError(f"dataset: {source}: one class only; add the others")
    return tuple(str(c) for c in range(n_classes)) if names is None else tuple(names)


def check_part_classes(
    labels: np.ndarray, names: Sequence[str], source: str, part: str = "test"
) -> None:
    """Check that the images of a part have exactly the training images' classes, `names`.

    Raises:
        UserError: A class has training images only, or images of this part only.
    """
    present = np.unique(labels)
    if present[-1] >= len(names):
        raise UserError(
            f"dataset: {source}: class '{present[-1]}' has {part} images, but no training "
            "images; add some, or remove the class"
        )
    empty = _first_missing(present, len(names))
    if empty is not None:
        raise UserError(
            f"dataset: {source}: class {class_text(empty, names)} has no {part} images; add "
            "some, or remove the class"
        )


def _first_missing(present: np.ndarray, n_classes: int) -> int | None:
    """Return the first of 0 .. n_classes - 1 that is not among these sorted numbers."""
    gaps = np.flatnonzero(present != np.arange(len(present)))
    first = int(gaps[0]) if len(gaps) else len(present)
    return first if first < n_classes else None
