"""Columns of plain text, for lists of any length."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from harness.common.names import printable

GAP = 2  # spaces between columns


def terminal_width() -> int | None:
    """Return the terminal's characters per line; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells below each other, in the terminal's width."""
    print("\n".join(column_lines(rows, terminal_width())))


def column_lines(rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Yield the lines of rows of cells below each other.

    Args:
        rows: The rows, all with the same number of cells.
        width: Characters per line, in which words are wrapped; a word is never cut. None for one
            line per row.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(_width, column)) for column in columns]
    missing = 0 if width is None else sum(widths) + GAP * (len(widths) - 1) - width
    if missing > 0:
        longest = [
            max(_width(w) for cell in column for w in cell.split() or [""]) for column in columns
        ]
        for i in sorted(range(len(widths)), key=lambda i: longest[i] - widths[i]):
            narrower = max(longest[i], widths[i] - max(0, missing))
            missing -= widths[i] - narrower
            widths[i] = narrower
    for row in rows:
        cells = [
            [c] if _width(c) <= w else _wrapped(c, w) for c, w in zip(row, widths, strict=True)
        ]
        for i in range(max(map(len, cells))):
            parts = [cell[i] if i < len(cell) else "" for cell in cells]
            padded = (p + " " * (w + GAP - _width(p)) for p, w in zip(parts, widths, strict=True))
            yield printable("".join(padded).rstrip())


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and _width(lines[-1]) + 1 + _width(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
