"""A bundle -> its Markdown table, and the page that leads from every number to its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.collect import Bundle
from analysis.statistics import Estimate, estimate
from harness.errors import UserError

DASH = "–"
NCM = {
    "ncm_train_centers": "NCM, centres from train",
    "ncm_eval_centers": "NCM, centres from the evaluated set",
}


@dataclass(frozen=True)
class Row:
    """One row of the table: which numbers it shows."""

    label: str
    stage: str
    method: str
    result: str


def rows_of(bundle: Bundle) -> list[Row]:
    """Teacher, Student, KD, then each ReFilled form: after stage 1 (both NCM forms), and final."""
    experiment = bundle.experiment
    methods = experiment["methods"]
    rows = [Row("Teacher", "teacher", "teacher", "accuracy")] if methods != ["plain"] else []
    for method in methods:
        if method == "plain":
            rows.append(Row("Student", "student", method, "accuracy"))
        elif method == "kd":
            rows.append(Row("KD", "kd", method, "accuracy"))
        else:
            form = method.removeprefix("refilled").removeprefix("-")
            name = f"ReFilled ({form or experiment['stage1']['relation']})"
            for result, how in NCM.items():
                rows.append(Row(f"{name} after stage 1: {how}", "stage1", method, result))
            rows.append(Row(f"**{name}**", "stage2", method, "accuracy"))
    return rows


def select(bundle: Bundle, row: Row, student: str) -> pd.DataFrame:
    """The numbers of one table cell, a line a seed. Every student has the same teacher."""
    n = bundle.numbers
    chosen = (n.stage == row.stage) & (n.method == row.method) & (n.result == row.result)
    if row.stage != "teacher":
        chosen &= n.student == student
    # An imported teacher is one run, not one a seed.
    return n[chosen].sort_values("seed").drop_duplicates("fingerprint")


def cell_estimate(bundle: Bundle, row: Row, student: str) -> Estimate | None:
    return estimate(select(bundle, row, student)[bundle.reported].tolist())


def students_of(bundle: Bundle) -> list[str]:
    seen = bundle.numbers[bundle.numbers.stage != "teacher"].student
    return list(dict.fromkeys(seen))


def anchor(bundle: Bundle, row: Row, student: str) -> str:
    """The heading on the page of runs, as GitHub turns it into a link target."""
    return re.sub(r"[^\w\- ]", "", heading(bundle, row, student).lower()).replace(" ", "-")


def heading(bundle: Bundle, row: Row, student: str) -> str:
    if row.stage == "teacher":
        return "Teacher"
    return f"{row.label.replace('*', '')}, {student}"


def check_unmixed(bundle: Bundle, allow_mixed: bool) -> None:
    """
    Raises:
        UserError: the cells come from several devices or commits.
    """
    if allow_mixed:
        return
    cells = bundle.numbers.drop_duplicates("fingerprint")
    for column in ("device", "commits"):
        counts = cells[column].value_counts()
        if len(counts) > 1 or (column == "commits" and len(counts.index[0]) > 1):
            shown = "; ".join(f"{_text(value)}: {n}" for value, n in counts.items())
            raise UserError(
                f"{bundle.name}: cells of different {column} ({shown}); train them again with "
                "`harness run --store NEW`, or pass --mixed to say so under the table"
            )


def _text(value: object) -> str:
    return " and ".join(v[:12] for v in value) if isinstance(value, tuple) else str(value)


def markdown(bundle: Bundle, runs_page: str, allow_mixed: bool = False) -> str:
    """The table with what stands under it.

    Args:
        runs_page: link to `runs_markdown`'s page, relative to where the table stands.

    Raises:
        UserError: the cells come from several devices or commits.
    """
    check_unmixed(bundle, allow_mixed)
    table = table_markdown(bundle, lambda r, s: f"{runs_page}#{anchor(bundle, r, s)}")
    summary = "All three accuracies, and the leak of choosing the epoch on the test set"
    details = [
        "",
        f"<details><summary>{summary}</summary>",
        "",
        leak_markdown(bundle),
        "</details>",
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
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    for published in bundle.published:
        values = [published.get(s, "") or DASH for s in students]
        if any(v != DASH for v in values):
            source = f"{published['source']}, {published['protocol']}"
            lines.append(f"| *{published['row']}* ({source}) | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def leak_markdown(bundle: Bundle) -> str:
    """All three accuracies of every number, and the leak: how much choosing the epoch on the test
    set adds to the honest choice (the validation-selected epoch, or the last one)."""
    honest = "selected" if bundle.reported == "selected" else "last"
    lines = [
        f"| | student | last | selected | best on test | leak (best on test - {honest}) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows_of(bundle):
        for student in students_of(bundle):
            chosen = select(bundle, row, student)
            if chosen.empty or (row.stage == "teacher" and student != students_of(bundle)[0]):
                continue
            leak = (chosen["best_on_test"] - chosen[honest]).tolist()
            columns = [chosen[form].tolist() for form in ("last", "selected", "best_on_test")]
            shown = [found.percent() for c in [*columns, leak] if (found := estimate(c))]
            name = bundle.teacher if row.stage == "teacher" else student
            lines.append(f"| {row.label.replace('*', '')} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def caption(bundle: Bundle) -> list[str]:
    """What a reader needs to get the numbers again."""
    n, experiment = bundle.numbers, bundle.experiment
    data = json.loads(n.data.iloc[0])
    sizes = ", ".join(f"{v} {k}" for k, v in data.items() if k not in ("name", "digest"))
    epochs = experiment["training"]["epochs"]
    schedule = f"{epochs} epochs (teacher, student, KD)"
    if any(m.startswith("refilled") for m in experiment["methods"]):
        one, two = experiment["stage1"]["epochs"], experiment["stage2"]["epochs"]
        schedule += f", {one} + {two} (ReFilled, stages 1 + 2)"
    which = {
        "selected": "the epoch with the best validation accuracy",
        "last": "the last epoch",
        "best_on_test": "the best epoch on the test set (a leak, kept for comparison)",
    }[bundle.reported]
    commits = sorted({c for cs in n.commits for c in cs})
    dirty = " with uncommitted changes" if n.dirty.astype(bool).any() else ""
    devices = ", ".join(sorted(set(n.device)))
    return [
        "Test accuracy in %, mean ± half-width of the 95 % t-interval over seeds "
        "(number of seeds); each number links to its runs.",
        f"Data: {data['name']} ({sizes} images, digest `{data['digest'][:12]}`). "
        f"Protocol: {bundle.protocol}, {which}. Epochs: {schedule}. "
        f"Seeds: {', '.join(map(str, experiment['seeds']))}. Device: {devices}. "
        f"torch {', '.join(sorted(set(n.torch)))}. "
        f"Commit: {', '.join(f'`{c[:12]}`' for c in commits)}{dirty}.",
        *tuning_budget(experiment),
        f"Command: `{bundle.command}`",
    ]


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
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", table.partition("<details>")[0])
    text = text.replace("*", "")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in row] for row in rows if not row[0].startswith("---")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]
    return "\n".join([*lines, *(t for t in text.splitlines() if not t.startswith("|"))])


def runs_markdown(bundle: Bundle) -> str:
    """The page behind the numbers: every seed of every table cell, with all three accuracies."""
    lines = [
        f"# Runs behind the table of {bundle.name}",
        "",
        f"Made by `harness tables` from [{bundle.path.name}]({bundle.path.name}); the table shows "
        f"the column **{bundle.reported}**. *best_on_test* is chosen by looking at the test set: "
        "it measures how much that inflates a number, and is no result. A cell's directory is "
        "`runs/CELL` of the store that trained it; a run id is MLflow's there.",
    ]
    for row in rows_of(bundle):
        for student in students_of(bundle):
            chosen = select(bundle, row, student)
            if chosen.empty or f"## {heading(bundle, row, student)}" in lines:
                continue
            lines += [
                "",
                f"## {heading(bundle, row, student)}",
                "",
                "| seed | last | selected | best_on_test | selected epoch | cell | MLflow run |",
                "|---:|---:|---:|---:|---:|---|---|",
            ]
            for r in chosen.to_dict("records"):
                forms = " | ".join(
                    f"{100 * r[form]:.2f}" for form in ("last", "selected", "best_on_test")
                )
                run = f"`{r['mlflow_run_id']}`" if r["mlflow_run_id"] else DASH
                lines.append(
                    f"| {r['seed']} | {forms} | {r['selected_epoch']} of {r['epochs']} | "
                    f"`{r['fingerprint'][:16]}` | {run} |"
                )
    return "\n".join(lines) + "\n"
