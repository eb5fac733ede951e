"""Seeded, stratified splits, as index arrays: the one place where parts are drawn."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from harness.common.errors import UserError

WIDENED = 1000  # sizes tried on either side of those that work for certain


def split(
    labels: np.ndarray,
    seed: int,
    validation: int | float,
    test: int | float | None = None,
    test_field: str = "dataset.test_size",
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted positions of the training, the validation and the test images.

    Args:
        labels: (N,) class of each image.
        seed: of the test draw; the validation draw has the next one, so that it does not pick by
            the permutations that picked the test images.
        validation, test: numbers or shares of images; the validation images are some of what the
            test leaves. test: None where the data come with test images: none are drawn.
        test_field: the experiment's field that asks for `test`, for the error message.
        names: of the classes, for the error message.

    Raises:
        UserError: a part leaves some class empty, or a class has too few images for any split.
    """
    every = np.arange(len(labels))
    drawn = every[:0]
    _check_sizes(labels, 2 if test is None else 3, names)
    if test is not None:
        # Two images of each class stay: one for training, and one for validation.
        drawn = stratified(labels, count(test, len(labels)), seed, test_field, names, stay=2)
    rest = np.delete(every, drawn)
    n = count(validation, len(rest))
    inner = stratified(labels[rest], n, seed + 1, "dataset.validation", names)
    return np.delete(rest, inner), rest[inner], drawn


def limited(
    index: np.ndarray, labels: np.ndarray, n: int, seed: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """`n` of the training images, with each class's share kept; sorted.

    Args:
        index: positions of the training images.
        labels: (N,) class of each image of the part that they are positions of.
        n, seed, names: as of `stratified`. Fewer images are among more ones.

    Raises:
        UserError: there are fewer, or `n` takes no image of some class.
    """
    if n > len(index):
        raise UserError(
            f"dataset.train: {n} of {len(index)} training images; use at most {len(index)}, or "
            "leave it out for all of them"
        )
    return index[stratified(labels[index], n, seed, "dataset.train", names, stay=0)]


def _check_sizes(labels: np.ndarray, parts: int, names: Sequence[str] | None) -> None:
    """
    Raises:
        UserError: a class has fewer images than there are parts, so no size would do.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() < parts:
        k = int(counts.argmin())
        what = "train, validation and test" if parts == 3 else "train and validation"
        number = f"{counts[k]} image" + ("s" if counts[k] > 1 else "")
        raise UserError(
            f"dataset: class {called(classes[k], names)} has {number} to split, but {what} need "
            f"one each; add {parts - counts[k]} or more, or remove the class"
        )


def called(label: int, names: Sequence[str] | None) -> str:
    return repr(str(label) if names is None else names[label])


def stratified(
    labels: np.ndarray,
    n: int,
    seed: int,
    field: str,
    names: Sequence[str] | None = None,
    stay: int = 1,
) -> np.ndarray:
    """Sorted indices of `n` items with each class's share kept (largest remainders first).

    RandomState is used on purpose: NumPy promises that its stream never changes, so a seed means
    the same split in every version.

    Args:
        labels: (N,) class of each item.
        n: how many to take.
        seed: of the draw.
        field: the experiment's field that asks for `n`, for the error message.
        names: of the classes, for the error message.
        stay: how many of each class must be left.

    Raises:
        UserError: `n` takes no item of some class, or leaves fewer than `stay` of it.
    """
    classes, counts = np.unique(labels, return_counts=True)
    take = shares(counts, n) if 0 <= n <= len(labels) else counts
    if (take == 0).any() or (counts - take < stay).any():
        k = int(np.argmax((take == 0) | (counts - take < stay)))
        left = f"none of {counts[k]}" if take[k] == 0 else f"{take[k]} of {counts[k]}"
        raise UserError(
            f"{field}: {n} of {len(labels)} images take {left} of class "
            f"{called(classes[k], names)}, which leaves a class empty in a part; "
            f"{_remedy(counts, n, stay)}"
        )
    random = np.random.RandomState(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == c))[:k]
        for c, k in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def shares(counts: np.ndarray, n: int) -> np.ndarray:
    """(C,) of n items, how many of each class: in proportion to counts (C,), rounded by the largest
    remainders."""
    exact = counts * (n / counts.sum())
    take = np.floor(exact).astype(int)
    order = np.argsort(-(exact - take), kind="stable")
    take[order[: n - take.sum()]] += 1
    return take


def _remedy(counts: np.ndarray, n: int, stay: int) -> str:
    """What to use in place of n. Every number that it names works."""
    total, least = int(counts.sum()), int(counts.min())
    low, high = ceil(total / least), floor(total * (1 - stay / least))
    if low > high:  # rounding is left to decide: look around where each class gives half or so
        middle = round(total / (stay + 1))
        near = sorted(range(max(1, middle - 50), min(total, middle + 50)), key=lambda m: abs(m - n))
        low = high = next((m for m in near if _works(counts, m, stay)), 0)
    if not low:
        return "add images to the smallest class, or remove it"
    for _ in range(WIDENED):
        low -= low > 1 and _works(counts, low - 1, stay)
        high += high < total and _works(counts, high + 1, stay)
    return f"use {low}" if low == high else f"use {low} to {high}"


def _works(counts: np.ndarray, n: int, stay: int) -> bool:
    take = shares(counts, n)
    return bool((take > 0).all() and (counts - take >= stay).all())


def count(size: int | float, n: int) -> int:
    """How many of `n` images a size of an experiment file means: below 1 it is a share."""
    return round(size * n) if size < 1 else int(size)
