"""How many winners of the stored tunings came after the random start-up; needs no Optuna."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.bundle import RESULTS
from harness.analysis.bundle_fields import Part
from harness.analysis.json_lines import read_records
from harness.common.reading import read_user_text

FOLDER = RESULTS / "tuning"  # harness.tune.export writes there


class CandidatePart(Part):
    """The rank of a candidate among the best trials, which ran again, and where it came from."""

    rank: int | None = None
    after_startup: bool | None = None


def late_winners(folder: Path = FOLDER) -> dict[str, tuple[int, int]]:
    """Return tuning -> (winners that came after the random start-up, winners).

    Bundles that do not say it are left out: they were written by an older version.
    """
    counts: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        name = path.stem if path.parent == folder else path.parent.name
        text = read_user_text(path)
        _, _, records = read_records(text, Part, lambda line: CandidatePart)
        known = [r.after_startup for r in records if r.rank == 1 and r.after_startup is not None]
        if known:
            late, n = counts.get(name, (0, 0))
            counts[name] = late + sum(known), n + len(known)
    return counts


def describe_winners() -> str:
    """Return a line on the share of winners that TPE found, over all stored bundles."""
    counts = late_winners()
    if not counts:
        return "No stored bundle says yet which of its winners came after the random start-up."
    parts = ", ".join(f"`{name}` {late} of {n}" for name, (late, n) in counts.items())
    late, n = (sum(column) for column in zip(*counts.values(), strict=True))
    return f"{late} of {n} winners came after the random start-up ({parts})."
