"""The time and disk that a plan needs, estimated from a few steps of each network on this device.

Also `--budget`, which drops whole seeds until the estimate fits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from harness.cell import Cell, CellData
from harness.common.errors import UserError
from harness.common.metrics import NCM
from harness.data import Dataset
from harness.data.batches import epoch_generator
from harness.data.placement import on_device
from harness.data.views import apply, join_validation, without_pixels
from harness.experiment.experiment import Experiment
from harness.methods import IMPORTED, needs_maps, stage_of
from harness.networks import NetworkOptions
from harness.networks.pixels import PixelsOptions
from harness.plan import TEACHER, Plan, chain_lengths, make_plan
from harness.store import Store
from harness.train.device import resolve_device
from harness.train.evaluate import autocast
from harness.train.optimizer import make_optimizer
from harness.train.teacher_cache import PassFile

MEASURED_STEPS = 3
FLOAT = 4  # bytes
CELL_SECONDS = 0.2  # loading, checkpoints, manifest; 0.16 and 0.23 in `make reproduce`'s grids


@dataclass(frozen=True)
class Speed:
    """The measured speed of one network at the experiment's batch size.

    Attributes:
        step: Seconds per training step, data included.
        forward: Seconds per forward pass.
        parameters: The number of parameters.
        width: The width of the embedding.
    """

    step: float
    forward: float
    parameters: int
    width: int


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

    def wall_seconds(self, jobs: int) -> float:
        """Return the seconds with `jobs` cells at once: at least those of the longest chain."""
        return max(sum(self.seconds.values()) / jobs, self.longest_chain)


def start_seconds(n_cells: int, jobs: int, imported: float) -> float:
    """Return the seconds of a run that are neither training nor evaluation.

    They are those of starting the workers, which import twice what this process has just imported
    in `imported` seconds, and of loading and saving around each cell.
    """
    return 2 * imported + CELL_SECONDS * n_cells / jobs


def measure_networks(
    experiment: Experiment, dataset: Dataset, device_name: str, threads: int, n_workers: int = 0
) -> dict[NetworkOptions, Speed]:
    """Measure the speed of every network of the experiment."""
    torch.set_num_threads(threads)
    device = resolve_device(device_name)
    images = on_device(dataset, dataset.train, device, n_workers)
    size, precision = experiment.optimizer.batch_size, experiment.optimizer.precision
    speeds: dict[NetworkOptions, Speed] = {}
    for options in (experiment.teacher, *experiment.students):
        if options in speeds:
            continue
        model = options.build(len(dataset.class_names)).to(device)
        model = model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model.parameters(), experiment.optimizer, device)

        def step(batch: Any) -> None:
            with autocast(device, precision):
                loss = F.cross_entropy(model(batch.x).float(), batch.y)  # noqa: B023
            optimizer.zero_grad()  # noqa: B023
            loss.backward()
            optimizer.step()  # noqa: B023

        def forward(batch: Any) -> None:
            with torch.no_grad(), autocast(device, precision):
                model(batch.x)  # noqa: B023

        batches = images.augmented(size, epoch_generator(0, 0))
        warm = next(batches)
        step(warm)
        started, n_steps = _now(device), 0
        for batch in batches:
            step(batch)
            n_steps += 1
            if n_steps == MEASURED_STEPS:
                break
        if n_steps == 0:  # all images are one batch
            step(warm)
            n_steps = 1
        step_seconds = (_now(device) - started) / n_steps
        forward(warm)
        started = _now(device)
        forward(warm)
        parameters = sum(p.numel() for p in model.parameters())
        forward_seconds = _now(device) - started
        speeds[options] = Speed(step_seconds, forward_seconds, parameters, model.embedding_dim)
    return speeds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def estimate(
    plan: Plan,
    store: Store,
    dataset: Dataset,
    speeds: dict[NetworkOptions, Speed],
    teacher_cache: int = 0,
) -> Cost:
    """Estimate what the cells that are not done need, without the epochs they already have.

    Teacher outputs that fit into `teacher_cache` bytes are computed once; those that earlier calls
    have cached are ignored.
    """
    dataset = without_pixels(dataset)
    size = plan.experiment.optimizer.batch_size
    parts = sizes_of(plan, dataset)
    teacher = speeds[plan.experiment.teacher]
    seconds, disk, peak, room = {}, 0, 0, teacher_cache
    cached: dict[tuple[str, CellData], int] = {}  # teacher and data -> epochs with cached outputs
    for fingerprint, cell in plan.cells.items():
        if cell.kind == IMPORTED:
            continue
        speed = speeds.get(cell.config.network) or _pixels_speed(cell, dataset)
        disk += speed.parameters * FLOAT
        peak = max(peak, 3 * speed.parameters * FLOAT)
        directory = store.directory(fingerprint)
        if directory.is_done:
            continue
        left = cell.epochs - len(directory.epochs())
        train, evaluated = parts[cell.config.data]
        epoch = (speed.forward / size) * (
            _evaluation_share(cell) * (evaluated + (train if cell.metric == NCM else 0))
        )
        # With fewer images than a batch, a step costs its share of a whole one.
        n_batches = -(-train // size) if train > size else train / size
        takes_steps = stage_of(cell.kind).schedule is not None
        epoch += n_batches * (speed.step if takes_steps else speed.forward)
        seconds[fingerprint] = left * epoch
        if TEACHER in cell.upstream:
            key = cell.upstream[TEACHER], cell.config.data
            is_cached = not needs_maps(stage_of(cell.kind).terms)
            n_cached = cached.get(key, 0) if is_cached else 0
            new = max(0, left - n_cached)
            seconds[fingerprint] += new * n_batches * teacher.forward
            epoch_bytes = PassFile.size(train, teacher.width)
            fits = min(new, room // epoch_bytes) if is_cached else 0
            cached[key] = max(cached.get(key, 0), n_cached + fits)
            room -= fits * epoch_bytes
    longest = max(chain_lengths(plan.cells, seconds).values(), default=0.0)
    return Cost(seconds, longest, disk, peak, teacher_cache - room)


def _pixels_speed(cell: Cell, dataset: Dataset) -> Speed:
    """Return the speed of a cell whose embedding is the pixels: nothing is computed."""
    assert isinstance(cell.config.network, PixelsOptions)
    features = cell.config.network.n_features
    return Speed(0.0, 0.0, (features + 1) * len(dataset.class_names), features)


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
    speeds: dict[NetworkOptions, Speed],
    jobs: int,
    budget: float,
    teacher_cache: int = 0,
) -> Experiment:
    """Return the experiment with as many of its first seeds as fit into `budget` seconds.

    Only whole seeds are dropped, so that no comparison is left half done.

    Raises:
        UserError: Not even one seed fits.
    """
    needed = 0.0
    for n in range(len(experiment.seeds), 0, -1):
        smaller = experiment.model_copy(update={"seeds": experiment.seeds[:n]})
        cost = estimate(make_plan(smaller, dataset), store, dataset, speeds, teacher_cache)
        needed = cost.wall_seconds(jobs)
        if needed <= budget:
            return smaller
    raise UserError(
        f"--budget: one seed takes about {needed / 3600:.1f} h here, the budget is "
        f"{budget / 3600:.1f} h; give it more, or fewer epochs with --epochs-scale"
    )
