"""A bundle -> the numbers that its figures show. Draws nothing: `analysis.figures` does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from analysis.collect import Bundle
from analysis.tables import Row, rows_of, select, students_of

FIGURES = ("accuracy", "curves-stage1", "curves-stage2", "ncm", "confusion")
# Stages whose test accuracy is a method's result.
FINAL = ("student", "kd", "stage2")
# Fewer points than this say nothing about a rank correlation.
FEWEST_FOR_CORRELATION = 10

OLD_BUNDLE = "the bundle was written before it held them; `harness tables FILE` writes it anew"
OLD_CELLS = (
    "cells were trained before predictions were kept; `harness run FILE --store NEW` and "
    "`harness tables FILE --store NEW` make them"
)


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest over n seeds after each of `epochs` (from 1)."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: int


@dataclass(frozen=True)
class NcmPoint:
    """Test accuracies of one student and seed, as fractions."""

    method: str
    student: str
    seed: int
    after_stage1: float
    final: float


@dataclass(frozen=True)
class ConfusionMatrix:
    """counts: (C, C), test images of the row's class that were given the column's, over n seeds."""

    method: str
    student: str
    counts: np.ndarray
    n: int


def data_of(bundle: Bundle) -> dict[str, Any]:
    """Name of the data set and number of images of each part, as the students had them."""
    students = bundle.numbers[bundle.numbers.stage != "teacher"]
    return json.loads(students.data.iloc[0])


def labels_of(bundle: Bundle) -> dict[str, str]:
    """Method -> how the table calls it."""
    return {r.method: r.label.replace("*", "") for r in rows_of(bundle) if r.stage in FINAL}


def ncm_metric(bundle: Bundle) -> str:
    """The NCM accuracy that the protocol goes by."""
    form = {"train": "train", "evaluated": "eval"}[bundle.experiment["protocol"]["ncm_centers"]]
    return f"ncm_{form}_centers"


def rows_in_stage(bundle: Bundle, stage: int) -> list[Row]:
    """stage 1: of the ReFilled methods. stage 2: their second stage, and methods without stages."""
    rows = rows_of(bundle)
    if stage == 1:
        return [r for r in rows if r.stage == "stage1" and r.result == ncm_metric(bundle)]
    return [r for r in rows if r.stage in FINAL]


def accuracy_metric(bundle: Bundle, stage: int) -> str:
    """The curve to show: on validation images or, where there are none, on test images."""
    part = "validation" if "validation" in data_of(bundle) else "test"
    return f"{part}/{ncm_metric(bundle) if stage == 1 else 'accuracy'}"


def band(curves: list[list[float | None]]) -> Band | None:
    """One curve a seed -> their band over the epochs at which each has a value; None if at none."""
    columns = [
        (epoch, [v for v in values if v is not None])
        for epoch, values in enumerate(zip(*curves, strict=False), 1)
        if None not in values
    ]
    if not columns:
        return None
    return Band(
        [epoch for epoch, _ in columns],
        [float(np.mean(values)) for _, values in columns],
        [min(values) for _, values in columns],
        [max(values) for _, values in columns],
        len(curves),
    )


def second_half(band: Band) -> Band:
    """The band from the middle of its epochs on."""
    first = sum(2 * epoch < band.epochs[-1] for epoch in band.epochs)
    mean, low, high = (values[first:] for values in (band.mean, band.low, band.high))
    return Band(band.epochs[first:], mean, low, high, band.n)


def bands(bundle: Bundle, stage: int, metric: str) -> dict[str, dict[str, Band]]:
    """Student -> method, as the table calls it -> band."""
    labels = labels_of(bundle)
    result: dict[str, dict[str, Band]] = {}
    for student in students_of(bundle):
        for row in rows_in_stage(bundle, stage):
            fingerprints = select(bundle, row, student).fingerprint
            curves = [bundle.curves.get(f, {}).get(metric) for f in fingerprints]
            found = band([c for c in curves if c])
            if found is not None:
                result.setdefault(student, {})[labels[row.method]] = found
    return result


def ncm_points(bundle: Bundle) -> list[NcmPoint]:
    """One point a ReFilled method, student and seed that has both stages."""
    labels = labels_of(bundle)
    points = []
    for first in rows_in_stage(bundle, 1):
        second = Row("", "stage2", first.method, "accuracy")
        for student in students_of(bundle):
            before = select(bundle, first, student).set_index("seed")[bundle.reported]
            after = select(bundle, second, student).set_index("seed")[bundle.reported]
            points += [
                NcmPoint(labels[first.method], student, int(seed), before[seed], after[seed])
                for seed in before.index.intersection(after.index)
            ]
    return points


def rank_correlation(points: list[NcmPoint]) -> float | None:
    """Spearman's, of both accuracies; None for too few points or where either is constant."""
    before, after = [p.after_stage1 for p in points], [p.final for p in points]
    if len(points) < FEWEST_FOR_CORRELATION or len(set(before)) == 1 or len(set(after)) == 1:
        return None
    return float(stats.spearmanr(before, after).statistic)


def chosen_for_confusion(bundle: Bundle) -> tuple[Row, str]:
    """The first ReFilled method (without one, the last method) and the last student of the file:
    chosen by their place, so that no accuracy decides what is shown."""
    rows = rows_in_stage(bundle, 2)
    refilled = [r for r in rows if r.stage == "stage2"]
    return (refilled or rows[::-1])[0], students_of(bundle)[-1]


def confusion_matrix(bundle: Bundle) -> ConfusionMatrix | None:
    """Summed over seeds; None if a seed has no predictions."""
    row, student = chosen_for_confusion(bundle)
    found = [bundle.confusions.get(f) for f in select(bundle, row, student).fingerprint]
    if not found or None in found:
        return None
    entries = [entry for one in found if one is not None for entry in one]
    names = bundle.class_names
    size = len(names) if names else 1 + max(max(label, guess) for label, guess, _ in entries)
    counts = np.zeros((size, size), dtype=int)
    for label, guess, n in entries:
        counts[label, guess] += n
    return ConfusionMatrix(labels_of(bundle)[row.method], student, counts, len(found))


def row_percent(counts: np.ndarray) -> np.ndarray:
    """(C, C) counts -> % of the row; a class without test images is a row of zeros."""
    return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)


def most_confused(counts: np.ndarray, n: int = 10) -> list[tuple[int, int, int]]:
    """The n largest counts off the diagonal as (class, predicted class, count); of equal ones the
    first classes first."""
    pairs = [(int(i), int(j), int(counts[i, j])) for i, j in np.argwhere(counts) if i != j]
    return sorted(pairs, key=lambda p: (-p[2], p[:2]))[:n]


def drawable(bundle: Bundle) -> tuple[list[str], dict[str, str]]:
    """The figures this bundle has the numbers for, and why the others that its grid could have are
    left out."""
    drawn, left_out = ["accuracy"], {}
    for stage in (1, 2):
        if not rows_in_stage(bundle, stage):
            continue
        name = f"curves-stage{stage}"
        if bands(bundle, stage, "loss/total"):
            drawn.append(name)
        else:
            left_out[name] = OLD_BUNDLE
    if ncm_points(bundle):
        drawn.append("ncm")
    if confusion_matrix(bundle) is not None:
        drawn.append("confusion")
    else:
        left_out["confusion"] = OLD_CELLS if bundle.confusions else OLD_BUNDLE
    return drawn, left_out
