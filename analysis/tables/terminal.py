"""Tables and paragraphs as plain text that fits the terminal."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.analysis.tables.result_table import Block, Command, ResultTable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNLIMITED = 100_000  # characters of a line in a file or a pipe
NARROWEST = 16  # characters of a column of words, unless its words are shorter


def terminal_text(blocks: Sequence[Block], width: int | None = None) -> str:
    """Return the blocks as plain text.

    Words are wrapped, numbers and commands are not; columns that do not fit stand below the others.

    Args:
        blocks: Paragraphs and tables.
        width: Characters per line; None for lines of any length.
    """
    parts = []
    for block in blocks:
        if isinstance(block, ResultTable):
            if block.title:
                parts.append(block.title)
            parts.append("\n".join(_table_lines(block, width or UNLIMITED)))
            if block.caption:
                parts.append("\n".join(_wrapped(line, width) for line in block.caption))
        else:
            parts.append(_wrapped(block, width))
    return "\n\n".join(parts)


def _wrapped(line: str, width: int | None) -> str:
    if width is None or isinstance(line, Command):
        return line
    return "\n".join(textwrap.wrap(line, width, break_on_hyphens=False, break_long_words=False))


def _table_lines(table: ResultTable, width: int) -> list[str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    columns, lines = list(range(1, len(table.head))), list[str]()
    while True:
        n = len(columns)
        while n > 1 and _narrowest(console, _rich_table(table, [0, *columns[:n]])) > width:
            n -= 1
        part = _rich_table(table, [0, *columns[:n]])
        console.width = max(width, _narrowest(console, part))  # a number is never cut
        with console.capture() as capture:
            console.print(part, crop=False)
        lines += [line.rstrip() for line in capture.get().splitlines()]
        columns = columns[n:]
        if not columns:
            return lines
        lines.append("")


def _narrowest(console: Console, table: Table) -> int:
    """Return the least width at which no number is cut."""
    return table.__rich_measure__(console, console.options.update(max_width=UNLIMITED)).minimum


def _rich_table(table: ResultTable, columns: Sequence[int]) -> Table:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    part = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    for column in columns:
        cells = [table.head[column], *(r[column].text + r[column].note for r in table.rows)]
        words = table.has_words(column)
        longest = max(map(cell_len, cells))
        part.add_column(
            Text(table.head[column]),
            justify="left" if words else "right",
            no_wrap=not words,
            min_width=min(NARROWEST, longest) if words else longest,
            overflow="fold",
        )
    for row in table.rows:
        part.add_row(*(Text(row[i].text + row[i].note) for i in columns))
    return part
