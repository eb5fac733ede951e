"""Tables and pages as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.tables.result_table import Block, Cell, ResultTable

ESCAPES = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>|~&$#"})
NO_BREAK = "\u00a0"  # a space at which no line ends


def escaped(text: str) -> str:
    """Return somebody's words so that Markdown shows them as they are, on one line."""
    return " ".join(text.split()).translate(ESCAPES)


def markdown(blocks: Sequence[Block], unbroken: bool = False) -> str:
    """Return paragraphs and tables as Markdown.

    Args:
        blocks: Paragraphs, which are Markdown already, and tables.
        unbroken: No line ends within a number.
    """
    texts = [_table(b, unbroken) if isinstance(b, ResultTable) else b for b in blocks]
    return "\n\n".join(texts) + "\n"


def _table(table: ResultTable, unbroken: bool) -> str:
    title = [f"**{escaped(table.title)}**"] if table.title else []
    rules = ("---" if table.has_words(i) else "---:" for i in range(len(table.head)))
    rows = ([_cell(cell, unbroken) for cell in row] for row in table.rows)
    lines = [
        f"| {' | '.join(map(escaped, table.head))} |",
        f"|{'|'.join(rules)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n\n".join([*title, "\n".join(lines), *table.caption])


def _cell(cell: Cell, unbroken: bool) -> str:
    text = cell.text
    if isinstance(cell.value, str):
        text = f"`{text}`" if cell.code else escaped(text)
    elif unbroken:
        text = text.replace(" ", NO_BREAK)
    text = f"**{text}**" if cell.bold else f"*{text}*" if cell.italic else text
    if cell.note:
        text += " " * cell.note.startswith(" ") + escaped(cell.note)
    return f"[{text}]({cell.link})" if cell.link else text
