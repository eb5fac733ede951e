"""What stands under a table: what a reader needs to get its numbers again."""

from __future__ import annotations

import json
import math
from typing import Any

from harness.analysis.bundle import Bundle, Number
from harness.analysis.statistics import sampling_error
from harness.analysis.tables.rows import cell_estimate, columns_of, part_sizes, rows_of, select
from harness.common.metrics import EVALUATION_SECONDS, selection_rule_text
from harness.common.provenance import UNKNOWN
from harness.experiment.tasks import ALL, Tasks
from harness.plan import TEACHER


def caption(bundle: Bundle) -> list[str]:
    """Lines of Markdown."""
    experiment, made = bundle.experiment, made_with(bundle)
    processors = f", {', '.join(made['processor'])}" if made["processor"] else ""
    return [
        *how_to_read(bundle),
        f"Data: {data_said(bundle)}. "
        f"Protocol: {protocol_said(bundle)}"
        f"Seeds: {', '.join(map(str, experiment['seeds']))}. "
        f"Device: {', '.join(made['device'])}{processors}. "
        f"torch {', '.join(made['torch'])}. "
        f"Commit: {commits_said(bundle)}.",
        *tuning_budget(experiment),
        f"Command: `{bundle.command}`",
    ]


def how_to_read(bundle: Bundle) -> list[str]:
    """What a number of the table is, and what its interval says."""
    at_once = "" if all(row.takes_steps for row in rows_of(bundle)) else ", 0: fitted at once"
    return [
        "Test accuracy in %, mean ± half-width of the 95 % t-interval over seeds "
        "(number of seeds); each number links to its runs. "
        "The best student of a column is bold, whether or not the difference is decided. "
        f"Epochs: of all stages that lead to a row{at_once}.",
        *filter(None, [sampling_said(bundle)]),
        *([f"{tasks_said(bundle.tasks)} {networks_said(bundle)}"] if bundle.tasks else []),
    ]


def protocol_said(bundle: Bundle) -> str:
    select_by = bundle.experiment["protocol"].get("select_by", "accuracy")
    rule = selection_rule_text(bundle.reported, select_by)
    return f"{bundle.protocol}, {rule}. {evaluation_said(bundle)}"


def made_with(bundle: Bundle) -> dict[str, list[str]]:
    """device, processor, threads, torch: each value that occurs; processors and threads of what
    was trained here, none in bundles that were written before they held them."""
    cells = bundle.cells
    trained = [cell for cell in cells if cell["epochs"] > 0]
    return {
        "device": sorted({cell["device"] for cell in cells}),
        "processor": sorted({name for cell in trained for name in cell["processor"]}),
        "threads": sorted({n for cell in trained for n in cell["threads"]}),
        "torch": sorted({cell["torch"] for cell in cells}),
    }


def commits_said(bundle: Bundle) -> str:
    cells = bundle.cells
    commits = sorted({UNKNOWN if c == "None" else c for cell in cells for c in cell["commits"]})
    dirty = " with uncommitted changes" if any(cell["dirty"] for cell in cells) else ""
    return f"{', '.join(f'`{c[:12]}`' for c in commits)}{dirty}"


def sampling_said(bundle: Bundle) -> str:
    """What the intervals over seeds leave out: the choice of test images, at the number where it
    matters most, and the processor."""
    found = []
    for row in rows_of(bundle):
        for column in columns_of(bundle):
            mean, numbers = cell_estimate(bundle, row, column), select(bundle, row, column)
            if row.is_final and mean:
                n_images = json.loads(numbers[0]["data"])["test"]
                found.append((sampling_error(mean.mean, n_images), mean.mean, n_images))
    if not found:
        return ""
    error, accuracy, n_images = max(found)
    return (
        "An interval says how seeds vary on one processor and these test images: the choice of "
        f"{n_images:,} test images leaves ± {100 * error:.2f} points to {100 * accuracy:.1f} % "
        "(the images are the same for all methods), and another processor or version of torch is "
        "a new draw of each seed."
    )


