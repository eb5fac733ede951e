"""Tables of a bundle's accuracies."""

from __future__ import annotations

from collections.abc import Callable

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import Estimate, estimate
from harness.analysis.tables.result_table import Block, Cell, ResultTable
from harness.analysis.tables.rows import (
    Column,
    ColumnGroup,
    Row,
    best_rows,
    cell_estimate,
    column_groups,
    columns_of,
    epochs_of,
    network_of,
    rows_of,
    select,
    summary_rows,
)
from harness.analysis.tables.runs import sections
from harness.common.metrics import SELECTION_RULES, metric_name
from harness.experiment.published import published_protocol

Link = Callable[[Row, Column], str]  # -> the address of the runs behind a number; "" for none
# Columns between a row's label and its numbers in the full tables, in every format: heading -> a
# row's text. The short tables of final accuracies (`final_tables`) have none.
ROW_COLUMNS: dict[str, Callable[[Bundle, Row], str]] = {"epochs": epochs_of}
CSV_COLUMNS = (
    *("row", "method", "stage", "student", "overlap", "shots", "result"),
    *("n", "mean", "half_width", *SELECTION_RULES),
)


def unlinked(row: Row, column: Column) -> str:
    """Return no address: for tables whose numbers lead nowhere."""
    return ""


def accuracy_tables(
    bundle: Bundle, link: Link = unlinked, *, published: bool = True
) -> list[ResultTable]:
    """Return everything measured, ours and the published rows; one table, or one per group."""
    groups = column_groups(columns_of(bundle))
    tables = []
    for group in groups:
        numbers = _numbers(bundle, group, rows_of(bundle), link)
        rows = [
            [Cell(row.label), *(Cell(of(bundle, row)) for of in ROW_COLUMNS.values()), *cells]
            for row, cells in numbers.items()
        ]
        tables.append(
            ResultTable(
                ["", *ROW_COLUMNS, *group.heads],
                [*rows, *(_published_rows(bundle, group) if published else [])],
                title=group.title if len(groups) > 1 else "",
            )
        )
    return tables


def final_tables(bundle: Bundle, link: Link = unlinked) -> list[ResultTable]:
    """Return the teacher's and each method's final accuracy, in short numbers.

    Beside a floor for them stand the NCM accuracies after stage 1.
    """
    tables = []
    for group in column_groups(columns_of(bundle)):
        numbers = _numbers(bundle, group, summary_rows(bundle), link)
        shared = ", ".join(group.shared.values())
        head = ["" if shared in group.heads else shared, *group.heads]
        rows = [[Cell(row.label), *cells] for row, cells in numbers.items()]
        tables.append(ResultTable(head, rows).compact())
    return tables


def _numbers(
    bundle: Bundle, group: ColumnGroup, rows: list[Row], link: Link
) -> dict[Row, list[Cell]]:
    """Return each row's numbers, the best of a column bold."""
    best = {column: best_rows(bundle, column) for column in group.columns}
    numbers: dict[Row, list[Cell]] = {}
    for row in rows:
        numbers[row] = []
        for column in group.columns:
            numbers[row].append(number_cell(bundle, row, column, link, row in best[column]))
    return numbers


def number_cell(bundle: Bundle, row: Row, column: Column, link: Link, bold: bool) -> Cell:
    """Return one accuracy, which leads to its runs."""
    accuracy = cell_estimate(bundle, row, column)
    return Cell.percent(accuracy, link=link(row, column) if accuracy else "", bold=bold)


def _published_rows(bundle: Bundle, group: ColumnGroup) -> list[list[Cell]]:
    """Return the published rows with a number in one of the columns."""
    rows = []
    for published in bundle.published:
        values = [published.get(column.networks, "") for column in group.columns]
        if any(values):
            note = f" ({published['source']}, {published_protocol(published)})"
            label = Cell(published["row"], italic=True, note=note)
            empty = [Cell()] * len(ROW_COLUMNS)
            rows.append([label, *empty, *(Cell(value or None) for value in values)])
    return rows


