"""The rows and columns of a bundle's tables, and the numbers behind each cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness import methods
from harness.analysis.bundle import Bundle, one_per_cell
from harness.analysis.bundle_fields import Number
from harness.analysis.statistics import Estimate, estimate
from harness.analysis.tables.result_table import DASH
from harness.common import metrics
from harness.common.metrics import ACCURACY, NCM, NCM_METRICS, group_metric, measured_metrics
from harness.experiment.pairs import pair_label
from harness.experiment.tasks import Task
from harness.methods import Method
from harness.plan import TEACHER

DIMENSIONS = ("student", "overlap", "shots")  # of a column
MOST_COLUMNS = 8  # of one table with tasks; more are split


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        number: The stage's position in its method, from 1; 0 for the teacher.
        is_final: True for the method's result, the accuracy after its last stage.
        by_student, by_task: Whether the number depends on the student's network and on its task;
            it does not if the teacher's own network or task is used.
        by_teacher: Whether it depends on the teacher.
        on_teachers: Whether its images and classes are those of the teacher's task.
        takes_steps: Whether the stage trains for epochs; else it is fitted at once.
    """

    label: str
    stage: str
    method: str
    result: str
    number: int = 0
    is_final: bool = False
    by_student: bool = True
    by_task: bool = True
    by_teacher: bool = True
    on_teachers: bool = False
    takes_steps: bool = True


@dataclass(frozen=True)
class Column:
    """One column of the tables: a student and its task.

    Attributes:
        task: None in an experiment without tasks.
        words: Dimension -> its value in words, for the dimensions in which the bundle's columns
            differ; without tasks, the student. With pairs, the student's word is the pair.
        teacher: The teacher of a pair; None if all columns have the same.
    """

    student: str
    task: Task | None
    words: Mapping[str, str] = field(hash=False)
    teacher: str | None = None

    @property
    def networks(self) -> str:
        """The student's network, or the pair as "resnet56>resnet20"."""
        return pair_label(self.teacher, self.student) if self.teacher else self.student

    @property
    def label(self) -> str:
        """The column's name."""
        return ", ".join(self.words.values())

    def part(self, *rows: Row) -> str:
        """Return the part of the label that rows depend on; "" if all columns share them."""
        by_task = any(row.by_task for row in rows)
        by_student = any(row.by_student for row in rows)
        depends = {"student": by_student, "overlap": by_task, "shots": by_task}
        words = self.words
        if self.teacher and "student" in words:
            words, depends["student"] = {**words, "student": self.pair_part(*rows)}, True
        return ", ".join(word for name, word in words.items() if depends[name] and word)

    def pair_part(self, *rows: Row) -> str:
        """Return those networks of a pair that rows depend on; "" for neither."""
        by_teacher = any(row.by_teacher for row in rows)
        by_student = any(row.by_student for row in rows)
        sides = (self.teacher, by_teacher), (self.student, by_student)
        return pair_label(*(name for name, depends in sides if name and depends))


@dataclass(frozen=True)
class ColumnGroup:
    """The columns of one table; an experiment with many tasks has several tables."""

    columns: list[Column]

    @property
    def shared(self) -> dict[str, str]:
        """The words that all columns have in common."""
        first, *others = (column.words for column in self.columns)
        return {k: w for k, w in first.items() if all(o.get(k) == w for o in others)}

    @property
    def heads(self) -> list[str]:
        """The words that tell each column from the others."""
        words = (
            [word for name, word in column.words.items() if name not in self.shared]
            for column in self.columns
        )
        return [", ".join(w) or c.label for w, c in zip(words, self.columns, strict=True)]

    @property
    def title(self) -> str:
        """The words that the columns share, or the first and the last column."""
        return ", ".join(self.shared.values()) or f"{self.heads[0]} to {self.heads[-1]}"


def methods_of(bundle: Bundle) -> list[Method]:
    """Return the methods of a bundle.

    Raises:
        UserError: This version does not know one of them.
    """
    field = f"{bundle.path}: experiment.methods"
    return [methods.get_method(name, field) for name in bundle.settings.methods]


