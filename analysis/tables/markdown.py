"""The table of a bundle in Markdown, with what stands under it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from analysis.bundle import Bundle
from analysis.statistics import estimate
from analysis.tables.rows import (
    DASH,
    Row,
    cell_estimate,
    methods_of,
    rows_of,
    select,
    students_of,
)
from analysis.tables.runs import anchor
from harness.errors import UserError
from harness.methods import SUPERVISED, n_epochs
from harness.plan import TEACHER
from harness.provenance import UNKNOWN
from harness.results import FORMS, SAID, honest, leak

SHOWN = ("row", "source", "protocol")  # of a published row
PRIVATE = 0xE000


# What makes other numbers of the same cell: the last digits of sums, and with them whole images.
ONE_EACH = ("device", "processor", "threads", "torch", "commits")


def check_unmixed(bundle: Bundle, allow_mixed: bool) -> None:
    """
    Raises:
        UserError: the cells come from several devices, processors, numbers of threads, versions of
            torch or commits.
    """
    if allow_mixed:
        return
    cells = bundle.numbers.drop_duplicates("fingerprint")
    for column in ONE_EACH:
        counts = cells[cells.epochs > 0][column].value_counts()  # an imported one computed nothing
        several = [v for v in counts.index if isinstance(v, tuple) and len(v) > 1]
        if len(counts) > 1 or several:
            shown = "; ".join(f"{_text(value)}: {n}" for value, n in counts.items())
            raise UserError(
                f"{bundle.name}: cells of different {column} ({shown}); train them again with "
                "`harness run --store NEW`, or pass --mixed to say so under the table"
            )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(value) or UNKNOWN
    return str(value)


def markdown(bundle: Bundle, runs_page: str, allow_mixed: bool = False) -> str:
    """The table with what stands under it.

    Args:
        runs_page: link to `runs_markdown`'s page, relative to where the table stands.

    Raises:
        UserError: the cells come from several devices or commits.
    """
    check_unmixed(bundle, allow_mixed)
    table = table_markdown(bundle, lambda r, s: f"{runs_page}#{anchor(bundle, r, s)}")
    details = [
        line
        for summary, make in DETAILS.items()
        for line in ("", f"<details><summary>{summary}</summary>", "", make(bundle), "</details>")
    ]
    return "\n".join([table, *caption(bundle), *details]) + "\n"


def table_markdown(bundle: Bundle, link: Callable[[Row, str], str]) -> str:
    """The table alone, ours and the published rows.

    Args:
        link: row, student -> where the number leads to; "" for no link.
    """
    students = students_of(bundle)
    lines = [
        "| | " + " | ".join(students) + " |",
        "|---|" + "---:|" * len(students),
    ]
    for row in rows_of(bundle):
        cells = []
        for student in students:
            found = cell_estimate(bundle, row, student)
            target = link(row, student)
            text = found.percent() if found else DASH
            cells.append(f"[{text}]({target})" if found and target else text)
        lines.append(f"| {row.markdown} | " + " | ".join(cells) + " |")
    for published in bundle.published:
        values = [published.get(s, "") or DASH for s in students]
        if any(v != DASH for v in values):
            name, source, protocol = (escaped(published[k]) for k in SHOWN)
            values = [escaped(v) for v in values]
            lines.append(f"| *{name}* ({source}, {protocol}) | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Somebody's words for a cell of a Markdown table: shown as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def leak_markdown(bundle: Bundle) -> str:
    """All three accuracies of every number, and the leak: how much choosing the epoch on the test
    set adds to the honest choice (the validation-selected epoch, or the last one)."""
    choice = honest(bundle.reported)
    lines = [
        f"| | student | last | selected | best on test | leak (best on test - {choice}) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows_of(bundle):
        for student in students_of(bundle):
            chosen = select(bundle, row, student)
            if chosen.empty or (row.stage == TEACHER and student != students_of(bundle)[0]):
                continue
            columns = [chosen[form].tolist() for form in FORMS]
            columns.append(leak(chosen, bundle.reported).tolist())
            shown = [found.percent() for c in columns if (found := estimate(c))]
            name = bundle.teacher if row.stage == TEACHER else student
            lines.append(f"| {row.label} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def caption(bundle: Bundle) -> list[str]:
    """What a reader needs to get the numbers again."""
    n, experiment = bundle.numbers, bundle.experiment
    data = json.loads(n.data.iloc[0])
    sizes = ", ".join(f"{v} {k}" for k, v in data.items() if k not in ("name", "digest"))
    commits = sorted({UNKNOWN if c == "None" else c for cs in n.commits for c in cs})
    dirty = " with uncommitted changes" if n.dirty.astype(bool).any() else ""
    trained = n[n.epochs > 0]
    devices = ", ".join(sorted(set(n.device)))
    processors = ", ".join(sorted({name for names in trained.processor for name in names}))
    return [
        "Test accuracy in %, mean ± half-width of the 95 % t-interval over seeds "
        "(number of seeds); each number links to its runs.",
        f"Data: {data['name']} ({sizes} images, digest `{data['digest'][:12]}`). "
        f"Protocol: {bundle.protocol}, {SAID[bundle.reported]}. "
        f"Epochs: {schedule(bundle)}. "
        f"Seeds: {', '.join(map(str, experiment['seeds']))}. Device: {devices}"
        f"{f', {processors}' if processors else ''}. "
        f"torch {', '.join(sorted(set(n.torch)))}. "
        f"Commit: {', '.join(f'`{c[:12]}`' for c in commits)}{dirty}.",
        *tuning_budget(experiment),
        f"Command: `{bundle.command}`",
    ]


def schedule(bundle: Bundle) -> str:
    """'20 (Teacher, Student, KD), 15 + 20 (ReFilled (tuple))': epochs, stage by stage."""
    trained: dict[str, list[str]] = {}
    for label, stages in [
        *([("Teacher", (SUPERVISED,))] if rows_of(bundle)[0].stage == TEACHER else []),
        *((m.label_in(bundle.experiment), m.stages) for m in methods_of(bundle)),
    ]:
        epochs = " + ".join(str(n_epochs(s.kind, bundle.experiment)) for s in stages)
        trained.setdefault(epochs, []).append(label)
    return ", ".join(f"{epochs} ({', '.join(labels)})" for epochs, labels in trained.items())


def tuning_budget(experiment: dict[str, Any]) -> list[str]:
    """How many trials each method's settings come from; nothing for an untuned experiment."""
    tuned = experiment.get("tuned") or {}
    budget = [f"{m} {t['trials'] or 'by hand'}" for m, t in tuned.items()]
    budget += [f"{m} none" for m in experiment["methods"] if tuned and m not in tuned]
    if not tuned:
        return []
    return [f"Each method with its own settings, tuned on validation; trials: {', '.join(budget)}."]


def for_terminal(table: str) -> str:
    """`markdown`'s table with aligned columns, without links, emphasis and details."""
    # What is escaped waits in a private area of Unicode while the rest is taken apart.
    text = re.sub(r"\\([!-/:-@\[-`{-~])", lambda m: chr(PRIVATE + ord(m[1])), table)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.partition("<details>")[0])
    text = text.replace("*", "")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in row] for row in rows if not row[0].startswith("---")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]
    shown = "\n".join([*lines, *(t for t in text.splitlines() if not t.startswith("|"))])
    return re.sub("[\ue000-\ue07f]", lambda m: chr(ord(m[0]) - PRIVATE), shown)


# Folded under the table: summary -> what makes it.
DETAILS: dict[str, Callable[[Bundle], str]] = {
    "All three accuracies, and the leak of choosing the epoch on the test set": leak_markdown,
}
