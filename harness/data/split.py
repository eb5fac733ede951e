"""Seeded, stratified splits, as index arrays: the one place where parts are drawn."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from harness.common.errors import UserError

MOST_TRIED = 1000  # sizes on either side of those that work for certain


def split(
    labels: np.ndarray,
    seed: int,
    validation: int | float | None,
    test: int | float | None = None,
    test_field: str = "dataset.test_size",
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sorted positions of the training, the validation and the test images.

    Args:
        labels: The label of each image, (N,).
        seed: The seed of the test draw. The validation draw has the next seed, so that it does not
            reuse the permutations that chose the test images.
        validation: A number or a share of the images that the test part leaves; None for data that
            come with validation images.
        test: A number or a share of all images; None for data that come with test images.
        test_field: The experiment's field for `test`, for messages.
        names: The names of the classes, for messages.

    Raises:
        UserError: A part leaves some class empty, or a class has too few images for any split.
    """
    positions = np.arange(len(labels))
    test_index = positions[:0]
    drawn = [name for name, size in (("validation", validation), ("test", test)) if size]
    _check_class_sizes(labels, ["train", *drawn], names)
    if test is not None:
        # Images of each class remain: one for training, and one for validation if it is drawn.
        n, kept = n_images(test, len(labels)), len(drawn)
        test_index = draw_stratified(labels, n, seed, test_field, names, remaining=kept)
    rest = np.delete(positions, test_index)
    if validation is None:
        return rest, positions[:0], test_index
    n = n_images(validation, len(rest))
    chosen = draw_stratified(labels[rest], n, seed + 1, "dataset.validation", names)
    return np.delete(rest, chosen), rest[chosen], test_index


def draw_subset(
    index: np.ndarray, labels: np.ndarray, n: int, seed: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """Return `n` of the training images, stratified by class and sorted.

    A smaller subset is part of every larger one.

    Args:
        index: The positions of the training images.
        labels: The label of each image that `index` may refer to, (N,).
        n: The size of the subset.
        seed: The seed of the draw.
        names: The names of the classes, for messages.

    Raises:
        UserError: There are fewer images, or some class gets none.
    """
    if n > len(index):
        raise UserError(
            f"dataset.train: {n} of {len(index)} training images; use at most {len(index)}, or "
            "leave it out for all of them"
        )
    return index[draw_stratified(labels[index], n, seed, "dataset.train", names, remaining=0)]


def _check_class_sizes(
    labels: np.ndarray, parts: Sequence[str], names: Sequence[str] | None
) -> None:
    """Raise UserError if a class has fewer images than there are parts."""
    classes, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() < len(parts):
        k = int(counts.argmin())
        *others, last = parts
        listed = f"{', '.join(others)} and {last}"
        number = f"{counts[k]} image" + ("s" if counts[k] > 1 else "")
        raise UserError(
            f"dataset: class {class_text(classes[k], names)} has {number} to split, but {listed} "
            f"need one each; add {len(parts) - counts[k]} or more, or remove the class"
        )


def class_text(label: int, names: Sequence[str] | None) -> str:
    """Return a class's name, or else its number, in quotes for a message."""
    return repr(str(label) if names is None else names[label])


def draw_stratified(
    labels: np.ndarray,
    n: int,
    seed: int,
    field: str,
    names: Sequence[str] | None = None,
    remaining: int = 1,
) -> np.ndarray:
    """Return the sorted indices of `n` items, with each class's share kept.

    RandomState is used on purpose: NumPy promises that its stream never changes, so a seed means
    the same split in every version.

    Args:
        labels: The label of each item, (N,).
        n: The number of items to draw.
        seed: The seed of the draw.
        field: The experiment's field for `n`, for messages.
        names: The names of the classes, for messages.
        remaining: The least number of items per class that must be left.

    Raises:
        UserError: Some class gets no item, or keeps fewer than `remaining`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    drawn = proportional(counts, n) if 0 <= n <= len(labels) else counts
    if (drawn == 0).any() or (counts - drawn < remaining).any():
        k = int(np.argmax((drawn == 0) | (counts - drawn < remaining)))
        number = f"none of {counts[k]}" if drawn[k] == 0 else f"{drawn[k]} of {counts[k]}"
        raise UserError(
            f"{field}: {n} of {len(labels)} images take {number} of class "
            f"{class_text(classes[k], names)}, which leaves a class empty in a part; "
            f"{_remedy(counts, n, remaining)}"
        )
    random = np.random.RandomState(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == c))[:k]
        for c, k in zip(classes, drawn, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def proportional(counts: np.ndarray, n: int) -> np.ndarray:
    """Return how many of `n` items each class gets, (C,), in proportion to `counts`, (C,).

    Remainders are given to the classes with the largest ones first.
    """
    exact = counts * (n / counts.sum())
    rounded = np.floor(exact).astype(int)
    order = np.argsort(-(exact - rounded), kind="stable")
    rounded[order[: n - rounded.sum()]] += 1
    return rounded


def _remedy(counts: np.ndarray, n: int, remaining: int) -> str:
    """Return which sizes to use in place of n; each of them works."""
    total, least = int(counts.sum()), int(counts.min())
    low, high = ceil(total / least), floor(total * (1 - remaining / least))
    if low > high:  # rounding decides: look around the size that takes about half of each class
        middle = round(total / (remaining + 1))
        near = sorted(range(max(1, middle - 50), min(total, middle + 50)), key=lambda m: abs(m - n))
        low = high = next((m for m in near if _works(counts, m, remaining)), 0)
    if not low:
        return "add images to the smallest class, or remove it"
    for _ in range(MOST_TRIED):
        low -= low > 1 and _works(counts, low - 1, remaining)
        high += high < total and _works(counts, high + 1, remaining)
    return f"use {low}" if low == high else f"use {low} to {high}"


def _works(counts: np.ndarray, n: int, remaining: int) -> bool:
    drawn = proportional(counts, n)
    return bool((drawn > 0).all() and (counts - drawn >= remaining).all())


def n_images(size: int | float, n: int) -> int:
    """Return how many of `n` images a size in an experiment file means: below 1, it is a share."""
    return round(size * n) if size < 1 else int(size)