def rows_of(bundle: Bundle) -> list[Row]:
    """Return the rows: the teacher, then each method with every metric of each stage.

    An incremental task also has the accuracies of its old and its new classes.
    """
    used = methods_of(bundle)
    rows = []
    if any(m.needs for m in used):
        rows = [Row("Teacher", TEACHER, TEACHER, ACCURACY, by_student=False, by_task=False)]
    of_tasks = {key[:2] for key in bundle.by("method", "stage", "task") if key[2] is not None}
    groups = ("old", "new") if bundle.tasks and bundle.tasks.new is not None else ()
    for method in used:
        label = method.label_in(bundle.experiment)
        final = f"{label} (upper bound)" if method.is_upper_bound else label
        for number, stage in enumerate(method.stages, 1):
            is_final = stage is method.final
            labels = {}
            for result in measured_metrics(stage.metric):
                what = ": the teacher's task" if stage.task == TEACHER else ""
                what = f": {NCM_METRICS[result]}" if result in NCM_METRICS else what
                labels[result] = final if is_final else f"{label} after stage {number}{what}"
            if is_final:
                labels |= {group_metric(group): f"{final}: {group} classes" for group in groups}
            rows += [
                Row(
                    text,
                    stage.name,
                    method.name,
                    result,
                    number,
                    is_final=is_final and text == final,
                    by_student=stage.by_student,
                    by_task=stage.task != TEACHER or (method.name, stage.name) in of_tasks,
                    by_teacher=bool(method.needs),
                    on_teachers=stage.task == TEACHER,
                    takes_steps=stage.schedule is not None,
                )
                for result, text in labels.items()
            ]
    return rows


def columns_of(bundle: Bundle) -> list[Column]:
    """Return one column per student or pair, or per student or pair and task."""
    there = bundle.by("student", "task")
    tasks: list[Task | None] = [None] if bundle.tasks is None else [*bundle.tasks.all]
    columns = [
        Column(
            student,
            task,
            dict(zip(task.dimensions, task.words, strict=True)) if task else {},
            teacher,
        )
        for teacher, student in bundle.pairs
        for task in tasks
        if (student, task) in there
    ]
    names = [{"student": column.networks, **column.words} for column in columns]
    differ = {name for name in DIMENSIONS if len({words.get(name) for words in names}) > 1}
    if bundle.tasks is None or not differ:
        differ = {"student"}
    return [
        replace(column, words={k: word for k, word in words.items() if k in differ})
        for column, words in zip(columns, names, strict=True)
    ]


def column_groups(columns: list[Column]) -> list[ColumnGroup]:
    """Split the columns into tables that are narrow enough: by student, then by overlap."""
    if len(columns) <= MOST_COLUMNS or columns[0].task is None:
        return [ColumnGroup(columns)]
    for dimension in ("student", "overlap"):
        words = dict.fromkeys(column.words.get(dimension) for column in columns)
        if 1 < len(words) < len(columns):
            parts = ([c for c in columns if c.words.get(dimension) == word] for word in words)
            return [group for part in parts for group in column_groups(part)]
    width = math.ceil(len(columns) / math.ceil(len(columns) / MOST_COLUMNS))
    return [ColumnGroup(columns[i : i + width]) for i in range(0, len(columns), width)]


def main_metric(bundle: Bundle, result: str) -> str:
    """Return the metric by which the protocol judges a stage with this result."""
    return metrics.main_metric(result, bundle.settings.protocol.ncm_centers)


def is_main(bundle: Bundle, result: str) -> bool:
    """Return whether a result is what the protocol judges its stage by."""
    return result == main_metric(bundle, NCM if result in NCM_METRICS else result)


def select(bundle: Bundle, row: Row, column: Column) -> list[Number]:
    """Return the numbers behind one table cell, one per run.

    An imported teacher is one run of all seeds; a number of the teacher's own network is one run of
    all students.
    """
    return one_per_cell(select_all_seeds(bundle, row, column))


