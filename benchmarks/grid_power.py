"""The power of the primary claims of the paper's experiments, and the seeds that they need.

    python benchmarks/grid_power.py [--save]

Nothing is trained: `harness plan` would say the same, but needs the data sets. Here, images without
content stand for them, as many per class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import keep, machine, parser_of
from frame import Record, record, rounded

from harness.analysis.planned_power import EFFECT, OVER_IMAGES, Assumptions, planned_claims
from harness.analysis.power import fewest_seeds, power
from harness.data import Augmentation, Dataset, ImageSet
from harness.experiment.experiment import Experiment
from harness.experiment.file import network_labels, read
from harness.experiment.published import read_published
from harness.plan import make_plan

FOLDER = Path("experiments")
CLASSES = {"cifar100": 100, "cub200": 200}
TEST = {"cifar100": 100, "cub200": 29}  # images per class
SPREAD = 0.003  # an assumption: nobody has measured it here


def without_content(experiment: Experiment) -> Dataset:
    """Return as many classes and test images as the data set has, without content."""
    name = experiment.dataset.name
    n = CLASSES[name]

    def part(per_class: int) -> ImageSet:
        labels = np.repeat(np.arange(n), per_class)
        return ImageSet(np.zeros((len(labels), 1, 1, 3), np.uint8), labels)

    names = tuple(map(str, range(n)))
    parts = part(2), part(1), part(TEST[name])
    return Dataset(name, names, *parts, (0.5,) * 3, (0.5,) * 3, Augmentation(0, flip=True))


def row_of(path: Path) -> dict[str, Any] | None:
    """Return what the primary claims of an experiment can show; None if it has none."""
    experiment = read(path)
    if not experiment.claims:
        return None
    plan = make_plan(experiment, without_content(experiment))
    rows = (
        read_published(path.parent / experiment.published, network_labels(experiment))
        if experiment.published
        else []
    )
    planned = planned_claims(plan, rows, Assumptions(spread=SPREAD))
    assumed = [p.assumed for p in planned["primary"]]
    powers = power(assumed, len(experiment.seeds))
    return {
        "experiment": path.name,
        "claims": len(experiment.claims),
        "comparisons": len(assumed),
        "seeds": len(experiment.seeds),
        "power": rounded(min(powers)),
        "needed": fewest_seeds(assumed),
        "cells": len(plan.cells),
    }


def main(argv: list[str] | None = None) -> Record:
    """Run the simulation."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=1)
    arguments = parser.parse_args(argv)
    found = [row_of(p) for name in CLASSES for p in sorted(FOLDER.glob(f"{name}_*.yaml"))]
    rows = [row for row in found if row]
    for row in rows:
        print(row)
    setting = {
        "effect": f"{100 * EFFECT:g} points",
        "spread over seeds": f"{100 * SPREAD:g} points",
        "over images": OVER_IMAGES,
    }
    kept = record("grid_power", machine(torch.device("cpu")), setting, rows=rows)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
