"""`harness verdicts`: do the numbers agree with the committed ones, and what do they show?"""

from __future__ import annotations

from pathlib import Path

from analysis.bundle import Bundle, bundle_path, export, read_bundle
from analysis.reference import compare
from analysis.tables.comparisons import comparison_markdown, counted, verdicts_markdown
from analysis.tables.text import for_terminal
from analysis.verdicts import verdicts_of
from harness.errors import UserError
from harness.plan import Plan
from harness.store import Store


def print_verdicts(plan: Plan, file: Path, root: Path, assignments: list[str]) -> int:
    """Print them; nothing is written.

    Returns:
        1 if a number differs from the reference, else 0.

    Raises:
        UserError: neither is the grid finished in the store, nor is there a reference.
    """
    path = bundle_path(plan)
    reference = read_bundle(path) if path.exists() else None
    store = Store(root)
    n_missing = sum(not store.directory(f).is_done for f in plan.cells)
    if n_missing == 0:
        yours = read_bundle(path, export(plan, root, file, assignments))
        status = _print_comparison(yours, reference) if reference else 0
        if reference is None:
            print(f"no reference {path} to compare with; `harness tables {file}` makes one")
        _print_claims(yours, "yours")
        return status
    if reference is None:
        raise UserError(
            f"{plan.experiment.name}: {n_missing} of {len(plan.cells)} cells are not finished in "
            f"{root}, and there is no {path}; `harness run {file}` first"
        )
    print(f"{n_missing} of {len(plan.cells)} cells are not finished in {root}: of {path} alone")
    _print_claims(reference, "of the reference")
    return 0


def _print_comparison(yours: Bundle, reference: Bundle) -> int:
    comparison = compare(yours, reference)
    if comparison.checked:
        print(for_terminal(comparison_markdown(comparison)))
        print()
    print(comparison.said)
    return 0 if comparison.reproduces else 1


def _print_claims(bundle: Bundle, whose: str) -> None:
    text = verdicts_markdown(bundle)
    if text:
        print()
        print(for_terminal(text))
        print(f"\nclaims, by numbers {whose}: {counted(verdicts_of(bundle))}")
