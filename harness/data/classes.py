"""Classes of several files or parts are matched by their names, never by their numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.common.errors import UserError, nearest
from harness.common.names import normalise_name, printable


def are_numbers(names: Sequence[str]) -> bool:
    """'0', '1', '2', ...: what stands where nobody has named the classes."""
    return list(names) == [str(i) for i in range(len(names))]


def in_order_of(
    reference: Sequence[str], labels: np.ndarray, own: Sequence[str], where: str, first: str
) -> np.ndarray:
    """Labels that number the classes `own`, as labels that number `reference`.

    Args:
        reference: names of the classes in the order that is wanted.
        labels: (N,), each a position in `own`.
        where: what the labels are of, for messages; first: what the reference is of.

    Returns:
        (N,) int64; the labels as they are where one of both has only numbers for names.

    Raises:
        UserError: two classes of one name, or a label whose class the reference does not have.
    """
    mine, theirs = [normalise_name(n) for n in own], [normalise_name(n) for n in reference]
    if mine == theirs[: len(mine)]:
        return labels
    if not {*mine} & {*theirs} and (are_numbers(mine) or are_numbers(theirs)):
        return labels
    for names, place in ((mine, where), (theirs, first)):
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise UserError(
                f"dataset: {place}: two classes are called {printable(twice)!r}; name each "
                "differently"
            )
    position = {name: i for i, name in enumerate(theirs)}
    target = np.asarray([position.get(name, -1) for name in mine], np.int64)
    unknown = np.flatnonzero((target < 0) & np.isin(np.arange(len(mine)), labels))
    if len(unknown):
        name = own[unknown[0]]
        raise UserError(
            f"dataset: {where}: class {printable(name)!r} is none of {first}"
            f"{nearest(name, reference)}; give a class one name in all files"
        )
    return target[labels]
