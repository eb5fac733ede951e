"""The time and disk that a plan needs, from what was measured of its cells (harness.run.speeds).

Also `--budget`, which drops whole seeds until the estimate fits.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.cell import Cell, CellData
from harness.common.durations import duration
from harness.common.errors import UserError
from harness.common.metrics import NCM
from harness.data import Dataset
from harness.data.views import apply, join_validation, without_pixels
from harness.execute.child import in_child
from harness.execute.local import threads_for
from harness.experiment.experiment import Experiment
from harness.methods import IMPORTED, needs_maps, stage_of
from harness.networks.pixels import PixelsOptions
from harness.plan import TEACHER, Plan, chain_lengths, make_plan
from harness.run.options import RunOptions
from harness.run.speeds import (
    NetworkSpeed,
    Request,
    Speeds,
    few_images,
    speed_key,
    takes_steps,
)
from harness.store import Store

FLOAT = 4  # bytes
MOST_BATCHES, MOST_IMAGES = 26, 1024  # that a measurement needs
CONTEXT_BYTES = 500 * 10**6  # that a process takes of a GPU, beside its tensors
CELL_SECONDS = 0.2  # loading, checkpoints, manifest; 0.16 and 0.23 in `make reproduce`'s grids


@dataclass(frozen=True)
class Cost:
    """The time and disk that a plan needs.

    Attributes:
        seconds: fingerprint -> seconds of training, for the cells that are still to train.
        longest_chain: Seconds of the longest chain of cells that wait for one another.
        finished_bytes: Disk that all finished cells take.
        peak_bytes: Disk that the checkpoint of one running cell takes in addition.
        teacher_cache_bytes: Disk that the cached teacher outputs take.
    """

    seconds: dict[str, float]
    longest_chain: float
    finished_bytes: int
    peak_bytes: int
    teacher_cache_bytes: int

    def wall_seconds(self, lanes: int) -> float:
        """Return the seconds with so many lanes (`Speeds.lanes`): at least the longest chain's."""
        return max(sum(self.seconds.values()) / lanes, self.longest_chain)


def start_seconds(n_cells: int, jobs: int, startup: float) -> float:
    """Return the seconds of a run that are neither training nor evaluation.

    They are those until a worker has started, and of loading and saving around each cell.
    """
    return startup + CELL_SECONDS * n_cells / jobs


def measure_plan(
    plan: Plan, store: Store, dataset: Dataset, slots: Sequence[str], options: RunOptions
) -> Speeds:
    """Measure what the cells that are not done will need.

    Raises:
        UserError: The GPU does not hold as many cells as train on it at once.
    """
    experiment = plan.experiment
    missing = [
        (cell, plan.teacher_of(cell))
        for fingerprint, cell in plan.cells.items()
        if takes_steps(cell) and not store.directory(fingerprint).is_done
    ]
    size = experiment.optimizer.batch_size
    request = Request(
        cells={speed_key(*pair): pair for pair in missing},
        networks=tuple(experiment.networks),
        batch_size=min(size, len(dataset.train)),
        optimizer=experiment.optimizer,
        dataset=few_images(dataset, max(MOST_BATCHES * size, MOST_IMAGES)),
        n_bytes=dataset.nbytes,
        devices=tuple(dict.fromkeys(slots)),
        threads=threads_for(len(slots)),
        n_workers=options.n_workers,
        cells_per_device=options.cells_per_device(slots),
        graphs=options.graphs,
    )
    asked = time.monotonic()
    began, speeds = in_child(_measure, request)
    check_memory(speeds, request.cells_per_device)
    return replace(speeds, startup=began - asked)


def _measure(request: Request) -> tuple[float, Speeds]:
    """Return when the process was ready, as time.monotonic(), and what it has measured."""
    from harness.run.measure import measure

    return time.monotonic(), measure(request)


def check_memory(speeds: Speeds, n_cells: int) -> None:
    """Check that a GPU holds the cells that train on it at once.

    Raises:
        UserError: It does not.
    """
    one, memory = speeds.cell_bytes + CONTEXT_BYTES, speeds.device.memory
    if memory is None or n_cells * one <= memory:
        return
    n_fitting = memory // one
    remedy = f"at most {n_fitting} fit" if n_fitting else "lower optimizer.batch_size"
    raise UserError(
        f"--jobs-per-device: {n_cells} cells at once need about {n_cells * one / 1e9:.0f} GB of "
        f"the {memory / 1e9:.0f} GB of {speeds.device.description}; {remedy}"
    )