def tasks_said(tasks: Tasks) -> str:
    """What teacher and students learn, and what the dimensions of the columns count."""
    order = {
        "labels": "in the order of their labels",
        "random": f"in a random order (seed {tasks.order_seed})",
    }.get(str(tasks.order), "in the order that the experiment lists")
    n = "all" if tasks.classes is None else str(tasks.classes)
    drawn = "drawn anew for each seed"
    if tasks.shots_seed is not None:
        drawn = f"the same for every seed (drawn by {tasks.shots_seed})"
    drawn = f", {drawn}" if tasks.shots != (ALL,) else ""
    if tasks.new is not None:
        return (
            f"Tasks: the teacher has {n} classes (old), a student these and {tasks.new} more "
            f"(new), {order}. Shots: training images of each old class{drawn}; of the new ones "
            "all. Old and new classes: accuracy on their test images, classified among all classes."
        )
    overlap = ""
    if tasks.overlap != (ALL,):
        overlap = f" Overlap: how many of a student's classes are the teacher's, too (all: {n})."
    return (
        f"Tasks: {n} classes for the teacher and for each student, {order}.{overlap} "
        f"Shots: training images of each class{drawn}; the teacher has all."
    )


def networks_said(bundle: Bundle) -> str:
    """Columns of several tasks need not name the only student."""
    has_teacher = any(row["stage"] == TEACHER for row in bundle.rows)
    teacher = f"teacher {bundle.teacher}, " if has_teacher else ""
    students = list(dict.fromkeys(column.student for column in columns_of(bundle)))
    return f"Networks: {teacher}student{'s' * (len(students) > 1)} {', '.join(students)}."


def data_said(bundle: Bundle) -> str:
    """Name, number of images and digest: of tasks, of the whole data set they are taken from."""
    rows = bundle.rows
    data = json.loads(rows[0]["data"])
    if bundle.tasks is None:
        return f"{data['name']} ({_sizes(rows)} images, digest `{data['digest'][:12]}`)"
    digests = sorted({d for row in rows if (d := row["whole_digest"]) is not None})
    whole = f" (digest `{digests[0][:12]}`)" if len(digests) == 1 else ""
    teacher = [row for row in rows if row["stage"] == TEACHER]
    students = [row for row in rows if row["task"] is not None]
    had = [("teacher", teacher)] if teacher else []
    parts = [f"{who} {_sizes(of)}" for who, of in [*had, ("students", students)]]
    return f"{data['name']}{whole}; images: {'; '.join(parts)}"


def _sizes(numbers: list[Number]) -> str:
    return ", ".join(f"{size} {part}" for part, size in part_sizes(numbers).items())


def evaluation_said(bundle: Bundle) -> str:
    """How often classifiers were measured, if not after every epoch, and how much of the time
    that took, where the cells know it."""
    every = bundle.experiment["protocol"].get("evaluate_every", 1)
    said = ""
    if every > 1:
        said = (
            f"Classifiers were measured every {every} epochs and after the last one: *selected* "
            "and *best on test* are chosen among these. "
        )
    cells = bundle.cells
    known = [cell for cell in cells if cell[EVALUATION_SECONDS] is not None]
    training, evaluation = (
        math.fsum(cell[name] for cell in known) for name in ("seconds", EVALUATION_SECONDS)
    )
    if training > 0 and evaluation > 0:
        share = f"{100 * training / (training + evaluation):.0f} %"
        of = "" if len(known) == len(cells) else f" (known of {len(known)} of {len(cells)})"
        said += f"Training took {share} of the cells' time{of}, evaluation the rest. "
    return said


def tuning_budget(experiment: dict[str, Any]) -> list[str]:
    """How many trials each method's settings come from; nothing for an untuned experiment."""
    tuned = experiment.get("tuned") or {}
    budget = [f"{m} {_trials(t)}" for m, t in tuned.items()]
    budget += [f"{m} none" for m in experiment["methods"] if tuned and m not in tuned]
    if not tuned:
        return []
    return [f"Each method with its own settings, tuned on validation; trials: {', '.join(budget)}."]


def _trials(tuned: dict[str, Any]) -> str:
    tasks = tuned.get("tasks", ())
    numbers = sorted({t["trials"] or 0 for t in tasks} or {tuned["trials"] or 0})
    words = " to ".join(str(n or "by hand") for n in dict.fromkeys((numbers[0], numbers[-1])))
    if not tasks:
        return words
    return f"{words} for each of {len(tasks)} tasks" if len(tasks) > 1 else f"{words} for one task"
