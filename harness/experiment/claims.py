"""What an experiment is meant to show, as data: `harness verdicts` tests it (analysis/verdicts.py).

    claims:
      - refilled > plain
      - refilled > kd by 0.5
      - refilled > refilled-triplet after stage 1
      - refilled within 0.5 of kd
      - refilled within 0.5 of readme-2020      # a source of the published table

Margins are points of accuracy, in per cent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
QUANTITY = re.compile(rf"(?P<method>\S+?){AFTER}(?:: (?P<result>\w+))?")


@dataclass(frozen=True)
class Quantity:
    """A number of the table: of a method, or the teacher's.

    stage: after which of the method's stages, from 1; None after the last.
    metric: which of the stage's metrics; None for the one that the protocol goes by.
    """

    method: str
    stage: int | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Claim:
    """text: as it stands in the file. margin: a fraction. is_greater: `left` exceeds `right` by
    more than `margin`; else they differ by less than it. source: of published numbers, where these
    are the right side."""

    text: str
    left: Quantity
    right: Quantity | None
    margin: float
    is_greater: bool
    source: str | None = None


def read_claim(text: str) -> Claim:
    """
    Raises:
        ValueError: not a claim, or of a method or a stage that there is not; how to go on.
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
    if greater is None and not _is_ours(match["right"]):
        return Claim(words, left, None, margin, is_greater=False, source=match["right"])
    right = _quantity(match["right"], stage)
    if left == right:
        raise ValueError(f"{words!r}: compares {left.method!r} with itself; name two methods")
    return Claim(words, left, right, margin, is_greater=greater is not None)


def _is_ours(name: str) -> bool:
    try:
        return name == TEACHER or bool(parse_method(name))
    except ValueError:
        return False


def _quantity(name: str, stage: int | None) -> Quantity:
    if name == TEACHER:
        return Quantity(TEACHER)
    method = parse_method(name).name
    _check_stage(method, stage)
    return Quantity(method, stage)


def _check_stage(method: str, stage: int | None) -> None:
    n = len(parse_method(method).stages)
    if stage is not None and stage >= n:
        raise ValueError(
            f"{method!r} has {n} stage{'s' * (n > 1)}, so there is no number of its own after "
            f"stage {stage}; drop `after stage {stage}`"
        )


def read_quantity(text: str) -> Quantity:
    """Of which of our numbers a published row is: `kd`, `refilled after stage 1`, `refilled after
    stage 1: ncm_eval_centers`.

    Raises:
        ValueError: none; how to go on.
    """
    match = QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read {text!r}; write METHOD, or METHOD after stage N")
    result = match["result"]
    if result is not None and result not in NCM_METRICS:
        raise ValueError(f"unknown metric {result!r}{nearest(result, NCM_METRICS)}")
    found = _quantity(match["method"], int(match["stage"]) if match["stage"] else None)
    return Quantity(found.method, found.stage, result)


def published_of(claim: Claim, rows: list[dict[str, str]]) -> tuple[dict[str, str], Quantity]:
    """The published row that a claim compares with, and which of our numbers that is.

    Args:
        rows: harness.experiment.published.read_published's.

    Raises:
        UserError: there is none of that source and method.
    """
    sources = []
    for row in rows:
        of = read_quantity(row["of"]) if row.get("of") else None
        if of and (of.method, of.stage) == (claim.left.method, claim.left.stage):
            if row["source"] == claim.source:
                return row, of
            sources.append(row["source"])
    known = f"there is {', '.join(sources)}" if sources else "no row is, by their column `of`"
    raise UserError(
        f"claims: {claim.text!r}: {claim.source!r} is neither a method nor a "
        f"source of published numbers of {claim.left.method!r} ({known}); correct it"
    )
