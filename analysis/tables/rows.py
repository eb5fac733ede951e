"""The rows and columns of a bundle's tables, from what its methods and tasks say about themselves,
and the numbers behind each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness import methods
from harness.analysis.bundle import Bundle, Number, first_of_each
from harness.analysis.statistics import Estimate, estimate
from harness.common import metrics
from harness.common.metrics import (
    ACCURACY,
    NCM_METRICS,
    SELECTION_RULES,
    group_metric,
    leak,
    measured_metrics,
)
from harness.experiment.published import SHOWN
from harness.experiment.tasks import Task
from harness.methods import Method
from harness.plan import TEACHER

DASH = "–"  # for what is not there
DIMENSIONS = ("student", "overlap", "shots")  # of a column
MOST_COLUMNS = 8  # of one table with tasks; more are split


@dataclass(frozen=True)
class Row:
    """One row of the table: which numbers it shows.

    number: of its stage among the method's, from 1; 0 for the teacher. is_final: the accuracy after
    its last one, which is the method's result. by_student, by_task: whether the number depends on
    the student's network and on its task: not where the teacher's own network or task is used.
    on_teachers: whether its images and classes are those of the teacher's task.
    takes_steps: whether the stage trains for epochs; else what it fits is found at once.
    """

    label: str
    stage: str
    method: str
    result: str
    number: int = 0
    is_final: bool = False
    by_student: bool = True
    by_task: bool = True
    on_teachers: bool = False
    takes_steps: bool = True


@dataclass(frozen=True)
class Column:
    """One column of the tables: a student, and what it learns.

    task: None where the experiment has no tasks.
    words: dimension -> what to call it by, of those in which the bundle's columns differ: without
        tasks it is the student.
    """

    student: str
    task: Task | None
    words: Mapping[str, str] = field(hash=False)

    @property
    def label(self) -> str:
        return ", ".join(self.words.values())

    def part(self, row: Row) -> str:
        """What of the label a row's number depends on; "" where it is the same in every column."""
        depends = {"student": row.by_student, "overlap": row.by_task, "shots": row.by_task}
        return ", ".join(word for name, word in self.words.items() if depends[name])


@dataclass(frozen=True)
class Table:
    """The columns of one of a bundle's tables."""

    columns: list[Column]

    @property
    def shared(self) -> dict[str, str]:
        """The words that stand in all columns."""
        first, *others = (column.words for column in self.columns)
        return {k: w for k, w in first.items() if all(o.get(k) == w for o in others)}

    @property
    def heads(self) -> list[str]:
        """What tells each column from the others."""
        words = (
            [word for name, word in column.words.items() if name not in self.shared]
            for column in self.columns
        )
        return [", ".join(w) or c.label for w, c in zip(words, self.columns, strict=True)]

    @property
    def title(self) -> str:
        return ", ".join(self.shared.values()) or f"{self.heads[0]} to {self.heads[-1]}"


def methods_for_task(bundle: Bundle) -> list[Method]:
    """
    Raises:
        UserError: it is of a method that this version does not know.
    """
    field = f"{bundle.path}: experiment.methods"
    return [methods.get_method(name, field) for name in bundle.experiment["methods"]]


def rows_of(bundle: Bundle) -> list[Row]:
    """Teacher, then each method: after each stage all that it measures, and the final accuracy; of
    an incremental task, also that of its old and of its new classes."""
    used = methods_for_task(bundle)
    rows = []
    if any(m.needs for m in used):
        rows = [Row("Teacher", TEACHER, TEACHER, ACCURACY, by_student=False, by_task=False)]
    of_tasks = {key[:2] for key in bundle.by("method", "stage", "task") if key[2] is not None}
    groups = ("old", "new") if bundle.tasks and bundle.tasks.new is not None else ()
    for method in used:
        label = method.label_in(bundle.experiment)
        for number, stage in enumerate(method.stages, 1):
            is_final = stage is method.final
            shown = {}
            for result in measured_metrics(stage.metric):
                what = ": the teacher's task" if stage.task == TEACHER else ""
                what = f": {NCM_METRICS[result]}" if result in NCM_METRICS else what
                shown[result] = label if is_final else f"{label} after stage {number}{what}"
            if is_final:
                shown |= {group_metric(group): f"{label}: {group} classes" for group in groups}
            rows += [
                Row(
                    text,
                    stage.name,
                    method.name,
                    result,
                    number,
                    is_final=is_final and text == label,
                    by_student=stage.by_student,
                    by_task=stage.task != TEACHER or (method.name, stage.name) in of_tasks,
                    on_teachers=stage.task == TEACHER,
                    takes_steps=stage.schedule is not None,
                )
                for result, text in shown.items()
            ]
    return rows


def columns_of(bundle: Bundle) -> list[Column]:
    """A column a student, in their order; with tasks, one each of the tasks that it learns."""
    students = dict.fromkeys(s for s, stage in bundle.by("student", "stage") if stage != TEACHER)
    there = bundle.by("student", "task")
    tasks: list[Task | None] = [None] if bundle.tasks is None else [*bundle.tasks.all]
    found = [(s, task) for s in students for task in tasks if (s, task) in there]
    names = [
        {"student": student} | (dict(zip(task.dimensions, task.words, strict=True)) if task else {})
        for student, task in found
    ]
    differ = {name for name in DIMENSIONS if len({words.get(name) for words in names}) > 1}
    if bundle.tasks is None or not differ:
        differ = {"student"}
    return [
        Column(student, task, {k: word for k, word in words.items() if k in differ})
        for (student, task), words in zip(found, names, strict=True)
    ]


