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
    def standing(self) -> Standing:
        """Whether the second verdict confirms the first; "open" if the first is undecided."""
        first, second = self.first.outcome, self.second.outcome if self.second else "not tested"
        if first == "not tested":
            return "not tested"
        if first == "undecided":
            return "open"
        if first == second:
            return "confirmed"
        return "reversed" if second in DECIDED else "not confirmed"


def confirmations(first: Bundle, second: Bundle, claims_of: Bundle) -> list[Confirmation]:
    """Return the verdicts of two bundles on the claims of one of them, side by side."""
    seconds = {(v.claim, v.column): v for v in verdicts_of(second, claims_of)}
    return [
        Confirmation(v, seconds.get((v.claim, v.column))) for v in verdicts_of(first, claims_of)
    ]
