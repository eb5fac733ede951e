"""Figures on pages: picture, alt text and caption between markers, which `harness tables` fills.

<!-- figure:digits/accuracy -->
...
<!-- /figure:digits/accuracy -->
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.analysis.bundle import Bundle
from harness.analysis.readme import FIGURE, replace_between_markers
from harness.analysis.tables.markdown import escaped
from harness.common.errors import UserError


def fill_figures(pages: dict[Path, str], bundle: Bundle, folder: Path) -> None:
    """Write the figures of a bundle that the pages have markers for.

    Args:
        pages: path -> text, which is changed.
        bundle: The results.
        folder: The folder of the bundle's figures.

    Raises:
        UserError: A page shows a figure that the bundle lacks, or has half a pair of markers.
    """
    marker = re.compile(rf"^<!-- {FIGURE}:{re.escape(bundle.name)}/(\S+) -->$", re.MULTILINE)
    for page, text in pages.items():
        for name in marker.findall(text):
            content = _block(bundle, name, folder, page)
            pages[page] = replace_between_markers(
                pages[page], f"{bundle.name}/{name}", content, str(page), FIGURE
            )


def _block(bundle: Bundle, name: str, folder: Path, page: Path) -> str:
    from harness.analysis.figures import FIGURES, drawable  # matplotlib takes its time

    names, _ = drawable(bundle)
    if name not in names:
        raise UserError(f"{page}: {bundle.name} has no figure {name!r}; it has {', '.join(names)}")
    texts = FIGURES[name].texts(bundle)
    address = Path(os.path.relpath(folder / f"{name}.png", page.parent)).as_posix()
    return f"![{escaped(texts.alt)}]({address})<br>\n*{escaped(texts.caption)}*"
