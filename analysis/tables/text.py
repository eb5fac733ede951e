"""Markdown as text: other people's words in it, and how a terminal shows it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

PRIVATE = 0xE000


def escaped(text: str) -> str:
    """Somebody's words for a cell of a Markdown table: shown as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table whose first `texts` columns are words, the others numbers."""
    aligned = ["---" if i < texts else "---:" for i in range(len(head))]
    rows = [head, aligned, *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


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
    cells = [[c.strip() for c in row] for row in rows if not row[0].startswith("---")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]
