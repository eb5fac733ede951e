"""Figures of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from analysis.collect import Bundle
from analysis.tables import cell_estimate, rows_of, students_of

# Told apart without colour.
MARKERS = "osD^vP*X"
GREYS = ("0.0", "0.35", "0.55", "0.0", "0.35", "0.55")


def accuracy_by_student(bundle: Bundle, path: Path) -> None:
    """Final test accuracy of each student by each method, with 95 % t-intervals over seeds."""
    students = students_of(bundle)
    rows = [r for r in rows_of(bundle) if r.stage in ("student", "kd", "stage2")]
    figure, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
    counts = set()
    for i, row in enumerate(rows):
        offset = (i - (len(rows) - 1) / 2) * 0.14
        found = [(j, cell_estimate(bundle, row, s)) for j, s in enumerate(students)]
        shown = [(j + offset, e) for j, e in found if e is not None]
        counts |= {e.n for _, e in shown}
        axes.errorbar(
            [x for x, _ in shown],
            [100 * e.mean for _, e in shown],
            [100 * (e.half_width or 0.0) for _, e in shown],
            fmt=MARKERS[i % len(MARKERS)],
            color=GREYS[i % len(GREYS)],
            markerfacecolor="white" if i % 2 else None,
            capsize=3,
            label=row.label.replace("*", ""),
        )
    teacher = [r for r in rows_of(bundle) if r.stage == "teacher"]
    value = cell_estimate(bundle, teacher[0], students[0]) if teacher else None
    if value is not None:
        label = f"Teacher ({bundle.teacher})"
        level = 100 * value.mean
        axes.axhline(level, color="0.6", linestyle="--", linewidth=1, zorder=0, label=label)
    axes.set_xticks(range(len(students)), students)
    axes.set_xlim(-0.5, len(students) - 0.5)
    axes.set_ylabel("test accuracy (%)")
    axes.set_xlabel("student")
    data = json.loads(bundle.numbers.data.iloc[0])
    n = " or ".join(map(str, sorted(counts)))
    axes.set_title(
        f"{data['name']}: mean and 95 % t-interval, n = {n} seeds, {data['test']} test images",
        fontsize=10,
    )
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
