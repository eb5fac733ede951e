"""The places of a results page that numbers lead to: one heading per number."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from harness.analysis.bundle import Bundle
from harness.analysis.tables.rows import Column, Row, columns_of, rows_of, select


def heading(row: Row, column: Column) -> str:
    """Return the heading of a number's runs."""
    part = column.part(row)
    return f"{row.label}, {part}" if part else row.label


def sections(bundle: Bundle) -> dict[str, tuple[Row, Column]]:
    """Return every number once: heading -> its row and column, in the page's order."""
    numbers: dict[str, tuple[Row, Column]] = {}
    columns = columns_of(bundle)
    for row in rows_of(bundle):
        for column in columns:
            if select(bundle, row, column):
                numbers.setdefault(heading(row, column), (row, column))
    return numbers


def anchors(bundle: Bundle, above: Iterable[str] = ()) -> dict[str, str]:
    """Return heading -> link target, as GitHub makes it: later ones of equal targets get a number.

    Args:
        bundle: The results.
        above: Other headings of the page, above the numbers'.
    """
    targets: dict[str, str] = {}
    for title in (*above, *sections(bundle)):
        plain = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        taken = {*targets.values()}
        numbered = (f"{plain}-{n}" if n else plain for n in itertools.count())
        targets[title] = next(target for target in numbered if target not in taken)
    return targets
