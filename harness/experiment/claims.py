"""The claims of an experiment, which `harness verdicts` tests (analysis/verdicts.py).

    claims:
      - refilled > plain
      - refilled > kd by 0.5
      - refilled > refilled-triplet after stage 1
      - refilled within 0.5 of kd
      - refilled within 0.5 of readme-2020      # a source of the published table

Margins are in percentage points of accuracy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.common.errors import UserError, nearest
from harness.common.metrics import NCM_METRICS
from harness.methods import parse_method
from harness.methods.base import TEACHER

CLAIM_FORMS = (
    "write `METHOD > METHOD [by POINTS]` or `METHOD within POINTS of METHOD-or-SOURCE`, "
    "either with `after stage N` behind it"
)
NUMBER = r"(?P<margin>\d+(?:\.\d+)?)"
AFTER = r"(?: after stage (?P<stage>[1-9]))?"
GREATER = re.compile(rf"(?P<left>\S+) > (?P<right>\S+)(?: by {NUMBER})?{AFTER}")
WITHIN = re.compile(rf"(?P<left>\S+) within {NUMBER} of (?P<right>\S+){AFTER}")
QUANTITY = re.compile(rf"(?P<method>\S+?){AFTER}(?:: (?P<metric>\w+))?")


@dataclass(frozen=True)
class Quantity:
    """A number of the table.

    Attributes:
        method: whose number it is; "teacher" for the teacher's.
        stage: after which stage of the method, from 1; None after the last.
        metric: one of the stage's metrics; None for the protocol's choice.
    """

    method: str
    stage: int | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Claim:
    """A statement on two numbers of the table.

    Attributes:
        text: the statement as written in the file.
        left: one of our numbers.
        right: another one of ours; None if it is published.
        margin: a fraction.
        is_greater: whether `left` must exceed `right` by more than `margin`; otherwise they must
            differ by less than it.
        source: the source of the published number, if the right side is one.
    """

    text: str
    left: Quantity
    right: Quantity | None
    margin: float
    is_greater: bool
    source: str | None = None


def parse_claim(text: str) -> Claim:
    """Parse a statement.

    Raises:
        ValueError: malformed, or an unknown method or stage, with the remedy.
    """
    words = " ".join(text.split())
    greater = GREATER.fullmatch(words)
    match = greater or WITHIN.fullmatch(words)
    if match is None:
        raise ValueError(f"cannot read {text!r}; {CLAIM_FORMS}")
    stage = int(match["stage"]) if match["stage"] else None
    margin = float(match["margin"] or 0) / 100
    left = _quantity(match["left"], stage)
    if greater is None and margin == 0:
        raise ValueError(f"{words!r}: no two numbers are within 0 points; give a margin above 0")
    if greater is None and not _is_our_method(match["right"]):
        return Claim(words, left, None, margin, is_greater=False, source=match["right"])
    right = _quantity(match["right"], stage)
    if left == right:
        raise ValueError(f"{words!r}: compares {left.method!r} with itself; name two methods")
    return Claim(words, left, right, margin, is_greater=greater is not None)


def _is_our_method(name: str) -> bool:
    try:
        return name == TEACHER or bool(parse_method(name))
    except ValueError:
        return False


def _quantity(name: str, stage: int | None) -> Quantity:
    if name == TEACHER:
        return Quantity(TEACHER)
    method = parse_method(name)
    n = len(method.stages)
    if stage is not None and stage >= n:
        raise ValueError(
            f"{method.name!r} has {n} stage{'s' * (n > 1)}, so there is no separate number after "
            f"stage {stage}; drop `after stage {stage}`"
        )
    return Quantity(method.name, stage)


def parse_quantity(text: str) -> Quantity:
    """Parse the name of one of our numbers.

    Such names are `kd`, `refilled after stage 1` or `refilled after stage 1: ncm_eval_centers`.

    Raises:
        ValueError: malformed, or an unknown method, stage or metric, with the remedy.
    """
    match = QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read {text!r}; write METHOD, or METHOD after stage N")
    metric = match["metric"]
    if metric is not None and metric not in NCM_METRICS:
        raise ValueError(f"unknown metric {metric!r}{nearest(metric, NCM_METRICS)}")
    stage = int(match["stage"]) if match["stage"] else None
    return replace(_quantity(match["method"], stage), metric=metric)


def row_quantity(row: dict[str, str]) -> Quantity | None:
    """Return the number of ours that a published row corresponds to, if it names one."""
    return parse_quantity(row["of"]) if row.get("of") else None


def is_same_number(one: Quantity | None, other: Quantity) -> bool:
    """Return whether both are of one method and stage, whatever the metric."""
    return one is not None and (one.method, one.stage) == (other.method, other.stage)


def find_published(claim: Claim, rows: list[dict[str, str]]) -> tuple[dict[str, str], Quantity]:
    """Return the published row that a claim refers to, and the number of ours it corresponds to.

    Args:
        claim: one with a source.
        rows: those of `harness.experiment.published.read_published`.

    Raises:
        UserError: no row has that source and method.
    """
    sources = []
    for row in rows:
        ours = row_quantity(row)
        if ours and is_same_number(ours, claim.left):
            if row["source"] == claim.source:
                return row, ours
            sources.append(row["source"])
    known = f"known: {', '.join(sources)}" if sources else "none, by the column `of`"
    raise UserError(
        f"claims: {claim.text!r}: {claim.source!r} is neither a method nor a source of published "
        f"numbers of {claim.left.method!r} ({known}); correct it"
    )
