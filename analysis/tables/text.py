"""Markdown as text: other people's words in it, and how a terminal shows it."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

PRIVATE = 0xE000
RULES = {"l": "---", "r": "---:"}
GAP = "  "  # between columns in a terminal
LEAST, LABEL = 16, 30  # narrower no column of words becomes; nor a row's name, if that is no help


def escaped(text: str) -> str:
    """Somebody's words for a cell of a Markdown table: shown as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], lines: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table. align: a letter a column, "l" or "r"; by default only the first is left."""
    rules = (RULES[a] for a in align.ljust(1, "l").ljust(len(head), "r"))
    rows = [f"| {' | '.join(row)} |" for row in (head, *lines)]
    return "\n".join([rows[0], f"|{'|'.join(rules)}|", *rows[1:]]) + "\n"


def terminal_width() -> int | None:
    """Characters of a line of the terminal; None where the text goes into a file or a pipe, whose
    lines may be as long as they like."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def for_terminal(table: str, width: int | None = None) -> str:
    """`markdown`'s tables with aligned columns, without links, emphasis and details.

    Args:
        width: of a line; tables are made to fit by wrapping words, then by putting columns below
            others. None for lines of any length.
    """
    # What is escaped waits in a private area of Unicode while the rest is taken apart.
    text = re.sub(r"\\([!-/:-@\[-`{-~])", lambda m: chr(PRIVATE + ord(m[1])), table)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.partition("<details>")[0])
    text = text.replace("*", "")
    shown = []
    for is_table, group in itertools.groupby(text.splitlines(), lambda t: t.startswith("|")):
        lines = list(group)
        if is_table:
            shown += _aligned(lines, width or sys.maxsize)
        else:
            shown += [part for line in lines for part in _wrapped(line, width)]
    return re.sub("[\ue000-\ue07f]", lambda m: chr(ord(m[0]) - PRIVATE), "\n".join(shown))


def _wrapped(line: str, width: int | None) -> list[str]:
    """A paragraph. A command stays on its line, to be copied."""
    if width is None or line.startswith("Command: "):
        return [line]
    return _wrap(line, width) or [""]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _aligned(table: list[str], width: int) -> list[str]:
    rows = [line.strip("|").split("|") for line in table]
    rules = next(row for row in rows if row[0].startswith("---"))
    cells = [[c.strip() for c in row] for row in rows if row is not rules]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_text = [not rule.endswith(":") for rule in rules]
    _narrow(widths, is_text, width)
    blocks = _blocks(widths, width)
    shown = []
    for number, block in enumerate(blocks):
        shown += [""] if number else []
        for row in cells:
            shown += _lines(row, block, widths, is_text)
    return shown


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _narrow(widths: list[int], is_text: list[bool], width: int) -> None:
    """Words wrap: columns of text become narrower, the widest first; where no width of theirs is
    enough for all columns, the first only as far as others fit beside it."""
    texts = [i for i, text in enumerate(is_text) if text]
    numbers = [w for w, text in zip(widths, is_text, strict=True) if not text]
    least = LEAST if _total([*numbers, *(LEAST for _ in texts)]) <= width else LABEL
    while _total(widths) > width and texts:
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= least:
            break
        widths[widest] -= 1


def _blocks(widths: list[int], width: int) -> list[list[int]]:
    """Columns that stand beside each other, the first one in front of each block."""
    blocks = [[0]]
    for column in range(1, len(widths)):
        if len(blocks[-1]) > 1 and _total([widths[i] for i in (*blocks[-1], column)]) > width:
            blocks.append([0])
        blocks[-1].append(column)
    return blocks


def _lines(row: list[str], block: list[int], widths: list[int], is_text: list[bool]) -> list[str]:
    wrapped = [_wrap(row[i], widths[i]) if is_text[i] else [row[i]] for i in block]
    return [
        GAP.join(
            text.ljust(widths[i]) if is_text[i] else text.rjust(widths[i])
            for i, text in zip(block, texts, strict=True)
        ).rstrip()
        for texts in itertools.zip_longest(*wrapped, fillvalue="")
    ] or [""]
