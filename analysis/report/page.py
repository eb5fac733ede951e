"""A bundle as one HTML page that needs nothing else: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from harness.analysis.bundle import Bundle
from harness.analysis.figures import FIGURES, drawable
from harness.analysis.tables.accuracy import accuracy_tables, final_tables, leak_blocks, run_table
from harness.analysis.tables.caption import (
    describe_commits,
    describe_data,
    describe_protocol,
    how_to_read,
    made_with,
    short_caption,
    tuning_budget,
)
from harness.analysis.tables.comparisons import (
    describe_seeds,
    difference_blocks,
    published_blocks,
    replication_blocks,
    verdict_blocks,
)
from harness.analysis.tables.curves import (
    DESCRIPTION,
    EPOCHS,
    HEIGHT,
    INK,
    WIDTH,
    elements,
    epoch_table,
    has_curves,
    width,
)
from harness.analysis.tables.result_table import Block, ResultTable
from harness.analysis.tables.rows import Column, Row
from harness.analysis.tables.runs import anchors, heading, sections
from harness.analysis.verdicts import OUTCOMES
from harness.common.provenance import UNKNOWN

TEMPLATE = "report.html"
CURVES = "curves"  # the prefix of the names of their figures
LINE = 30  # letters of a wrapped line on paper
PADDING = 2  # letters between two columns


@dataclass(frozen=True)
class Curve:
    """The curves of a number: its heading, the SVG elements, and the box of each panel."""

    title: str
    boxes: list[str]
    parts: Markup


def html(
    bundle: Bundle,
    figures: Sequence[Path],
    public: bool = False,
    replication: Bundle | None = None,
) -> str:
    """Return the page; the same bundle and figures give the same text.

    Args:
        bundle: The results.
        figures: PNG files, as `analysis.figures.draw_all` returns them.
        public: Whether to leave out what is of use only where it was trained: the ids of MLflow's
            runs, and the folders in commands.
        replication: The results with other seeds, if there are any.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    environment.filters["letters"] = letters
    environment.globals |= {"outcomes": OUTCOMES, "line": LINE}
    template = environment.get_template(TEMPLATE)
    return template.render(
        contents(bundle, public),
        replication=replication and _beside(bundle, replication),
        figures=_inside(bundle, figures),
    )


def contents(bundle: Bundle, public: bool) -> dict[str, Any]:
    """Return the template's values, except for the figures."""
    _, left_out = drawable(bundle)
    reasons = dict.fromkeys(left_out.values())
    targets = {title: f"runs-{target}" for title, target in anchors(bundle).items()}

    def link(row: Row, column: Column) -> str:
        return f"#{targets[heading(row, column)]}"

    numbers = sections(bundle)
    return {
        "public": public,
        "final": final_tables(bundle, link),
        "short": short_caption(bundle),
        "ink": INK,
        "curves": {
            f"#{targets[title]}": Curve(
                title,
                [f"{x} 0 {WIDTH} {HEIGHT}" for x in range(0, width(bundle, *at), WIDTH)],
                Markup(elements(bundle, *at)),
            )
            for title, at in numbers.items()
            if has_curves(bundle, *at)
        },
        "name": bundle.name,
        "description": bundle.experiment.get("description") or "",
        "verdicts": verdict_blocks(bundle),
        "tables": accuracy_tables(bundle, link),
        "how_to_read": how_to_read(bundle),
        "differences": difference_blocks(bundle),
        "published": published_blocks(bundle),
        "left_out": {why: [n for n, w in left_out.items() if w == why] for why in reasons},
        "leak": leak_blocks(bundle),
        "tuning": tuning_budget(bundle.settings.methods, bundle.settings.tuned),
        "curves_description": DESCRIPTION,
        "epochs_title": EPOCHS,
        "environment": environment_of(bundle),
        "commands": commands_of(bundle, public),
        "runs": [
            (
                title,
                targets[title],
                run_table(bundle, *at, with_mlflow=not public),
                epoch_table(bundle, *at),
            )
            for title, at in numbers.items()
        ],
    }


def _beside(bundle: Bundle, replication: Bundle) -> list[Block]:
    """Return the verdicts of two sets of seeds, and which seeds these are."""
    blocks = replication_blocks(bundle, replication)
    first, other = map(describe_seeds, (bundle, replication))
    sentence = (
        f"First seeds: {first}; other seeds: {other}. A verdict is confirmed if both decide it "
        "alike, not confirmed if only the first do, reversed if they contradict each other, and "
        "open if the first seeds decide nothing."
    )
    return [*blocks, sentence] if blocks else []


def inline(text: str) -> Markup:
    """Return one of our captions as HTML: what stands between backticks is code."""
    parts = enumerate(escape(text).split("`"))
    return Markup("").join(Markup(f"<code>{p}</code>") if i % 2 else p for i, p in parts)


def letters(table: ResultTable) -> int:
    """Return how many letters wide a table is on paper, where only words are wrapped, at spaces."""
    total = 0
    for column, head in enumerate(table.head):
        texts = [row[column].text + row[column].note for row in table.rows]
        words = max((len(word) for text in (head, *texts) for word in text.split()), default=0)
        longest = max(map(len, texts), default=0)
        total += PADDING + max(words, min(longest, LINE) if table.has_words(column) else longest)
    return total


def environment_of(bundle: Bundle) -> dict[str, str]:
    """Return the data and environment of the numbers: every value that occurs among the cells."""
    made = {name: ", ".join(values) or UNKNOWN for name, values in made_with(bundle).items()}
    # Each task has other images: the digest of what they are taken from says more.
    digests = {c.spec.data.digest if bundle.tasks else c.manifest.data.digest for c in bundle.cells}
    return {
        "Data": describe_data(bundle),
        "Digest of the data": ", ".join(f"`{digest}`" for digest in sorted(filter(None, digests)))
        or UNKNOWN,
        "Protocol": describe_protocol(bundle).strip(),
        "Seeds": ", ".join(map(str, bundle.settings.seeds)),
        "Device": made["device"],
        "Processor": made["processor"],
        "Threads of a cell": made["threads"],
        "torch": made["torch"],
        "Commits": describe_commits(bundle),
        "Cells": str(len(bundle.cells)),
    }


def commands_of(bundle: Bundle, public: bool = False) -> list[str]:
    """Return the commands that train the cells, check their numbers, and make this page."""
    commands = [bundle.command_of(what) for what in ("run", "verdicts", "report")]
    if public:
        commands = [[without_folders(word) for word in command] for command in commands]
    return [shlex.join(command) for command in commands]


def without_folders(word: str) -> str:
    """Return a word of a command with absolute paths cut to their last names."""
    return re.sub(r"(?<![\w.])~?/(?:[^/\s,'\"{}\[\]]+/)*(?=[^/\s,'\"{}\[\]])", "", word)


def _inside(bundle: Bundle, figures: Sequence[Path]) -> dict[bool, list[dict[str, str]]]:
    """Return the figures as data addresses, with their texts; under True those of curves."""
    parts: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    for path in figures:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        kind = FIGURES.get(path.stem)
        texts = kind.texts(bundle) if kind else None
        alt, caption = (texts.alt, texts.caption) if texts else (path.stem, path.stem)
        parts[path.stem.startswith(CURVES)].append({"alt": alt, "caption": caption, "data": data})
    return parts
