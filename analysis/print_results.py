"""Results that commands print: a run's closing table, tables, verdicts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.bundle import Bundle, bundle_path, describe_unfinished, read_bundle
from harness.analysis.confirmations import confirmations
from harness.analysis.export import trained
from harness.analysis.planned_power import Assumptions, power_blocks
from harness.analysis.reference import MARGIN, compare
from harness.analysis.tables.classes import CAPTION, class_tables, confusion_table
from harness.analysis.tables.comparisons import (
    comparison_table,
    confirmation_blocks,
    verdict_blocks,
)
from harness.analysis.tables.csv_and_latex import csv_text
from harness.analysis.tables.pages import closing_blocks
from harness.analysis.tables.result_table import Block, ResultTable, captioned
from harness.analysis.tables.rows import columns_of, final_rows
from harness.analysis.tables.terminal import terminal_text
from harness.common.columns import terminal_width
from harness.common.errors import UserError, nearest
from harness.common.exit_status import FAILED, OK, UNCONFIRMED
from harness.common.files import write_user_file
from harness.common.names import command_name
from harness.experiment.file import network_labels
from harness.experiment.published import read_published
from harness.plan import Plan


def print_blocks(blocks: Sequence[Block]) -> None:
    """Print tables and paragraphs, as wide as the terminal is."""
    print(terminal_text(blocks, terminal_width()))


def print_result(
    plan: Plan, file: Path, store: Path, assignments: list[str], options: list[str]
) -> None:
    """Print what `harness run` ends with: the final accuracies, and what to call next.

    Args:
        plan: A plan whose cells are finished.
        file: The experiment's.
        store: The folder of the cells.
        assignments: Those of `--set`.
        options: Options of the command that the next ones need as well.
    """
    bundle = trained(plan, store, file, assignments)
    print()
    print_blocks(closing_blocks(bundle))
    print()
    is_committed = bundle_path(plan).exists()
    following = {"tables --print": "all numbers", "report": "all of it as a page"}
    if is_committed or plan.experiment.claims:
        shown = "what it shows" + ", beside the committed numbers" * is_committed
        following = {"verdicts": shown} | following
    for command, what in following.items():
        words = [*bundle.command_of(*command.split())[1:], *options]
        print(f"  {command_name()} {shlex.join(words)}  # {what}")
    print(f"  {command_name()} ui  # every run in MLflow")


def print_power(plan: Plan, file: Path, effect: float | None, spread: float | None) -> None:
    """Print the power of an experiment's claims; nothing if it has none.

    Args:
        plan: The experiment's plan.
        file: The experiment's file.
        effect: The true difference to assume, in points; None for what is known of it.
        spread: Its standard deviation over seeds to assume, in points; None likewise.
    """
    experiment, path = plan.experiment, bundle_path(plan)
    published = experiment.published
    assumptions = Assumptions(
        read_bundle(path) if path.exists() else None,
        None if effect is None else effect / 100,
        None if spread is None else spread / 100,
    )
    rows = read_published(file.parent / published, network_labels(experiment)) if published else []
    if blocks := power_blocks(plan, rows, assumptions):
        print()
        print_blocks(blocks)


def print_verdicts(
    plan: Plan,
    file: Path,
    root: Path,
    assignments: list[str],
    margin: float | None = None,
    other: Path | None = None,
) -> int:
    """Print whether effects and verdicts agree with the committed ones; write nothing.

    Args:
        plan: The experiment's plan.
        file: The experiment's file.
        root: The store.
        assignments: Those of `--set`.
        margin: A deviation below it is an agreement, as a fraction; by default MARGIN.
        other: The bundle to compare with, by default the committed one.

    Returns:
        FAILED if an effect differs from the reference or a verdict is reversed, UNCONFIRMED if no
        effect was compared or none agrees, else OK.

    Raises:
        UserError: The grid is not finished in the store, and there is no reference.
    """
    path = other or bundle_path(plan)
    reference = read_bundle(path) if other or path.exists() else None
    if unfinished := describe_unfinished(plan, root):
        if reference is None:
            raise UserError(
                f"{plan.experiment.name}: {unfinished}, and there is no {path}; "
                f"`harness run {file}` first"
            )
        print(f"{unfinished}; the verdicts of {path} alone:")
        return _print_alone(reference)
    yours = trained(plan, root, file, assignments, numbers_only=True)
    if reference is None:
        print(f"no reference {path} to compare with; `{command_name()} tables {file}` makes one")
        return _print_alone(yours)
    check = compare(yours, reference, MARGIN if margin is None else margin)
    if check.other_settings:
        print(check.summary)
        return _print_alone(yours)
    if check.checked:
        print_blocks([comparison_table(check), ""])
    pairs = confirmations(reference, yours, yours)
    blocks = confirmation_blocks(pairs, ("reference", "yours"))
    if blocks:
        print_blocks([*blocks[1:], ""])
    print_blocks([check.summary, *blocks[:1]])
    if check.count("differs") or any(pair.standing == "reversed" for pair in pairs):
        return FAILED
    return OK if check.reproduces else _print_unconfirmed()


def _print_alone(bundle: Bundle) -> int:
    """Print verdicts that are compared with nothing, and return the exit status."""
    if blocks := verdict_blocks(bundle):
        print()
        print_blocks(blocks)
    return _print_unconfirmed()


def _print_unconfirmed() -> int:
    print(f"Nothing is confirmed, so the exit status is {UNCONFIRMED} (docs/verdicts.md).")
    return UNCONFIRMED


def print_classes(
    plan: Plan,
    file: Path,
    store: Path,
    assignments: list[str],
    names: Sequence[str] | None,
    method: str | None,
    out: Path | None,
) -> None:
    """Print the accuracy by class of every method, or the confusion matrices of one.

    Args:
        plan: The experiment's plan.
        file: The experiment's file.
        store: The folder of the cells; if some are missing, the committed numbers are shown.
        assignments: Those of `--set`.
        names: The names of the classes; None if they differ between tasks.
        method: A method, or "teacher", for its confusion matrices; None for all accuracies.
        out: A file for the tables as CSV, in place of the terminal.

    Raises:
        UserError: There are no numbers, or none of the method.
    """
    if unfinished := describe_unfinished(plan, store):
        if not bundle_path(plan).exists():
            raise UserError(f"{plan.experiment.name}: {unfinished}; `harness run {file}` first")
        bundle = read_bundle(bundle_path(plan))
        print(f"{unfinished}: from {bundle.path}")
    else:
        bundle = trained(plan, store, file, assignments)
    tables: list[ResultTable]
    if method is None:
        tables = class_tables(bundle, names)
    else:
        rows = {row.method: row for row in final_rows(bundle)}
        if method not in rows:
            raise UserError(f"--method: no {method!r} here{nearest(method, rows)}")
        found = (confusion_table(bundle, rows[method], c, names) for c in columns_of(bundle))
        by_title = {table.title: table for table in found if table}
        tables = list(by_title.values())
    if not tables:
        raise UserError(f"{plan.experiment.name}: its predictions of single images are not known")
    if out is None:
        caption = CAPTION if method is None else "Test images by class (line) and predicted class."
        print_blocks(captioned(tables, [caption]))
    else:
        text = "\n".join(csv_text(table) for table in tables)
        write_user_file(out, text)
        print(f"written: {out}")
