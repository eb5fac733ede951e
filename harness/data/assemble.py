"""Labels checked, and a store of decoded images turned into a Dataset with its split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.data import Augmentation, Dataset, ImageSet, ResizedCrop, normalisation
from harness.data.options import ImageOptions, OwnOptions
from harness.data.packed import Store
from harness.data.split import count, stratified
from harness.errors import UserError


def split_store(
    store: Store, options: ImageOptions, augmentation: Augmentation | ResizedCrop
) -> Dataset:
    """The store's images as train, validation and test. Without a test split of its own, the test
    images are drawn first, then the validation images from the rest: each stratified, and seeded.

    Raises:
        UserError: the split sizes leave a class empty.
    """
    labels, everything = store.labels, np.arange(len(store.labels))
    if store.n_train is None:
        assert isinstance(options, OwnOptions), "only one's own data come without a test split"
        n = count(options.test_size, len(labels))
        test = stratified(labels, n, options.split_seed, "dataset.test_size")
        rest = np.setdiff1d(everything, test)
    else:
        rest, test = everything[: store.n_train], everything[store.n_train :]
    n = count(options.validation, len(rest))
    inner = stratified(labels[rest], n, options.split_seed + 1, "dataset.validation")
    train, validation = np.delete(rest, inner), rest[inner]

    mean, std = options.mean, options.std
    if mean is None or std is None:
        mean, std = normalisation(store.images(train))
        if min(std) == 0:
            raise UserError(
                "dataset: a colour channel has one value in every training image; give "
                "dataset.mean and dataset.std"
            )
    return Dataset(
        name=options.label,
        class_names=store.class_names,
        train=ImageSet(store.images(train), labels[train]),
        validation=ImageSet(store.images(validation), labels[validation]),
        test=ImageSet(store.images(test), labels[test]),
        mean=mean,
        std=std,
        augmentation=augmentation,
    )


def augmentation_of(options: OwnOptions) -> Augmentation | ResizedCrop:
    if options.augmentation == "resized-crop":
        return ResizedCrop(options.image_size, options.flip)
    return Augmentation(options.padding, options.flip)


def _place(part: str, index: int) -> str:
    return f"{part} image {index}"


def check_labels(
    train: np.ndarray,
    test: np.ndarray | None,
    names: Sequence[str] | None,
    source: str,
    place: Callable[[str, int], str] = _place,
) -> tuple[str, ...]:
    """The names of the classes, after a look at what usually goes wrong.

    Args:
        train: (N,) class of each training image (or of every image, if there is no test split).
        test: (M,) class of each test image, None if there is no test split.
        names: of the classes; None for the numbers 0, 1, .. up to the largest of train.
        source: for messages.
        place: what to call an image: from its part ("training" or "test") and position there.

    Raises:
        UserError: a label is negative or too large, a class has no images in train or in test, or
            there are fewer than two classes.
    """
    for part, labels in (("training", train), ("test", test)):
        if labels is None:
            continue
        if not len(labels):
            raise UserError(f"dataset: {source}: no {part} images; add some")
        if labels.min() < 0:
            raise UserError(
                f"dataset: {place(part, int(labels.argmin()))}: negative label {labels.min()}; "
                "number the classes from 0 (images without a class cannot be used)"
            )
        if names is not None and labels.max() >= len(names):
            raise UserError(
                f"dataset: {place(part, int(labels.argmax()))}: label {labels.max()} is out of "
                f"range; there are {len(names)} classes, 0 to {len(names) - 1}"
            )
    in_train = np.unique(train)
    n_classes = len(names) if names is not None else int(in_train[-1]) + 1
    in_test = in_train if test is None else np.unique(test)
    empty = _first_missing(in_train, n_classes)
    if empty is not None:
        where = "only test images" if empty in in_test else "no images"
        raise UserError(
            f"dataset: {source}: class {_name(names, empty)} has {where}; add training images, "
            "or remove the class"
        )
    if len(in_test) and in_test[-1] >= n_classes:
        raise UserError(
            f"dataset: {source}: class {in_test[-1]} has only test images; add training images, "
            "or remove the class"
        )
    empty = _first_missing(in_test, n_classes)
    if empty is not None:
        raise UserError(
            f"dataset: {source}: class {_name(names, empty)} has no test images; add some, or "
            "remove the class"
        )
    if n_classes < 2:
        raise UserError(f"dataset: {source}: one class only; there is nothing to tell apart")
    return tuple(names) if names is not None else tuple(str(c) for c in range(n_classes))


def _first_missing(present: np.ndarray, n_classes: int) -> int | None:
    """The first of 0 .. n_classes - 1 that is not among these sorted numbers."""
    gaps = np.flatnonzero(present[:n_classes] != np.arange(len(present[:n_classes])))
    if len(gaps):
        return int(gaps[0])
    return len(present) if len(present) < n_classes else None


def _name(names: Sequence[str] | None, label: int) -> str:
    return str(label) if names is None else f"{names[label]!r}"
