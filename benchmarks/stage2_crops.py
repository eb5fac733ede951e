"""Measure whether stage 2 of ReFilled would gain from crops of its own.

    python benchmarks/stage2_crops.py [--rounds SEEDS] [--store DIR] [--quick] [--save]

Shuffling and crops follow from (seed, epoch), and the epochs of stage 2 are counted from 0 again:
it sees the batches of stage 1 once more. This trains stage 2 of experiments/digits.yaml twice from
the same stage 1, with these batches and with those of the epochs that follow. A round is a seed.
Cells are kept in the store, so the command can be stopped and called again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from arguments import chosen_device, keep, machine, parser_of
from frame import Record, record, rounded

from harness.analysis.statistics import estimate
from harness.data import load
from harness.data.batches import epoch_generator
from harness.experiment.experiment import Experiment
from harness.experiment.file import read
from harness.plan import Plan, make_plan
from harness.store import CellDir, Store
from harness.store.manifest import CellOptions
from harness.train import loop
from harness.train.cell import run_cell
from harness.train.data_request import DatasetCache

EXPERIMENT = Path("experiments/digits.yaml")
METHOD = "refilled"
FIRST_SEED = 400  # no other experiment and no tuning uses this one and those that follow
AGAIN, OWN = "crops of stage 1", "other crops"


def experiment_of(n_seeds: int, quick: bool) -> Experiment:
    """Return ReFilled of the experiment, with other seeds."""
    full = read(EXPERIMENT)
    changes: dict[str, Any] = {
        "methods": (METHOD,),
        "claims": (),
        "seeds": tuple(range(FIRST_SEED, FIRST_SEED + n_seeds)),
        "tuned": {name: part for name, part in (full.tuned or {}).items() if name == METHOD},
    }
    if quick:
        changes |= {s: getattr(full, s).scaled(0.04) for s in ("training", "stage1", "stage2")}
    return full.model_copy(update=changes)


@contextmanager
def epochs_counted_from(first: int) -> Iterator[None]:
    """Let each epoch draw the batches that an epoch `first` epochs later would draw."""

    def shifted(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
        return epoch_generator(seed, epoch + first, stream)

    loop.epoch_generator = shifted
    try:
        yield
    finally:
        loop.epoch_generator = epoch_generator


def train(plan: Plan, place: Path, device: str) -> dict[str, dict[str, list[float]]]:
    """Train every cell, stage 2 twice.

    Args:
        plan: That of `experiment_of`.
        place: The folder of the two stores.
        device: Where to train.

    Returns:
        Task in words -> AGAIN or OWN -> accuracy of each seed, as a fraction.
    """
    options = CellOptions.on_this_machine(plan.experiment)  # no cached teacher outputs
    stores = {AGAIN: Store(place / "again"), OWN: Store(place / "own")}
    for store in stores.values():
        store.create()
    first = plan.experiment.sections(["stage1"])["stage1"]["epochs"]
    datasets, reported = DatasetCache(), plan.experiment.protocol.reported
    found: dict[str, dict[str, list[float]]] = {}
    for fingerprint, cell in plan.cells.items():
        directory = stores[AGAIN].prepare(cell, options)
        done(directory, device, datasets)
        if cell.kind != "stage2":
            link = stores[OWN].directory(fingerprint).path
            link.unlink(missing_ok=True)
            link.symlink_to(directory.path.resolve())
            continue
        entry = plan.entries_of(fingerprint)[0]
        by_kind = found.setdefault(entry.task.words[-1] if entry.task else "", {})
        others = stores[OWN].prepare(cell, options)
        with epochs_counted_from(first):
            done(others, device, datasets)
        for kind, trained in ((AGAIN, directory), (OWN, others)):
            results = trained.manifest.results["accuracy"]
            by_kind.setdefault(kind, []).append(results[reported])
        print(entry.name, *(f"{kind}: {by_kind[kind][-1]:.3f}" for kind in stores), flush=True)
    return found


def done(directory: CellDir, device: str, datasets: DatasetCache) -> None:
    """Train a cell, unless it is finished."""
    if (status := run_cell(directory, device, datasets=datasets)) != 0:
        raise SystemExit(status)


def rows_of(found: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return the saved form: per task, means and the paired difference in points."""
    rows = []
    for task, by_kind in found.items():
        again, own = by_kind[AGAIN], by_kind[OWN]
        difference = estimate([100 * (b - a) for a, b in zip(again, own, strict=True)])
        assert difference is not None and difference.half_width is not None
        rows.append(
            {
                "task": task,
                "seeds": difference.n,
                AGAIN: rounded(100 * sum(again) / len(again)),
                OWN: rounded(100 * sum(own) / len(own)),
                "difference": [rounded(difference.mean), rounded(difference.half_width)],
                "accuracies": {kind: [rounded(v) for v in by_kind[kind]] for kind in by_kind},
            }
        )
    return rows


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=20)
    parser.add_argument("--store", type=Path, default=Path("runs/stage2-crops"))
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    experiment = experiment_of(arguments.rounds, arguments.quick)
    plan = make_plan(experiment, load(experiment.dataset))
    rows = rows_of(train(plan, arguments.store, str(device)))
    for row in rows:
        mean, half_width = row["difference"]
        print(f"{row['task']}: {mean:+.2f} ± {half_width:.2f} points ({row['seeds']} seeds)")
    setting = {"experiment": str(EXPERIMENT), "method": METHOD, "first seed": FIRST_SEED}
    kept = record("stage2_crops", machine(device), setting, kinds=[AGAIN, OWN], rows=rows)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
