"""The size of the paper's experiments, the power of their primary claims, and the seeds they need.

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
from harness.data.views import without_pixels
from harness.experiment.experiment import Experiment
from harness.experiment.file import network_labels, read
from harness.experiment.published import read_published
from harness.plan import Plan, make_plan
from harness.run.estimate import sizes_of

FOLDER = Path("experiments")
CLASSES = {"cifar100": 100, "cub200": 200}
TRAIN = {"cifar100": 450, "cub200": 27}  # images per class, without those for validation
VALIDATION = {"cifar100": 50, "cub200": 3}
TEST = {"cifar100": 100, "cub200": 29}
SPREAD = 0.003  # an assumption: nobody has measured it here


def without_content(experiment: Experiment) -> Dataset:
    """Return as many classes, training and test images as the data set has, without content."""
    name = experiment.dataset.name
    n = CLASSES[name]

    def part(per_class: int) -> ImageSet:
        labels = np.repeat(np.arange(n), per_class)
        return ImageSet(np.zeros((len(labels), 1, 1, 3), np.uint8), labels)

    names = tuple(map(str, range(n)))
    parts = part(TRAIN[name]), part(VALIDATION[name]), part(TEST[name])
    return Dataset(name, names, *parts, (0.5,) * 3, (0.5,) * 3, Augmentation(0, flip=True))


def images_trained_on(plan: Plan, dataset: Dataset) -> int:
    """Return over how many images all cells step, each epoch counting its images again."""
    sizes = sizes_of(plan, without_pixels(dataset))
    cells = (cell for cell in plan.cells.values() if cell.schedule)
    return sum(cell.epochs * sizes[cell.config.data][0] for cell in cells)


def row_of(path: Path) -> dict[str, Any]:
    """Return the size of an experiment, and what its primary claims can show if it has any."""
    experiment = read(path)
    dataset = without_content(experiment)
    plan = make_plan(experiment, dataset)
    row = {
        "experiment": path.name,
        "claims": len(experiment.claims),
        "seeds": len(experiment.seeds),
        "cells": len(plan.cells),
        "images": images_trained_on(plan, dataset),
    }
    if not experiment.claims:
        return row | {"comparisons": 0, "power": None, "needed": None}
    rows = (
        read_published(path.parent / experiment.published, network_labels(experiment))
        if experiment.published
        else []
    )
    planned = planned_claims(plan, rows, Assumptions(spread=SPREAD))
    assumed = [p.assumed for p in planned["primary"]]
    return row | {
        "comparisons": len(assumed),
        "power": rounded(min(power(assumed, len(experiment.seeds)))),
        "needed": fewest_seeds(assumed),
    }


def main(argv: list[str] | None = None) -> Record:
    """Run the simulation."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=1)
    arguments = parser.parse_args(argv)
    paths = sorted(p for p in FOLDER.glob("*.yaml") if read(p).dataset.name in CLASSES)
    rows = [row_of(path) for path in paths]
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
