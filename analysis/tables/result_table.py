"""A table of results: typed cells, before anybody decides how they are printed.

`markdown.py`, `terminal.py`, `csv_and_latex.py` and the report's template print any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis.statistics import Estimate

DASH = "–"  # a missing value


class Command(str):
    """A line with a command: never wrapped, so that it can be copied."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: Words, or a number in the unit of the table; None if it is missing.
        half_width: Half the width of the number's 95 % interval; None without a spread.
        n: The number of seeds behind the number.
        signed: True for a difference, whose plus sign is printed.
        digits: Decimals of a float.
        link: The address that the cell leads to; "" for none.
        bold, italic, code: How the value stands out.
        note: Plain words behind the value.
    """

    value: str | float | None = None
    half_width: float | None = None
    n: int | None = None
    signed: bool = False
    digits: int = 2
    link: str = ""
    bold: bool = False
    italic: bool = False
    code: bool = False
    note: str = ""

    @staticmethod
    def percent(estimate: Estimate | None, *, link: str = "", bold: bool = False) -> Cell:
        """Return an accuracy in per cent: '98.43 ± 0.31 (3)', or '98.43 (2)' of too few seeds."""
        if estimate is None:
            return Cell()
        half_width = estimate.shown_half_width
        width = None if half_width is None else 100 * half_width
        return Cell(100 * estimate.mean, width, estimate.n, link=link, bold=bold)

    @staticmethod
    def points(estimate: Estimate | None) -> Cell:
        """Return a difference of accuracies in points: '+1.20 ± 0.31 (3)'."""
        return replace(Cell.percent(estimate), signed=True)

    @property
    def text(self) -> str:
        """The value as plain text, without its note."""
        if self.value is None:
            return DASH
        if not isinstance(self.value, float):
            return str(self.value)
        number = f"{self.value:{'+' * self.signed}.{self.digits}f}"
        spread = "" if self.half_width is None else f" ± {self.half_width:.{self.digits}f}"
        return f"{number}{spread}" + ("" if self.n is None else f" ({self.n})")


@dataclass(frozen=True)
class ResultTable:
    """A table with a heading per column and rows of cells.

    Attributes:
        title: What tells it from the tables beside it; "" for a table alone.
        align: One letter per column, "l" for words and "r" for numbers; by default, only the first
            column has words.
        caption: Lines that belong below the table; code stands between backticks.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    align: str = ""
    caption: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.head) for row in self.rows), "a row of another length"

    def has_words(self, column: int) -> bool:
        """Return whether a column is left-aligned and may be wrapped."""
        return self.align.ljust(1, "l").ljust(len(self.head), "r")[column] == "l"

    def compact(self) -> ResultTable:
        """Return the table with short numbers: one decimal, and no number of seeds."""
        rows = [[replace(cell, digits=1, n=None) for cell in row] for row in self.rows]
        return replace(self, rows=rows)


Block = str | ResultTable  # a paragraph or a table of a page


def captioned(tables: Sequence[ResultTable], caption: Sequence[str]) -> list[Block]:
    """Return the tables with a caption below the last one."""
    return [*tables[:-1], replace(tables[-1], caption=caption)]
