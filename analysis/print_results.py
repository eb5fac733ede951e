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
from harness.analysis.tables.comparisons import (
    comparison_table,
    confirmation_blocks,
    verdict_blocks,
)
from harness.analysis.tables.pages import closing_blocks
from harness.analysis.tables.result_table import Block
from harness.analysis.tables.terminal import terminal_text
from harness.common.columns import terminal_width
from harness.common.errors import UserError
from harness.common.exit_status import FAILED, OK, UNCONFIRMED
from harness.common.names import command_name
from harness.experiment.file import network_labels
from harness.experiment.published import read_published
from harness.plan import Plan

NEXT = {
    "verdicts": "what it shows, beside the committed numbers",
    "tables --print": "all numbers",
    "report": "all of it as a page",
}


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
    for command, what in NEXT.items():
        words = [command_name(), *bundle.command_of(*command.split())[1:], *options]
        print(f"  {shlex.join(words)}  # {what}")
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
    plan: Plan, file: Path, root: Path, assignments: list[str], margin: float | None = None
) -> int:
    """Print whether effects and verdicts agree with the committed ones; write nothing.

    Args:
        plan: The experiment's plan.
        file: The experiment's file.
        root: The store.
        assignments: Those of `--set`.
        margin: A deviation below it is an agreement, as a fraction; by default MARGIN.

    Returns:
        FAILED if an effect differs from the reference or a verdict is reversed, UNCONFIRMED if no
        effect was compared or none agrees, else OK.

    Raises:
        UserError: The grid is not finished in the store, and there is no reference.
    """
    path = bundle_path(plan)
    reference = read_bundle(path) if path.exists() else None
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
        print(f"no reference {path} to compare with; `harness tables {file}` makes one")
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
