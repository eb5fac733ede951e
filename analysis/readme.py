"""Text between markers in a Markdown file.

<!-- table:NAME -->
...
<!-- /table:NAME -->
"""

from __future__ import annotations

import re

from harness.errors import UserError


def replace_between_markers(text: str, name: str, content: str, where: str) -> str:
    """`text` with what stands between the markers of `name` replaced by `content`.

    Raises:
        UserError: a marker is missing, doubled or out of order; nothing is ever appended.
    """
    start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    for marker in (start, end):
        n = len(re.findall(rf"^{re.escape(marker)}$", text, re.MULTILINE))
        if n != 1:
            raise UserError(
                f"{where}: the line {marker!r} stands {n} times, expected once; put {start!r} and "
                f"{end!r} where the table belongs"
            )
    before, rest = text.split(start + "\n")
    if end not in rest:
        raise UserError(f"{where}: {end!r} stands before {start!r}; swap them")
    after = rest.split(end)[1]
    return f"{before}{start}\n{content.strip()}\n{end}{after}"
