"""The pages that show tables: an experiment's results, a page's summary, the end of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.analysis.bundle import Bundle
from harness.analysis.tables.accuracy import (
    Link,
    accuracy_tables,
    final_tables,
    leak_blocks,
    number_table,
    run_table,
    unlinked,
)
from harness.analysis.tables.caption import caption, describe_bold, short_caption
from harness.analysis.tables.classes import CAPTION, class_tables
from harness.analysis.tables.comparisons import (
    claims_blocks,
    difference_blocks,
    published_blocks,
    replication_blocks,
    verdict_blocks,
)
from harness.analysis.tables.csv_and_latex import csv_text, latex_escaped, latex_text
from harness.analysis.tables.curves import DESCRIPTION, EPOCHS, epoch_table, has_curves, svg
from harness.analysis.tables.markdown import escaped, markdown
from harness.analysis.tables.paper_form import paper_caption, paper_form
from harness.analysis.tables.result_table import Block, captioned
from harness.analysis.tables.rows import Column, Row, column_groups, columns_of
from harness.analysis.tables.runs import anchors, heading, sections

VERDICTS = "Verdicts"
REPLICATION = "Verdicts with two sets of seeds"
DIFFERENCES = "Differences from the plain student, paired by seed"
PUBLISHED = "Beside the published numbers"
CLASSES = "Accuracy by class"
LEAK = "All three accuracies, and the leak of choosing the epoch on the test set"
RUNS = "Runs"
CURVES = "curves"  # the folder of figures beside the pages
LONGEST_NAME = 80  # letters of a file's name, which has 255 bytes
HEADINGS = (VERDICTS, REPLICATION, DIFFERENCES, PUBLISHED, CLASSES, LEAK, RUNS)


def table_blocks(bundle: Bundle, link: Link = unlinked) -> list[Block]:
    """Return everything measured with its caption, then the verdicts."""
    return [*captioned(accuracy_tables(bundle, link), caption(bundle)), *verdict_blocks(bundle)]


def link_to_runs(bundle: Bundle, page: str = "") -> Link:
    """Return the function that gives a number's address on a results page; "" for this page."""
    targets = anchors(bundle, (_title(bundle), *HEADINGS))
    return lambda row, column: f"{page}#{targets[heading(row, column)]}"


def summary_blocks(bundle: Bundle, page: str, replication: Bundle | None = None) -> list[Block]:
    """Return the part of a page on an experiment: its final accuracies and its claims.

    An experiment that names a published table of other data has the form of that table.

    Args:
        bundle: The results.
        page: The address of the results page.
        replication: The results with other seeds, if there are any.
    """
    claims = claims_blocks(bundle, replication)
    if bundle.paper_table:
        table = paper_form(bundle, link_to_runs(bundle, page))
        return [*captioned([table], paper_caption(bundle, page, bool(claims))), *claims]
    link = f"[All numbers, verdicts and runs]({page})."
    line = f"{short_caption(bundle)} {describe_bold(bool(claims))} {link}"
    return [*captioned(final_tables(bundle), [line]), *claims]


def closing_blocks(bundle: Bundle) -> list[Block]:
    """Return the table that `harness run` ends with: the final accuracies."""
    return captioned(final_tables(bundle), [short_caption(bundle)])


def results_page(bundle: Bundle, replication: Bundle | None = None) -> str:
    """Return the page of everything that an experiment has measured, as Markdown.

    Args:
        bundle: The results.
        replication: The results with other seeds, if there are any.
    """
    twice: list[Block] = []
    if replication is not None:
        page = replication.path.with_suffix(".md").name
        twice = [f"The numbers with other seeds: [{page}]({page})."]
        twice += replication_blocks(bundle, replication)
    tables = accuracy_tables(bundle, link_to_runs(bundle))
    blocks: list[Block] = [
        f"# {_title(bundle)}",
        f"Made by `harness tables` from [{bundle.path.name}]({bundle.path.name}).",
        *captioned(tables, caption(bundle)),
    ]
    for title, part in (
        (VERDICTS, verdict_blocks(bundle)),
        (REPLICATION, twice),
        (DIFFERENCES, difference_blocks(bundle)),
        (PUBLISHED, published_blocks(bundle)),
        (CLASSES, class_blocks(bundle)),
        (LEAK, leak_blocks(bundle)),
    ):
        blocks += [f"## {title}", *part] if part else []
    blocks += [
        f"## {RUNS}",
        f"The tables show the column **{bundle.reported.replace('_', ' ')}**. *best on test* is "
        "chosen by looking at the test set: it measures how much that inflates a number, and is no "
        "result. A cell leads to its line of the bundle: settings, machine, commit, and loss and "
        "accuracies of every epoch. Its directory is `runs/CELL` of the store that trained it; a "
        f"run id is MLflow's there. {DESCRIPTION}",
    ]
    figures = curve_paths(bundle)
    for title, at in sections(bundle).items():
        blocks += [f"### {title}", *_run_blocks(bundle, title, at, figures.get(title))]
    return markdown(blocks)


def class_blocks(bundle: Bundle) -> list[Block]:
    """Return the accuracies by class, if the bundle names the classes, so that they are few."""
    tables = class_tables(bundle) if bundle.class_names else []
    return captioned(tables, [CAPTION]) if tables else []


def _run_blocks(
    bundle: Bundle, title: str, at: tuple[Row, Column], figure: Path | None
) -> list[Block]:
    """Return figure, runs and epochs of the number with this heading, row and column."""
    blocks: list[Block] = [run_table(bundle, *at, lambda f: _log_address(bundle, f))]
    if figure is not None:
        address = figure.relative_to(bundle.path.parent).as_posix()
        blocks.insert(0, f"![Curves of {escaped(title)}]({address})")
    if (epochs := epoch_table(bundle, *at)) is not None:
        blocks += [f"<details><summary>{EPOCHS}</summary>", epochs, "</details>"]
    return blocks


def _log_address(bundle: Bundle, fingerprint: str) -> str:
    """Return the address of a cell's line in the bundle; "" if the bundle is no file."""
    line = bundle.line_of.get(fingerprint)
    return f"{bundle.path.name}#L{line}" if line else ""


def curve_paths(bundle: Bundle) -> dict[str, Path]:
    """Return the files of the numbers that have curves, by their headings."""
    targets, folder = anchors(bundle), bundle.path.parent / CURVES / bundle.path.stem
    return {
        title: folder / f"{_short(targets[title])}.svg"
        for title, at in sections(bundle).items()
        if has_curves(bundle, *at)
    }


def _short(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def curve_files(bundle: Bundle) -> dict[Path, str]:
    """Return the figures of a results page: their paths and texts."""
    numbers = sections(bundle)
    return {path: svg(bundle, *numbers[title]) for title, path in curve_paths(bundle).items()}


def _title(bundle: Bundle) -> str:
    return f"Results of {bundle.name}"


def result_files(bundle: Bundle, replication: Bundle | None = None) -> dict[str, str]:
    """Return the files beside a bundle by suffix: its results page, and its numbers.

    Args:
        bundle: The results.
        replication: The results with other seeds, if there are any.
    """
    comment = "mean and 95 % t-interval over seeds (their number), in per cent"
    tables = accuracy_tables(bundle, published=False)
    titles = [group.title for group in column_groups(columns_of(bundle))]
    return {
        ".md": results_page(bundle, replication),
        ".csv": csv_text(number_table(bundle)),
        ".tex": "\n".join(
            latex_text(table, f"{latex_escaped(f'{bundle.name}: {title}')}; {comment}")
            for table, title in zip(tables, titles, strict=True)
        ),
    }
