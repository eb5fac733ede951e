"""Text between markers in a Markdown file.

<!-- table:NAME -->
...
<!-- /table:NAME -->

`table` is the kind of the marker: other texts have another word there.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.common.errors import UserError

TABLE, SUMMARY, FIGURE = "table", "summary", "figure"  # kinds of markers
README = Path("README.md")
DOCS = Path("docs")  # a table stands in README.md or on a page here, where its markers are


def has_markers(text: str, name: str, kind: str = TABLE) -> bool:
    """Return whether a line of the text is the opening marker of `name`."""
    return f"<!-- {kind}:{name} -->" in text.splitlines()


def replace_between_markers(
    text: str, name: str, content: str, where: str, kind: str = TABLE
) -> str:
    """Return `text` with `content` between the markers of `name`.

    Raises:
        UserError: A marker is missing, doubled or out of order.
    """
    start, end = f"<!-- {kind}:{name} -->", f"<!-- /{kind}:{name} -->"
    places = []
    for marker in (start, end):
        # Whole lines only: a marker that is mentioned in the text is not one.
        found = list(re.finditer(rf"^{re.escape(marker)}$", text, re.MULTILINE))
        if len(found) != 1:
            raise UserError(
                f"{where}: the line {marker!r} stands {len(found)} times, expected once; put "
                f"{start!r} and {end!r} where the {kind} belongs"
            )
        places.append(found[0])
    opening, closing = places
    if closing.start() < opening.end():
        raise UserError(f"{where}: {end!r} stands before {start!r}; swap them")
    return f"{text[: opening.end()]}\n{content.strip()}\n{text[closing.start() :]}"