def has_one_look(bundle: Bundle, row: Row, column: Column) -> bool:
    """Return whether each run was measured on the test set once.

    All three accuracies are then the same, and the leak is 0 by construction. A bundle that is
    older than curves does not tell.
    """
    numbers = select(bundle, row, column)
    curves = (n.cell.curves.get(metric_name("test", n.result), []) for n in numbers)
    return all(sum(value is not None for value in curve) == 1 for curve in curves)


def leak_blocks(bundle: Bundle) -> list[Block]:
    """Return all three accuracies of every number, and the leak.

    The leak is how much choosing the epoch on the test set adds to the last one. Numbers with a
    single look at the test set have none: one sentence names them.
    """
    rows, one_look = [], dict[str, None]()
    columns = columns_of(bundle)
    for title, (row, column) in sections(bundle).items():
        if has_one_look(bundle, row, column):
            everywhere = all(has_one_look(bundle, row, other) for other in columns)
            one_look[row.label if everywhere else title] = None
            continue
        part = column.part(row) or network_of(bundle, row, column)
        rules = (Cell.percent(accuracy) for accuracy in by_rule(bundle, row, column))
        leak = estimate([n.leak() for n in select(bundle, row, column)])
        rows.append([Cell(row.label), Cell(part), *rules, Cell.percent(leak)])
    whose = "student" if bundle.tasks is None else "student, task"
    head = ["", whose, "last", "selected", "best on test", "leak (best on test - last)"]
    sentence = (
        "Not listed, as they are measured on the test set only once, so that the three accuracies "
        f"are equal and the leak is 0: {'; '.join(one_look)}."
    )
    return [
        *([ResultTable(head, rows, align="ll")] if rows else []),
        *([sentence] if one_look else []),
    ]


def by_rule(bundle: Bundle, row: Row, column: Column) -> list[Estimate | None]:
    """Return the mean and interval of a number under each selection rule."""
    numbers = select(bundle, row, column)
    return [estimate([n.accuracy(rule) for n in numbers]) for rule in SELECTION_RULES]


def number_table(bundle: Bundle) -> ResultTable:
    """Return one row per number for other programs, in per cent; what does not apply is missing."""
    rows = []
    for row, column in sections(bundle).values():
        accuracy, rules = cell_estimate(bundle, row, column), by_rule(bundle, row, column)
        assert accuracy is not None
        task = column.task.dimensions.values() if row.by_task and column.task else (None, None)
        width = None if accuracy.half_width is None else 100 * accuracy.half_width
        values = [
            *(row.label, row.method, row.stage),
            *(network_of(bundle, row, column), *task, row.result),
            *(accuracy.n, 100 * accuracy.mean, width),
            *(100 * rule.mean for rule in rules if rule),
        ]
        rows.append([Cell(value, digits=4) for value in values])
    return ResultTable(CSV_COLUMNS, rows)


def run_table(
    bundle: Bundle,
    row: Row,
    column: Column,
    log: Callable[[str], str] = lambda fingerprint: "",
    with_mlflow: bool = True,
) -> ResultTable:
    """Return the runs behind a number, one row per seed.

    Args:
        bundle: The results.
        row: The number's row.
        column: Its column.
        log: Returns the address of a cell's log by its fingerprint; "" for none.
        with_mlflow: Whether the ids of MLflow's runs are shown.
    """
    rows = []
    for number in select(bundle, row, column):
        cell, manifest = number.cell, number.cell.manifest
        run = Cell(cell.mlflow_run_id, code=True) if cell.mlflow_run_id else Cell()
        rows.append(
            [
                Cell(number.seed),
                *(Cell(100 * number.accuracy(rule)) for rule in SELECTION_RULES),
                Cell(f"{manifest.selected_epoch} of {manifest.epochs}"),
                Cell(cell.fingerprint[:16], code=True, link=log(cell.fingerprint)),
                *([run] if with_mlflow else []),
            ]
        )
    rules = [rule.replace("_", " ") for rule in SELECTION_RULES]
    head = ["seed", *rules, "selected epoch", "cell", *(["MLflow run"] if with_mlflow else [])]
    return ResultTable(head, rows, align="rrrrrll"[: len(head)])
