"""`harness verdicts`: do the numbers agree with the committed ones, and what do they show?"""

from __future__ import annotations

from pathlib import Path

from harness.analysis.bundle import Bundle, bundle_path, read_bundle, trained, unfinished_said
from harness.analysis.reference import compare
from harness.analysis.tables.comparisons import comparison_markdown, verdicts_markdown
from harness.analysis.tables.text import for_terminal, terminal_width
from harness.common.errors import UserError
from harness.plan import Plan


def print_verdicts(plan: Plan, file: Path, root: Path, assignments: list[str]) -> int:
    """Print them; nothing is written.

    Returns:
        1 if a number differs from the reference, else 0.

    Raises:
        UserError: neither is the grid finished in the store, nor is there a reference.
    """
    path = bundle_path(plan)
    reference = read_bundle(path) if path.exists() else None
    unfinished = unfinished_said(plan, root)
    if not unfinished:
        yours = trained(plan, root, file, assignments)
        if reference is None:
            print(f"no reference {path} to compare with; `harness tables {file}` makes one")
        status = _print_comparison(yours, reference) if reference else 0
        _print_claims(yours, "your")
        return status
    if reference is None:
        raise UserError(
            f"{plan.experiment.name}: {unfinished}, and there is no {path}; "
            f"`harness run {file}` first"
        )
    print(f"{unfinished}: of {path} alone")
    _print_claims(reference, "the reference's")
    return 0


def _print_comparison(yours: Bundle, reference: Bundle) -> int:
    comparison = compare(yours, reference)
    print(comparison.said)
    if comparison.checked:
        print(f"\n{for_terminal(comparison_markdown(comparison), terminal_width())}")
    return 0 if comparison.reproduces else 1


def _print_claims(bundle: Bundle, whose: str) -> None:
    if text := verdicts_markdown(bundle):
        print()
        print(for_terminal(f"By {whose} numbers. {text}", terminal_width()))