def estimate(
    plan: Plan,
    store: Store,
    dataset: Dataset,
    speeds: Speeds,
    teacher_cache: int = 0,
) -> Cost:
    """Estimate what the cells that are not done need, without the epochs they already have.

    Teacher outputs that fit into `teacher_cache` bytes are computed once; those that earlier calls
    have cached are ignored.
    """
    dataset = without_pixels(dataset)
    size = plan.experiment.optimizer.batch_size
    parts, n_images = sizes_of(plan, dataset), len(dataset.train)
    seconds, disk, peak, room = {}, 0, 0, teacher_cache
    cached: dict[tuple[str, CellData], int] = {}  # teacher and data -> epochs with cached outputs
    for fingerprint, cell in plan.cells.items():
        if cell.kind == IMPORTED:
            continue
        speed = speeds.networks.get(cell.config.network) or _pixels_speed(cell, dataset)
        disk += speed.parameters * FLOAT
        peak = max(peak, 3 * speed.parameters * FLOAT)
        directory = store.directory(fingerprint)
        if directory.is_done:
            continue
        left = cell.epochs - len(directory.epochs())
        train, evaluated = parts[cell.config.data]
        epoch = speed.evaluation * (
            _evaluation_share(cell) * (evaluated + (train if cell.metric == NCM else 0))
        )
        # With fewer images than a batch, a step costs its share of the measured one.
        n_batches = -(-train // size) if train > size else train / min(size, n_images)
        guide = plan.teacher_of(cell)
        step = speeds.steps[speed_key(cell, guide)] if takes_steps(cell) else 0.0
        epoch += n_batches * step if takes_steps(cell) else train * speed.evaluation
        seconds[fingerprint] = left * epoch
        if guide and not needs_maps(stage_of(cell.kind).terms):
            teacher = speeds.networks[guide]
            key = cell.upstream[TEACHER], cell.config.data
            n_cached = cached.get(key, 0)
            saved = min(left, n_cached)
            seconds[fingerprint] -= saved * n_batches * min(step, teacher.teaching)
            epoch_bytes = train * teacher.cached_bytes
            fits = min(left - saved, room // epoch_bytes)
            cached[key] = n_cached + fits
            room -= fits * epoch_bytes
    longest = max(chain_lengths(plan.cells, seconds).values(), default=0.0)
    return Cost(seconds, longest, disk, peak, teacher_cache - room)


def _pixels_speed(cell: Cell, dataset: Dataset) -> NetworkSpeed:
    """Return the speed of a cell whose embedding is the pixels: nothing is computed."""
    assert isinstance(cell.config.network, PixelsOptions)
    features = cell.config.network.n_features
    return NetworkSpeed(0.0, (features + 1) * len(dataset.class_names), cached_bytes=0)


def sizes_of(plan: Plan, dataset: Dataset) -> dict[CellData, tuple[int, int]]:
    """Return the numbers of training and of evaluated images, by a cell's data."""
    sizes: dict[CellData, tuple[int, int]] = {}
    for cell in plan.cells.values():
        key = cell.config.data
        if key not in sizes:
            joined = cell.config.protocol.train_on == "train+validation"
            seen = apply(join_validation(dataset) if joined else dataset, key.view)
            evaluated = sum(len(p) for p in (seen.validation, seen.test) if p is not None)
            sizes[key] = len(seen.train), evaluated
    return sizes


def _evaluation_share(cell: Cell) -> float:
    """Return the share of a cell's epochs that end with an evaluation."""
    interval: int = getattr(cell.schedule, "select_every", cell.config.protocol.evaluate_every)
    return 1 / interval


def fit_budget(
    experiment: Experiment,
    dataset: Dataset,
    store: Store,
    speeds: Speeds,
    lanes: int,
    budget: float,
    teacher_cache: int = 0,
) -> Experiment:
    """Return the experiment with as many of its first seeds as fit into `budget` seconds.

    Only whole seeds are dropped, so that no comparison is left half done.

    Raises:
        UserError: Not even one seed fits.
    """

    def first(n: int) -> Experiment:
        return experiment.model_copy(update={"seeds": experiment.seeds[:n]})

    def needed(n: int) -> float:
        plan = make_plan(first(n), dataset)
        return estimate(plan, store, dataset, speeds, teacher_cache).wall_seconds(lanes)

    # More seeds never need less, so a few of the numbers of seeds are enough to try.
    n_fitting = bisect_right(range(1, len(experiment.seeds) + 1), budget, key=needed)
    if n_fitting == 0:
        raise UserError(
            f"--budget: one seed takes about {duration(needed(1))} here, the budget is "
            f"{duration(budget)}; give it more, or fewer epochs with --epochs-scale"
        )
    return first(n_fitting)
