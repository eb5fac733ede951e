"""Seeded, stratified splits, as index arrays."""

import numpy as np

from harness.errors import UserError


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