def select_all_seeds(bundle: Bundle, row: Row, column: Column) -> list[Number]:
    """Return the numbers behind one table cell, one per seed, even if one run serves several."""
    key: dict[str, object] = {"stage": row.stage, "method": row.method, "result": row.result}
    if row.by_student:
        key["student"] = column.student
    if row.by_teacher and column.teacher is not None:
        key["teacher"] = column.teacher
    if row.by_task and column.task is not None:
        key["task"] = column.task
    numbers = bundle.by(*key).get(tuple(key.values()), [])
    return sorted(numbers, key=lambda number: number.seed)


def network_of(bundle: Bundle, row: Row, column: Column) -> str:
    """Return whose number it is: the student's or, where that does not matter, the teacher's."""
    if column.teacher is not None:
        return column.pair_part(row)
    return column.student if row.by_student else bundle.teacher


def cell_estimate(bundle: Bundle, row: Row, column: Column) -> Estimate | None:
    """Return the mean and interval of one table cell over seeds; None if it has no numbers."""
    return estimate([number.accuracy(bundle.reported) for number in select(bundle, row, column)])


def final_rows(bundle: Bundle) -> list[Row]:
    """Return the teacher's row and each method's final accuracy."""
    return [row for row in rows_of(bundle) if row.is_final or row.stage == TEACHER]


def is_ncm_before(bundle: Bundle, row: Row) -> bool:
    """Return whether a row is the NCM accuracy before a method's last stage, by the protocol."""
    return row.result == main_metric(bundle, NCM) and not row.is_final


def summary_rows(bundle: Bundle) -> list[Row]:
    """Return the final rows and, if the bundle has a floor for them, the NCM rows before them."""
    has_floor = any(method.is_floor for method in methods_of(bundle))
    return [
        row
        for row in rows_of(bundle)
        if row.is_final or row.stage == TEACHER or (has_floor and is_ncm_before(bundle, row))
    ]


def best_rows(bundle: Bundle, column: Column) -> set[Row]:
    """Return the rows to print bold: the trained students with the highest mean of a column.

    The teacher's own network, methods that are fitted at once and upper bounds do not compete; the
    verdicts say whether a difference is decided.
    """
    students = {method.name for method in methods_of(bundle) if not method.is_upper_bound}
    rows = (
        row
        for row in rows_of(bundle)
        if row.is_final and row.by_student and row.takes_steps and row.method in students
    )
    means = {row: e.mean for row in rows if (e := cell_estimate(bundle, row, column))}
    return {row for row in means if len(means) > 1 and means[row] == max(means.values())}


def epochs_of(bundle: Bundle, row: Row) -> str:
    """Return the epochs behind a row: "20"; "15 + 20" after two stages; "0" if fitted at once.

    Where trainings of several lengths stopped early, "12 to 20".

    A teacher that was trained elsewhere has a dash.
    """
    groups = bundle.by("method", "stage")

    def of_stage(name: str) -> str:
        epochs = {number.cell.manifest.epochs for number in groups.get((row.method, name), [])}
        known = sorted(epochs - {0})
        if len(known) > 2:
            return f"{known[0]} to {known[-1]}"
        return " or ".join(map(str, known)) or DASH

    if row.method == TEACHER:
        return of_stage(TEACHER)
    stages = methods.get_method(row.method).stages
    trained = stages if row.number == len(stages) else [stages[row.number - 1]]
    parts = [of_stage(stage.name) if stage.schedule else "0" for stage in trained]
    return DASH if DASH in parts else " + ".join(parts)


def part_sizes(numbers: list[Number]) -> dict[str, str]:
    """Return the number of images of each part that the cells saw: "502", or "25 to 502"."""
    sizes: dict[str, set[int]] = {}
    for cell in {id(number.cell): number.cell for number in numbers}.values():
        for part, size in cell.manifest.data.sizes.items():
            sizes.setdefault(part, set()).add(size)
    return {part: f"{min(n)} to {max(n)}" if len(n) > 1 else str(*n) for part, n in sizes.items()}
