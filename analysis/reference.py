"""Comparison of a bundle with the committed one of the same experiment.

What is compared is an effect: a row minus the baseline, or the two sides of a claim; and the
baseline itself. The deviation, yours minus the reference's, is paired by seed and has a variance of
its own in each row and column. It agrees if it is shown to be within a margin (two one-sided
tests), so that a wrong method cannot agree by being noisy.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from harness.analysis.bundle import Bundle
from harness.analysis.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    Estimate,
    SampleMean,
    difference_of_means,
    estimate,
    holm,
    sample_mean,
    t_quantile,
)
from harness.analysis.tables.rows import Column, Row, columns_of, is_main, rows_of
from harness.analysis.verdicts import accuracies, are_same_cells, baseline_of, by_seed, row_of
from harness.cell import network_options
from harness.common.canonical_json import flatten
from harness.data import DATASETS, DatasetOptions
from harness.data.options import PublishedOptions
from harness.experiment.claims import parse_claim
from harness.experiment.pairs import SIDES, pair_label
from harness.methods.variants import split_settings

Agreement = Literal["equal", "agrees", "differs", "too noisy"]
# Fields of an experiment that may differ: lists may be shorter here, and texts change no number.
FREE = {
    *("seeds", "students", "pairs", "methods", "claims", "secondary_claims"),
    *("description", "labels", "published", "paper_table", "teacher_source"),
}
MARGIN = 0.01  # a fraction; `--margin` sets another one
POWER = 0.8

LONGEST = 40  # characters of a setting in a message

BySeed = dict[int, float]


@dataclass(frozen=True)
class Effect:
    """A row minus another one, or a row by itself if there is no other one."""

    row: Row
    baseline: Row | None

    @property
    def rows(self) -> list[Row]:
        """The row, and the other one if there is one."""
        return [self.row, *([self.baseline] if self.baseline else [])]

    @property
    def label(self) -> str:
        """Return "KD - Student", or "Student"."""
        return f"{self.row.label} - {self.baseline.label}" if self.baseline else self.row.label

    def by_seed(self, bundle: Bundle, column: Column) -> BySeed:
        """Return seed -> the effect, for the seeds that both rows have; {} for one cell twice."""
        values = accuracies(bundle, by_seed(bundle, self.row, column))
        if self.baseline is None:
            return values
        if are_same_cells(bundle, self.row, self.baseline, column):
            return {}  # 0 by construction
        others = accuracies(bundle, by_seed(bundle, self.baseline, column))
        return {seed: values[seed] - others[seed] for seed in values.keys() & others.keys()}


@dataclass(frozen=True)
class Checked:
    """An effect here and in the reference.

    Attributes:
        is_difference: Whether the effect is a difference of two rows, and not the baseline itself.
        deviation: Yours - theirs, as a fraction, with its 95 % interval.
        detectable: The smallest true deviation that would be called different in POWER of all
            repetitions; None if no spread is known.
    """

    effect: str
    is_difference: bool
    column: str
    yours: Estimate
    theirs: Estimate
    deviation: Estimate
    detectable: float | None
    agreement: Agreement


@dataclass(frozen=True)
class ReferenceCheck:
    """The comparison of a bundle with a reference.

    Attributes:
        reference: The path of the reference.
        margin: A deviation below it is an agreement, as a fraction.
        other_settings: Fields in which the experiments differ; nothing is compared then.
        other_images: The digests of the two data sets if published images were read from files of
            another form, as "1a2b there, 3c4d here"; else "".
        numerical_noise: The share of an effect's variance over seeds that comes from the last
            digits of sums, the median over the effects; None unless the seeds are those of the
            reference.
        changed: The effects that are not equal although the baseline of their column is.
    """

    reference: str
    margin: float
    checked: list[Checked]
    other_settings: list[str]
    other_images: str = ""
    numerical_noise: float | None = None
    changed: tuple[str, ...] = ()

    def count(self, *agreements: Agreement) -> int:
        """Return how many effects came out in one of these ways."""
        return sum(c.agreement in agreements for c in self.checked)

    @property
    def reproduces(self) -> bool:
        """True if no effect differs and at least one agrees; the baseline alone confirms nothing.

        If only the baseline is compared, it must agree.
        """
        effects = [c for c in self.checked if c.is_difference] or self.checked
        agree = any(c.agreement in ("equal", "agrees") for c in effects)
        return agree and not self.count("differs")

    @property
    def summary(self) -> str:
        """The first lines of the answer."""
        if self.other_settings:
            fields = ", ".join(self.other_settings)
            return f"not compared with {self.reference}: made with other settings ({fields})"
        if not self.checked:
            return f"not compared with {self.reference}: it has none of these students and methods"
        n, agree = len(self.checked), self.count("equal", "agrees")
        text = (
            f"{agree} of {n} effects agree with {self.reference} within {100 * self.margin:g} "
            f"point{'s' * (self.margin != 0.01)} ({self.count('equal')} equal to the last digit), "
            f"{self.count('differs')} differ, {self.count('too noisy')} are too noisy to confirm "
            "anything."
        )
        detectable = [(c.detectable, c) for c in self.checked if c.detectable]
        if detectable:
            least, most = (f(detectable, key=lambda pair: pair[0]) for f in (min, max))
            text += (
                f" A true deviation would be noticed from {_place(*least)} on at best, and from "
                f"{_place(*most)} on at worst."
            )
        if self.other_images:
            text += (
                f" The images come from other files (data: {self.other_images}), so no number can "
                "be equal but by chance."
            )
        if self.changed:
            text += (
                " The baseline is equal, so this machine computes as the reference's did; what is "
                f"not equal was computed in another way: {', '.join(self.changed)}."
            )
        return text


def _place(deviation: float, checked: Checked) -> str:
    """Return a deviation in words: "0.9 points (KD - Student, shots 20)"."""
    where = f"{checked.effect}, {checked.column}" if checked.column else checked.effect
    return f"{100 * deviation:.1f} points ({where})"


def compare(yours: Bundle, reference: Bundle, margin: float = MARGIN) -> ReferenceCheck:
    """Compare all effects that both bundles have, in the order of the table."""
    path = reference.path.as_posix()
    if other := other_settings(yours, reference, any_form=True):
        return ReferenceCheck(path, margin, [], other)
    pairs = {
        (effect, column.part(*effect.rows)): sides
        for effect in effects_of(yours)
        for column in columns_of(yours)
        if all(sides := [effect.by_seed(bundle, column) for bundle in (yours, reference)])
    }
    deviations = {key: _deviation(*sides) for key, sides in pairs.items()}
    ps = holm([deviation.p_differs for deviation in deviations.values()])
    checked = []
    for (key, deviation), p in zip(deviations.items(), ps, strict=True):
        ours, theirs = (estimate([*side.values()]) for side in pairs[key])
        assert ours and theirs
        agreement = "equal" if _is_equal(*pairs[key]) else _agreement(deviation, p, margin)
        detectable = None
        if deviation.error and agreement != "equal":
            quantiles = (1 - LEVEL / len(pairs), 2 * POWER - 1)
            detectable = deviation.error * sum(t_quantile(deviation.df, q) for q in quantiles)
        effect, column_part = key
        interval = deviation.interval()
        checked.append(
            Checked(
                effect.label,
                effect.baseline is not None,
                column_part,
                ours,
                theirs,
                interval,
                detectable,
                agreement,
            )
        )
    images = _other_images(yours, reference)
    noise, changed = _numerical_noise([*pairs.values()]), _changed(yours, checked)
    return ReferenceCheck(path, margin, checked, [], images, noise, changed)


def _changed(yours: Bundle, checked: list[Checked]) -> tuple[str, ...]:
    """Return the effects that are not equal although the baseline was trained to the same digits.

    One seed may have the same accuracy by chance.
    """
    method = baseline_of(yours).method
    if not any(n.cell.manifest.epochs for n in yours.numbers if n.method == method):
        return ()
    equal = [c for c in checked if c.agreement == "equal"]
    exact = {c.column for c in equal if not c.is_difference and c.yours.n > 1}
    found = (c.effect for c in checked if c.column in exact and c.agreement != "equal")
    return tuple(dict.fromkeys(found))


def effects_of(bundle: Bundle) -> Iterator[Effect]:
    """Yield the baseline, every other row minus it, and the sides of each claim."""
    baseline = baseline_of(bundle)
    yield Effect(baseline, None)
    for row in rows_of(bundle):
        if row != baseline and is_main(bundle, row.result):
            yield Effect(row, baseline)
    settings = bundle.settings
    for claim in map(parse_claim, (*settings.claims, *settings.secondary_claims)):
        sides = [row_of(bundle, side) for side in (claim.left, claim.right) if side]
        if len(sides) == 2 and all(sides) and baseline not in sides:
            yield Effect(*sides)  # type: ignore[arg-type]


def _deviation(ours: BySeed, theirs: BySeed) -> SampleMean:
    """Return yours - theirs: paired by seed if the reference has all of yours, two or more."""
    if len(ours) > 1 and ours.keys() <= theirs.keys():
        return sample_mean([ours[seed] - theirs[seed] for seed in ours])
    return difference_of_means([*ours.values()], [*theirs.values()])


def _numerical_noise(pairs: list[list[BySeed]]) -> float | None:
    """Return the median share of last digits in the variance of an effect over seeds.

    Two draws of one seed differ by twice the variance of a draw. The share is above 1 if the draws
    of a seed happen to differ more than the seeds do.
    """
    shares = []
    for ours, theirs in pairs:
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < FEWEST_SEEDS or _is_equal(ours, theirs):
            continue
        within = statistics.variance(ours[seed] - theirs[seed] for seed in seeds) / 2
        over_seeds = [statistics.variance(side[s] for s in seeds) for side in (ours, theirs)]
        if all(over_seeds):
            shares.append(within / statistics.fmean(over_seeds))
    return statistics.median(shares) if shares else None


def _is_equal(ours: BySeed, theirs: BySeed) -> bool:
    return all(theirs.get(seed) == value for seed, value in ours.items())


def _agreement(deviation: SampleMean, p: float, margin: float) -> Agreement:
    if deviation.error == 0 and deviation.n >= FEWEST_SEEDS:  # the same for every seed
        return "agrees" if abs(deviation.mean) < margin else "differs"
    if deviation.p_within(margin) <= LEVEL:
        return "agrees"
    return "differs" if p <= LEVEL else "too noisy"


def other_settings(yours: Bundle, theirs: Bundle, any_form: bool = False) -> list[str]:
    """Return the settings and data in which two experiments differ.

    Args:
        yours: A bundle.
        theirs: Another one.
        any_form: Whether the images of a published data set may have other digests: files on the
            hub are not those of the archive, and decoders of JPEG differ in last digits.
    """
    other = different(yours.experiment, theirs.experiment)
    name = yours.experiment.get("dataset", {}).get("name", "")
    is_published = issubclass(DATASETS.get(name, DatasetOptions), PublishedOptions)
    images = _other_images(yours, theirs)
    return other + ([f"data: {images}"] if images and not (any_form and is_published) else [])


def _other_images(yours: Bundle, theirs: Bundle) -> str:
    """Return the digests of the images if they differ, and else ""."""
    digests = [{d for c in b.cells if (d := c.spec.data.digest)} for b in (theirs, yours)]
    there, here = (" and ".join(sorted(d[:12] for d in side)) for side in digests)
    return f"{there} there, {here} here" if there and here and there != here else ""


def different(yours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the settings in which two experiments differ, as "training.epochs: 20 there, 5 here".

    A field that only one of them has belongs to a method that the other lacks, or came later. But
    tasks and tuned settings are left out while there are none.
    """
    methods = {*yours.get("methods", ())} & {*theirs.get("methods", ())}
    ours, others = (_settings(experiment, methods) for experiment in (yours, theirs))
    fields = {f for f in ours.keys() & others.keys() if ours[f] != others[f]}
    for side, other in ((ours, others), (others, ours)):
        empty = (f for f in side.keys() - other.keys() if side[f] is None)
        fields |= {f for f in empty if any(name.startswith(f"{f}.") for name in other)}
    return [
        f"{f}: {_short(others.get(f, 'some'))} there, {_short(ours.get(f, 'some'))} here"
        for f in sorted(fields)
    ]


def _settings(experiment: dict[str, Any], methods: set[str]) -> dict[str, Any]:
    """Return the settings by their full names.

    Those of `tuned` are for these methods alone; a pair has what it says beside its networks.
    """
    settings = {k: v for k, v in experiment.items() if k not in FREE}
    if isinstance(data := settings.get("dataset"), dict):
        settings["dataset"] = {
            k: v for k, v in data.items() if k != "label"
        }  # it changes no number
    names = methods | {split_settings(name)[0] for name in methods}
    tuned = settings.get("tuned") or {}
    settings["tuned"] = {name: tuned.get(name) for name in names}
    settings["pairs"] = {
        pair_label(*(network_options(pair[side]).label for side in SIDES)): str(
            {name: value for name, value in pair.items() if name not in SIDES}
        )
        for pair in experiment.get("pairs", ())
    }
    return flatten(dict.fromkeys(("tasks", "teacher_batch_size")) | settings)


def _short(value: Any) -> str:
    """Return a setting as a short text: tuned settings may be long."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
