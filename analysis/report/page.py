"""A bundle as one HTML page that needs nothing else: no network, no scripts, figures inside."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from harness.analysis.bundle import Bundle
from harness.analysis.figures import drawable
from harness.analysis.tables.accuracy import accuracy_tables, leak_blocks, run_table
from harness.analysis.tables.caption import (
    describe_commits,
    describe_data,
    describe_protocol,
    how_to_read,
    made_with,
    tuning_budget,
)
from harness.analysis.tables.comparisons import difference_blocks, published_blocks, verdict_blocks
from harness.analysis.tables.curves import DESCRIPTION, EPOCHS, epoch_table, svg
from harness.analysis.tables.runs import anchors, heading, sections
from harness.analysis.verdicts import OUTCOMES
from harness.common.provenance import UNKNOWN

TEMPLATE = "report.html"
CURVES = "curves"  # the prefix of the names of their figures


def html(bundle: Bundle, figures: Sequence[Path]) -> str:
    """Return the page; the same bundle and figures give the same text.

    Args:
        bundle: The results.
        figures: PNG files, as `analysis.figures.draw_all` returns them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    environment.globals["outcomes"] = OUTCOMES
    return environment.get_template(TEMPLATE).render(contents(bundle), figures=_inside(figures))


def contents(bundle: Bundle) -> dict[str, Any]:
    """Return the template's values, except for the figures."""
    _, left_out = drawable(bundle)
    reasons = dict.fromkeys(left_out.values())
    targets = anchors(bundle)
    return {
        "name": bundle.name,
        "description": bundle.experiment.get("description") or "",
        "verdicts": verdict_blocks(bundle),
        "tables": accuracy_tables(bundle, lambda row, c: f"#runs-{targets[heading(row, c)]}"),
        "how_to_read": how_to_read(bundle),
        "differences": difference_blocks(bundle),
        "published": published_blocks(bundle),
        "left_out": {why: [n for n, w in left_out.items() if w == why] for why in reasons},
        "leak": leak_blocks(bundle),
        "tuning": tuning_budget(bundle.settings.methods, bundle.settings.tuned),
        "curves_description": DESCRIPTION,
        "epochs_title": EPOCHS,
        "environment": environment_of(bundle),
        "commands": commands_of(bundle),
        "runs": [
            (
                title,
                targets[title],
                Markup(svg(bundle, *at)),
                run_table(bundle, *at),
                epoch_table(bundle, *at),
            )
            for title, at in sections(bundle).items()
        ],
    }


def inline(text: str) -> Markup:
    """Return one of our captions as HTML: what stands between backticks is code."""
    parts = enumerate(escape(text).split("`"))
    return Markup("").join(Markup(f"<code>{p}</code>") if i % 2 else p for i, p in parts)


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


def commands_of(bundle: Bundle) -> list[str]:
    """Return the commands that train the cells, check their numbers, and make this page."""
    return [shlex.join(bundle.command_of(what)) for what in ("run", "verdicts", "report")]


def _inside(figures: Sequence[Path]) -> dict[bool, list[dict[str, str]]]:
    """Return the figures as data addresses; under True those of curves."""
    parts: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    for path in figures:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        parts[path.stem.startswith(CURVES)].append({"name": path.stem, "data": data})
    return parts
