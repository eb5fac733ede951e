"""Seeded, stratified splits, as index arrays: the one place where parts are drawn."""

import numpy as np

from harness.errors import UserError


def split(
    labels: np.ndarray,
    seed: int,
    validation: int | float,
    test: int | float | None = None,
    test_field: str = "dataset.test_size",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted positions of the training, the validation and the test images.

    Args:
        labels: (N,) class of each image.
        seed: of the test draw; the validation draw has the next one, so that it does not pick by
            the permutations that picked the test images.
        validation, test: numbers or shares of images; the validation images are some of what the
            test leaves. test: None where the data come with test images: none are drawn.
        test_field: the experiment's field that asks for `test`, for the error message.

    Raises:
        UserError: a part leaves some class empty.
    """
    every = np.arange(len(labels))
    drawn = every[:0]
    if test is not None:
        drawn = stratified(labels, count(test, len(labels)), seed, test_field)
    rest = np.setdiff1d(every, drawn)
    n = count(validation, len(rest))
    inner = stratified(labels[rest], n, seed + 1, "dataset.validation")
    return np.delete(rest, inner), rest[inner], drawn


def stratified(labels: np.ndarray, n: int, seed: int, field: str) -> np.ndarray:
    """Sorted indices of `n` items with each class's share kept (largest remainders first).

    RandomState is used on purpose: NumPy promises that its stream never changes, so a seed means
    the same split in every version.

    Args:
        labels: (N,) class of each item.
        n: how many to take.
        seed: of the draw.
        field: the experiment's field that asks for `n`, for the error message.

    Raises:
        UserError: `n` leaves some class without an item on one of the two sides.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if not len(classes) <= n <= len(labels) - len(classes):
        raise UserError(
            f"{field}: {n} of {len(labels)} images leaves a class empty; "
            f"use {len(classes)} to {len(labels) - len(classes)}"
        )
    exact = counts * (n / len(labels))
    take = np.floor(exact).astype(int)
    order = np.argsort(-(exact - take), kind="stable")
    take[order[: n - take.sum()]] += 1
    if (take == 0).any() or (take == counts).any():
        remedy = "more" if (take == 0).any() else "fewer"
        raise UserError(f"{field}: {n} images leave a class empty; use {remedy}")
    random = np.random.RandomState(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == c))[:k]
        for c, k in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def count(size: int | float, n: int) -> int:
    """How many of `n` images a size of an experiment file means: below 1 it is a share."""
    return round(size * n) if size < 1 else int(size)
