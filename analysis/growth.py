"""A bundle that replaces a committed one: it may keep runs of it, and loses none unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.analysis.bundle import describe_unfinished, read_bundle
from harness.analysis.export import export, has_students_classes, table_entries
from harness.analysis.reference import other_settings
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.plan import Plan

NAMES = "class_names"
ENTRY = ("seed", "method", "teacher", "student")
Lines = dict[str, dict[str, Any]]  # fingerprint -> line of a bundle


def export_beside(
    plan: Plan, root: Path, file: Path, assignments: list[str], path: Path, keep: bool
) -> str:
    """Return the text of a plan's new bundle.

    Args:
        plan: The plan.
        root: The store.
        file: The experiment's file.
        assignments: Those of `--set`.
        path: The committed bundle, which need not exist.
        keep: Whether its runs stand in for cells that the store lacks.

    Raises:
        UserError: A cell of the plan is in neither, or a file cannot be read.
    """
    unfinished = describe_unfinished(plan, root)
    if not unfinished or not path.exists():
        return export(plan, root, file, assignments)
    if not keep:
        raise UserError(
            f"{plan.experiment.name}: {unfinished}; `harness run {file}` first, or pass --keep if "
            f"{path} has their runs"
        )
    read_bundle(path)  # raises if it is broken
    fresh = export(plan, root, file, assignments, is_partial=True)
    text = merge(plan, fresh, path.read_text(encoding="utf-8"))
    if n_missing := len(plan.cells) - (text.count("\n") - 1):
        raise UserError(
            f"{plan.experiment.name}: {n_missing} of {len(plan.cells)} cells are neither finished "
            f"in {root} nor in {path}; `harness run {file}` first, or name fewer seeds with --set"
        )
    return text


def merge(plan: Plan, fresh: str, committed: str) -> str:
    """Return a new bundle with the committed lines of the plan's cells that it lacks.

    A kept line stays as it was written, except for its entries: the plan may have other methods
    than the one that wrote it.

    Args:
        plan: The plan of the new bundle.
        fresh: The text of the new bundle, which counts where both have a cell.
        committed: The text of the committed bundle.
    """
    (header, ours), (old_header, theirs) = map(_parsed, (fresh, committed))
    kept = {f: theirs[f] for f in plan.cells if f in theirs and f not in ours}
    for fingerprint, line in kept.items():
        line["entries"] = table_entries(plan, fingerprint)
    names = [
        side[NAMES]
        for side, lines in ((header, ours), (old_header, kept))
        if any(has_students_classes(plan, f) and _has_predictions(lines[f]) for f in lines)
    ]
    header[NAMES] = names[0] if names and names == names[:1] * len(names) else None
    cells = ours | kept
    lines = [header, *(cells[f] for f in plan.cells if f in cells)]
    return "".join(canonical(line) + "\n" for line in lines)


def _has_predictions(line: dict[str, Any]) -> bool:
    """Return whether a line's cell has classified test images."""
    return "correct" in line or line.get("confusion") is not None


def _parsed(text: str) -> tuple[dict[str, Any], Lines]:
    header, *lines = map(json.loads, text.splitlines())
    return header, {line["fingerprint"]: line for line in lines}


def check_nothing_lost(path: Path, text: str) -> str:
    """Check that a new bundle has every number of the stored one of the same settings.

    Args:
        path: Where the bundle belongs.
        text: The new bundle.

    Returns:
        What to say about runs that it replaces; "" if they are the same.

    Raises:
        UserError: It lacks some.
    """
    try:
        old = read_bundle(path)
    except UserError:
        return f"{path}: replaces a bundle that cannot be read" if path.exists() else ""
    new = read_bundle(path, text)
    if other := other_settings(new, old):
        return f"{path}: replaces runs of other settings ({', '.join(other)})"
    if lost := old.by(*ENTRY).keys() - new.by(*ENTRY).keys():
        gone = [
            sorted({str(v) for v in values if v is not None}) for values in zip(*lost, strict=True)
        ]
        words = [f"{name} {', '.join(v)}" for name, v in zip(ENTRY, gone, strict=True) if v]
        seeds = sorted({*old.settings.seeds, *new.settings.seeds})
        raise UserError(
            f"{path}: {len(lost)} of its numbers would be lost ({'; '.join(words)}); name their "
            f"seeds, methods and students as well, as in --set 'seeds={seeds}', and pass --keep if "
            "the store lacks them; or delete the file to start anew"
        )
    theirs, ours = ({c.fingerprint: c.manifest.results for c in b.cells} for b in (old, new))
    changed = [f[:4] for f, value in ours.items() if f in theirs and theirs[f] != value]
    if not changed:
        return ""
    return (
        f"{path}: {len(changed)} {'run has' if len(changed) == 1 else 'runs have'} other numbers "
        f"in the store, which replace these: {', '.join(changed[:5])}{', ..' * (len(changed) > 5)}"
    )
