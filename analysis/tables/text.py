"""Markdown as text: other people's words in it, and how a terminal shows it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

PRIVATE = 0xE000
RULES = {"l": "---", "r": "---:"}


def escaped(text: str) -> str:
    """Somebody's words for a cell of a Markdown table: shown as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], lines: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table. align: a letter a column, "l" or "r"; by default only the first is left."""
    rules = (RULES[a] for a in align.ljust(1, "l").ljust(len(head), "r"))
    rows = [f"| {' | '.join(row)} |" for row in (head, *lines)]
    return "\n".join([rows[0], f"|{'|'.join(rules)}|", *rows[1:]]) + "\n"


def for_terminal(table: str) -> str:
    """`markdown`'s tables with aligned columns, without links, emphasis and details."""
    # What is escaped waits in a private area of Unicode while the rest is taken apart.
    text = re.sub(r"\\([!-/:-@\[-`{-~])", lambda m: chr(PRIVATE + ord(m[1])), table)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.partition("<details>")[0])
    text = text.replace("*", "")
    shown = []
    for is_table, group in itertools.groupby(text.splitlines(), lambda t: t.startswith("|")):
        lines = list(group)
        shown += _aligned(lines) if is_table else lines
    return re.sub("[\ue000-\ue07f]", lambda m: chr(ord(m[0]) - PRIVATE), "\n".join(shown))


def _aligned(table: list[str]) -> list[str]:
    rows = [line.strip("|").split("|") for line in table]
    rules = next(row for row in rows if row[0].startswith("---"))
    cells = [[c.strip() for c in row] for row in rows if row is not rules]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    pads = [str.rjust if rule.endswith(":") else str.ljust for rule in rules]
    return [
        "  ".join(pad(c, w) for pad, c, w in zip(pads, row, widths, strict=True)).rstrip()
        for row in cells
    ]
