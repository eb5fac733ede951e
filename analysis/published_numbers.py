"""The published numbers of the project, as tables on the pages that have a marker for them."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.readme import has_markers, replace_between_markers
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.result_table import Cell, ResultTable
from harness.experiment.published import networks_of, published_protocol, read_paper_table

FOLDER = Path("experiments/published")
MARKER = "published"  # the kind of marker


def published_table(path: Path) -> ResultTable:
    """Return every row of a file of published numbers, without saying anything of ours."""
    rows = read_paper_table(path)
    networks = networks_of(rows[0])
    return ResultTable(
        ["", *networks, "published by", "protocol"],
        [
            [
                Cell(row["row"]),
                *(Cell(row[network] or None) for network in networks),
                Cell(row["source"]),
                Cell(published_protocol(row)),
            ]
            for row in rows
        ],
        align="l" + "r" * len(networks) + "ll",
    )


def refresh_pages(pages: dict[Path, str]) -> None:
    """Fill the marker of each file of published numbers in `pages`."""
    for path in sorted(FOLDER.glob("*.csv")):
        for home, text in pages.items():
            if has_markers(text, path.stem, MARKER):
                table = markdown([published_table(path)])
                pages[home] = replace_between_markers(text, path.stem, table, str(home), MARKER)