def tables_of(columns: list[Column]) -> list[Table]:
    """The columns as one table or, with more tasks than fit beside each other, as several: one a
    student, then one an overlap."""
    if len(columns) <= MOST_COLUMNS or columns[0].task is None:
        return [Table(columns)]
    for dimension in ("student", "overlap"):
        words = dict.fromkeys(column.words.get(dimension) for column in columns)
        if 1 < len(words) < len(columns):
            parts = ([c for c in columns if c.words.get(dimension) == word] for word in words)
            return [table for part in parts for table in tables_of(part)]
    width = math.ceil(len(columns) / math.ceil(len(columns) / MOST_COLUMNS))
    return [Table(columns[i : i + width]) for i in range(0, len(columns), width)]


def main_metric(bundle: Bundle, result: str) -> str:
    """Return the metric by which the protocol judges a stage with this result."""
    return metrics.main_metric(result, bundle.experiment["protocol"]["ncm_centers"])


def select(bundle: Bundle, row: Row, column: Column) -> list[Number]:
    """The numbers of one table cell, a row a seed. An imported teacher is one run, not one a seed;
    what the teacher's own network gives is one run of all students."""
    return first_of_each(of_every_seed(bundle, row, column))


def of_every_seed(bundle: Bundle, row: Row, column: Column) -> list[Number]:
    """The same, where one run of several seeds stands once for each."""
    wanted: Number = {"stage": row.stage, "method": row.method, "result": row.result}
    if row.by_student:
        wanted["student"] = column.student
    if row.by_task and column.task is not None:
        wanted["task"] = column.task
    chosen = bundle.by(*wanted).get(tuple(wanted.values()), [])
    return sorted(chosen, key=lambda number: number["seed"])


def cell_estimate(bundle: Bundle, row: Row, column: Column) -> Estimate | None:
    return estimate([number[bundle.reported] for number in select(bundle, row, column)])


def final_rows(bundle: Bundle) -> list[Row]:
    """The teacher, and each method's final accuracy."""
    return [row for row in rows_of(bundle) if row.is_final or row.stage == TEACHER]


def percent(found: Estimate | None) -> str:
    """'98.43 ± 0.31 (3)'; a dash for what is not there."""
    return DASH if found is None else found.percent()


def points(found: Estimate | None) -> str:
    """Of a difference: '+1.20 ± 0.31 (3)'; a dash for what is not there."""
    return DASH if found is None else found.points()


def best_rows(bundle: Bundle, column: Column) -> set[Row]:
    """The trained students with the highest mean of a column: what stands out, where there are
    others. The verdicts say whether it is higher than another. Not the teacher's own network, nor
    what is found in one look at the images."""
    rows = (r for r in rows_of(bundle) if r.is_final and r.by_student and r.takes_steps)
    means = {row: found.mean for row in rows if (found := cell_estimate(bundle, row, column))}
    return {row for row in means if len(means) > 1 and means[row] == max(means.values())}


def forms_and_leak(bundle: Bundle, row: Row, column: Column) -> list[Estimate | None]:
    """Return a number under each selection rule, then the leak.

    The leak is how much choosing the epoch on the test set adds to the honest choice.
    """
    chosen = select(bundle, row, column)
    forms = [[number[form] for number in chosen] for form in SELECTION_RULES]
    return [*map(estimate, forms), estimate([leak(n, bundle.reported) for n in chosen])]


def published_lines(bundle: Bundle, columns: list[Column]) -> list[tuple[list[str], list[str]]]:
    """Of each published row with a number in one of these columns: its name, source and protocol,
    and the numbers."""
    found = []
    for row in bundle.published:
        values = [row.get(column.student, "") for column in columns]
        if any(values):
            found.append(([row[name] for name in SHOWN], [value or DASH for value in values]))
    return found


def epochs_of(bundle: Bundle, row: Row) -> str:
    """What a row's weights were trained for: "20"; "15 + 20" after the last of two stages; "0"
    where no step is taken; a dash for a teacher that was trained elsewhere."""
    groups = bundle.by("method", "stage")

    def of_stage(name: str) -> str:
        epochs = {number["epochs"] for number in groups.get((row.method, name), [])}
        return " or ".join(map(str, sorted(epochs - {0}))) or DASH

    if row.method == TEACHER:
        return of_stage(TEACHER)
    stages = methods.get_method(row.method).stages
    trained = stages if row.number == len(stages) else [stages[row.number - 1]]
    parts = [of_stage(stage.name) if stage.schedule else "0" for stage in trained]
    return DASH if DASH in parts else " + ".join(parts)


def part_sizes(numbers: list[Number]) -> dict[str, str]:
    """Part -> how many images the cells of these numbers had of it: "502", or "25 to 502"."""
    found: dict[str, set[int]] = {}
    for text in dict.fromkeys(number["data"] for number in numbers):
        for part, size in json.loads(text).items():
            if part not in ("name", "digest"):
                found.setdefault(part, set()).add(size)
    return {part: f"{min(n)} to {max(n)}" if len(n) > 1 else str(*n) for part, n in found.items()}
