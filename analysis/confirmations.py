"""Verdicts on the same claims from two sets of numbers, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.analysis.bundle import Bundle
from harness.analysis.verdicts import DECIDED, Verdict, verdicts_of

Standing = Literal["confirmed", "not confirmed", "reversed", "open", "not tested"]
STANDINGS: tuple[Standing, ...] = ("confirmed", "not confirmed", "reversed", "open", "not tested")


@dataclass(frozen=True)
class Confirmation:
    """A verdict on the same claim and column from two sets of numbers."""

    first: Verdict
    second: Verdict | None

    @property
    def column(self) -> str:
        """The column's label."""
        return self.first.column or (self.second.column if self.second else "")

    @property
    def standing(self) -> Standing:
        """Whether the second verdict confirms the first, which may be undecided or not tested."""
        first, second = self.first.outcome, self.second.outcome if self.second else "not tested"
        if first == "not tested":
            return "not tested"
        if first == "undecided":
            return "open"
        if first == second:
            return "confirmed"
        return "reversed" if second in DECIDED else "not confirmed"


def confirmations(first: Bundle, second: Bundle, claims_of: Bundle) -> list[Confirmation]:
    """Return the verdicts of two bundles on the claims of one of them, side by side.

    A claim that the first bundle cannot test has no column there, so it stands beside each of the
    second one's verdicts.
    """
    seconds = verdicts_of(second, claims_of)
    pairs = []
    for v in verdicts_of(first, claims_of):
        same_claim = [s for s in seconds if (s.claim, s.is_primary) == (v.claim, v.is_primary)]
        if v.outcome == "not tested":
            pairs += [Confirmation(v, s) for s in same_claim]
        else:
            pairs.append(
                Confirmation(v, next((s for s in same_claim if s.column == v.column), None))
            )
    return pairs
