"""Match the classes of several files or parts by their names, never by their numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.common.errors import UserError, nearest
from harness.common.names import normalise_name, printable


def are_numbers(names: Sequence[str]) -> bool:
    """Return whether the names are '0', '1', '2', ..., which stand in for names."""
    return list(names) == [str(i) for i in range(len(names))]


def renumber(
    labels: np.ndarray,
    names: Sequence[str],
    reference: Sequence[str],
    source: str,
    reference_source: str,
) -> np.ndarray:
    """Return labels of the classes `names` as labels of the same classes in `reference`.

    Args:
        labels: The positions in `names`, (N,).
        names: The names of the classes that the labels number.
        reference: The names of the classes in the order to number them by.
        source: Where the labels come from, for messages.
        reference_source: Where the reference comes from, for messages.

    Returns:
        (N,) int64; unchanged labels if one of both has only numbers for names.

    Raises:
        UserError: Two classes have one name, or the reference lacks the class of a label.
    """
    ours, theirs = [normalise_name(n) for n in names], [normalise_name(n) for n in reference]
    if ours == theirs[: len(ours)]:
        return labels
    if not {*ours} & {*theirs} and (are_numbers(ours) or are_numbers(theirs)):
        return labels
    for known, place in ((ours, source), (theirs, reference_source)):
        twice = next((n for n in known if known.count(n) > 1), None)
        if twice is not None:
            raise UserError(
                f"dataset: {place}: two classes are called {printable(twice)!r}; name each "
                "differently"
            )
    position = {name: i for i, name in enumerate(theirs)}
    target = np.asarray([position.get(name, -1) for name in ours], np.int64)
    unknown = np.flatnonzero((target < 0) & np.isin(np.arange(len(ours)), labels))
    if len(unknown):
        name = names[unknown[0]]
        raise UserError(
            f"dataset: {source}: class {printable(name)!r} is none of {reference_source}"
            f"{nearest(name, reference)}; give a class one name in all files"
        )
    return target[labels]
