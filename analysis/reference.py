"""Comparison of a bundle with the committed one of the same experiment.

Each number of the table is equal to the reference's to the last digit, or the difference is inside
or outside its interval. The same seed on another processor is another draw, so a seed's difference
has a spread, which is pooled over the columns of a row, as one column of three seeds says little
about it. The intervals hold simultaneously (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import Estimate, estimate, t_quantile
from harness.analysis.tables.rows import Row, columns_of, rows_of
from harness.analysis.verdicts import LEVEL, by_seed, paired
from harness.common.canonical_json import flatten

Agreement = Literal["equal", "agrees", "differs", "one run"]
# Fields of an experiment that may differ: lists may be shorter here, and texts change no number.
FREE = {"seeds", "students", "methods", "claims", "description", "labels", "published"}

LONGEST = 40  # characters of a setting in a message

BySeed = dict[int, float]


@dataclass(frozen=True)
class Checked:
    """A number of the table here and in the reference.

    Attributes:
        difference: Yours - theirs, as a fraction, with its simultaneous interval.
        agreement: "one run" if nothing tells the spread.
    """

    row: str
    column: str
    yours: Estimate
    theirs: Estimate
    difference: Estimate
    agreement: Agreement


@dataclass(frozen=True)
class Comparison:
    """The comparison of a bundle with a reference.

    Attributes:
        reference: The path of the reference.
        other_settings: Fields in which the experiments differ; nothing is compared then.
    """

    reference: str
    checked: list[Checked]
    other_settings: list[str]

    def count(self, *agreements: Agreement) -> int:
        """Return how many numbers came out in one of these ways."""
        return sum(c.agreement in agreements for c in self.checked)

    @property
    def reproduces(self) -> bool:
        """True if no number differs."""
        return not self.count("differs")

    @property
    def summary(self) -> str:
        """The first line of the answer."""
        if self.other_settings:
            fields = ", ".join(self.other_settings)
            return f"not compared with {self.reference}: made with other settings ({fields})"
        n, agree = len(self.checked), self.count("equal", "agrees")
        text = f"{agree} of {n} numbers agree with {self.reference}"
        parts = [f"{self.count('equal')} equal to the last digit"]
        if unknown := self.count("one run"):
            parts.append(f"{unknown} of one run, which has no spread")
        return f"{text} ({'; '.join(parts)})"


def compare(yours: Bundle, reference: Bundle) -> Comparison:
    """Compare all numbers that both bundles have, in the order of the table."""
    path = reference.path.as_posix()
    if other := different(yours.experiment, reference.experiment):
        return Comparison(path, [], other)
    pairs: dict[tuple[str, str, str, str], tuple[Row, BySeed, BySeed]] = {}
    for row in rows_of(yours):
        for column in columns_of(yours):
            part = column.part(row)
            ours, theirs = (by_seed(b, row, column) for b in (yours, reference))
            if ours and theirs:
                key = (row.stage, row.method, row.result, part)
                pairs.setdefault(key, (row, ours, theirs))
    n = len(pairs)
    spreads = {key[:3]: _spread([p for k, p in pairs.items() if k[:3] == key[:3]]) for key in pairs}
    checked = [
        _checked(row, key[3], ours, theirs, spreads[key[:3]], n)
        for key, (row, ours, theirs) in pairs.items()
    ]
    return Comparison(path, checked, [])


def different(yours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the settings in which two experiments differ, as "training.epochs: 20 there, 5 here".

    A field that only one of them has belongs to a method that the other lacks, or came later.
    """
    ours, others = (flatten({k: v for k, v in e.items() if k not in FREE}) for e in (yours, theirs))
    return [
        f"{field}: {_short(others[field])} there, {_short(ours[field])} here"
        for field in sorted(ours.keys() & others.keys())
        if ours[field] != others[field]
    ]


def _short(value: Any) -> str:
    """Return a setting as a short text: tuned settings may be long."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


@dataclass(frozen=True)
class _Spread:
    """Variances pooled over the columns of a row, and their degrees of freedom (0: unknown).

    Attributes:
        paired: The variance of a seed's value here minus there.
        single: The variance of the values over seeds.
    """

    paired: float
    paired_df: int
    single: float
    single_df: int


def _spread(pairs: Sequence[tuple[Row, BySeed, BySeed]]) -> _Spread:
    differences = [paired(ours, theirs) for _, ours, theirs in pairs]
    values = [[*v.values()] for _, ours, theirs in pairs for v in (ours, theirs)]
    # A column that is equal throughout comes from the same processor: it says nothing of others.
    return _Spread(*_pooled([d for d in differences if any(d)]), *_pooled(values))


def _pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the variance within the groups, and its degrees of freedom."""
    df = sum(len(group) - 1 for group in groups if group)
    means = [math.fsum(group) / len(group) if group else 0.0 for group in groups]
    squares = ((v - m) ** 2 for group, m in zip(groups, means, strict=True) for v in group)
    return (math.fsum(squares) / df if df else 0.0), df


def _checked(
    row: Row, column: str, ours: BySeed, theirs: BySeed, spread: _Spread, n_numbers: int
) -> Checked:
    yours, reference = estimate([*ours.values()]), estimate([*theirs.values()])
    assert yours is not None and reference is not None
    differences = paired(ours, theirs)
    is_paired = len(differences) == len(ours) and spread.paired_df > 0
    if is_paired:
        mean = math.fsum(differences) / len(differences)
        error, df = math.sqrt(spread.paired / len(differences)), spread.paired_df
    else:  # other seeds, or one seed of one column: two independent means
        mean = yours.mean - reference.mean
        error = math.sqrt(spread.single * (1 / yours.n + 1 / reference.n))
        df = spread.single_df
    agreement: Agreement
    if differences and len(differences) == len(ours) and not any(differences):
        return Checked(row.label, column, yours, reference, Estimate(0.0, None, yours.n), "equal")
    if df == 0:
        difference, agreement = Estimate(mean, None, yours.n), "one run"
    else:
        half_width = t_quantile(df, 1 - LEVEL / n_numbers) * error
        difference = Estimate(mean, half_width, yours.n)
        agreement = "agrees" if abs(mean) <= half_width else "differs"
    return Checked(row.label, column, yours, reference, difference, agreement)
