"""Simulate how often the rule of the verdicts is wrong, and how often it finds an effect.

    python benchmarks/verdict_rule.py [--rounds REPETITIONS] [--quick] [--save]

A simulated experiment compares one method with others on the same test images. An image is right if
a sum of normal values is positive: how easy the image is, how well the method copes with it (the
method's images), an effect of the seed, and chance. Methods are equally good on all possible
images, or the first one is EFFECT better; both are tested by the functions that `verdicts` uses. A
round is a repetition of the whole experiment, with other seeds and other test images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from arguments import keep, machine, parser_of
from frame import Record, record, rounded
from scipy.special import ndtri

from harness.analysis.power import AssumedEffect, power
from harness.analysis.statistics import LEVEL, SampleMean, crossed_mean, holm, sample_mean
from harness.analysis.verdicts import Comparison
from harness.experiment.claims import parse_claim

CLAIM = parse_claim("refilled > plain")
IMAGES = 1000
ACCURACY, EFFECT = 0.75, 0.02
EASE, SEED_SPREAD, CHANCE = 1.0, 0.02, 0.5  # standard deviations of the summands
OWN_IMAGES = (0.0, 0.3)  # that of the method's images: none, and as much as that
SEEDS, COMPARISONS = (3, 5, 10), (1, 10, 32)


@dataclass(frozen=True)
class Setting:
    """The size of a simulated experiment.

    Attributes:
        seeds: Their number.
        comparisons: The number of methods that the first one is compared with.
        own_images: The standard deviation of how methods cope with single images.
    """

    seeds: int
    comparisons: int
    own_images: float

    def differences(self, random: np.random.Generator, effect: float) -> list[np.ndarray]:
        """Return (seeds, images) of the first method minus each other one, drawn anew."""
        spread = (EASE**2 + self.own_images**2 + SEED_SPREAD**2 + CHANCE**2) ** 0.5
        ease = random.normal(0, EASE, IMAGES)
        correct = []
        for i in range(self.comparisons + 1):
            accuracy = ACCURACY + effect * (i == 0)
            value = ease + random.normal(0, 1, IMAGES) * self.own_images
            value = value + random.normal(0, SEED_SPREAD, (self.seeds, 1))
            value = value + random.normal(0, CHANCE, (self.seeds, IMAGES))
            correct.append((value + spread * ndtri(accuracy) > 0).astype(np.int8))
        return [correct[0] - other for other in correct[1:]]


def decisions(means: Sequence[SampleMean]) -> list[int]:
    """Return 1 for each supported comparison, -1 for each contradicted one, 0 for the others."""
    tested = [Comparison(CLAIM, "", mean) for mean in means]
    adjusted = holm([t.p for t in tested])
    signs = [1 if t.p_for < t.p_against else -1 for t in tested]
    return [s * (p <= LEVEL) for s, p in zip(signs, adjusted, strict=True)]


def over_seeds(values: np.ndarray) -> SampleMean:
    """Return the mean over seeds alone, as if there were no other test images."""
    return sample_mean(values.mean(1).tolist())


def quasi_f(values: np.ndarray) -> SampleMean:
    """Return the mean over seeds and images, without the limit that the t-test over seeds sets."""
    return replace(crossed_mean(values), over_seeds=None)


RULES: dict[str, Callable[[np.ndarray], SampleMean]] = {
    "the rule": crossed_mean,
    "quasi-F alone": quasi_f,
    "seeds alone": over_seeds,
}


def components(values: np.ndarray) -> tuple[float, float]:
    """Return the variance over seeds of the mean, and its variance over sets of test images."""
    n_seeds, n_images = values.shape
    by_seed, by_image = values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_image + values.mean()
    residual = (rest**2).sum() / ((n_seeds - 1) * (n_images - 1))
    return by_seed.var(ddof=1), (by_image.var(ddof=1) - residual / n_seeds) / n_images


def measure(setting: Setting, repetitions: int) -> dict[str, Any]:
    """Return how often the setting's claims are decided without an effect, and with it."""
    random = np.random.default_rng(0)
    wrong = dict.fromkeys(RULES, 0)
    found, parts = 0, []
    for _ in range(repetitions):
        nothing = setting.differences(random, 0)
        for name, mean in RULES.items():
            wrong[name] += any(decisions([mean(d) for d in nothing]))
        something = setting.differences(random, EFFECT)
        found += decisions([crossed_mean(d) for d in something]).count(1)
        parts.append(components(something[0]))
    of_seeds, of_images = np.mean(parts, axis=0)
    assumed = AssumedEffect(EFFECT, of_seeds**0.5, max(of_images, 0.0) ** 0.5)
    return {
        "seeds": setting.seeds,
        "comparisons": setting.comparisons,
        "spread": rounded(100 * assumed.spread),
        "image_error": rounded(100 * assumed.image_error),
        "wrong": {name: rounded(n / repetitions) for name, n in wrong.items()},
        "found": rounded(found / repetitions / setting.comparisons),
        "expected": rounded(float(np.mean(power([assumed] * setting.comparisons, setting.seeds)))),
    }


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=1000)
    arguments = parser.parse_args(argv)
    repetitions = arguments.rounds or (5 if arguments.quick else arguments.usual_rounds)
    rows = []
    for own, seeds, n in itertools.product(OWN_IMAGES, SEEDS, COMPARISONS):
        rows.append(measure(Setting(seeds, n, own), repetitions))
        print(rows[-1], flush=True)
    setting = {"repetitions": repetitions, "images": IMAGES, "effect": f"{100 * EFFECT:g} points"}
    kept = record("verdict_rule", machine(torch.device("cpu")), setting, rows=rows)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
