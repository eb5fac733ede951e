"""How long a plan will take and how much disk it needs, from a few measured steps of each network
on this device. Also `--budget`: dropping whole seeds until it fits."""

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
from harness.networks import NetworkOptions, PixelsOptions
from harness.plan import TEACHER, Plan, longest_chains, make_plan
from harness.store import Store
from harness.train.checkpoint import build_network
from harness.train.device import resolve_device
from harness.train.evaluate import autocast
from harness.train.optimizer import make_optimizer
from harness.train.teacher_cache import PassFile

MEASURED_STEPS = 3
FLOAT = 4  # bytes
CELL_SECONDS = 0.2  # loading, checkpoints, manifest; of `make reproduce`'s grids 0.16 and 0.23


@dataclass(frozen=True)
class Speed:
    """Of one network at the experiment's batch size: seconds of a training step (data included)
    and of a forward pass; its number of parameters, and the width of its embedding."""

    step: float
    forward: float
    parameters: int
    width: int


@dataclass(frozen=True)
class Cost:
    """seconds: of training, one job at a time, by fingerprint (cells still to train only).
    longest_chain: seconds of those cells, each waiting for the one before, that take longest.
    finished_bytes: what all cells leave; peak_bytes: the checkpoint of one training cell on top;
    answer_bytes: the kept answers of the teachers."""

    seconds: dict[str, float]
    longest_chain: float
    finished_bytes: int
    peak_bytes: int
    answer_bytes: int

    def wall_seconds(self, jobs: int) -> float:
        """However many jobs there are, it takes as long as the longest chain."""
        return max(sum(self.seconds.values()) / jobs, self.longest_chain)


def start_seconds(n_cells: int, jobs: int, imported: float) -> float:
    """Of a run, what is neither training nor evaluation: the workers' start, which imports what
    this process has just imported, twice over, and what stands around each cell.

    Args:
        imported: seconds that importing torch took here.
    """
    return 2 * imported + CELL_SECONDS * n_cells / jobs


def measure_networks(
    experiment: Experiment, dataset: Dataset, device_name: str, threads: int, n_workers: int = 0
) -> dict[NetworkOptions, Speed]:
    """Speed of every network of the experiment."""
    torch.set_num_threads(threads)
    device = resolve_device(device_name)
    images = on_device(dataset, dataset.train, device, n_workers)
    size, precision = experiment.optimizer.batch_size, experiment.optimizer.precision
    speeds: dict[NetworkOptions, Speed] = {}
    for options in (experiment.teacher, *experiment.students):
        if options in speeds:
            continue
        model = build_network(options, len(dataset.class_names)).to(device)
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
        if n_steps == 0:  # the whole set is one batch
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
    """Times of the cells that are not done; finished epochs of interrupted ones do not count.

    Args:
        teacher_cache: bytes that the teachers' kept answers may take. What fits is computed once;
            what earlier calls have kept does not count.
    """
    dataset = without_pixels(dataset)
    if plan.experiment.protocol.train_on == "train+validation":
        dataset = join_validation(dataset)
    size = plan.experiment.optimizer.batch_size
    parts = sizes_of(plan, dataset)
    teacher = speeds[plan.experiment.teacher]
    seconds, disk, peak, room = {}, 0, 0, teacher_cache
    kept: dict[tuple[str, CellData], int] = {}  # teacher and data -> epochs with answers
    for fingerprint, cell in plan.cells.items():
        if cell.kind == IMPORTED:
            continue
        speed = speeds.get(cell.config.network) or _of_pixels(cell, dataset)
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
        # A batch of a few images, where there are no more, costs a share of a whole one.
        n_batches = -(-train // size) if train > size else train / size
        takes_steps = stage_of(cell.kind).schedule is not None
        epoch += n_batches * (speed.step if takes_steps else speed.forward)
        seconds[fingerprint] = left * epoch
        if TEACHER in cell.upstream:
            asked = cell.upstream[TEACHER], cell.config.data
            is_kept = not needs_maps(stage_of(cell.kind).terms)
            known = kept.get(asked, 0) if is_kept else 0
            new = max(0, left - known)
            seconds[fingerprint] += new * n_batches * teacher.forward
            an_epoch = PassFile.size(train, teacher.width)
            fits = min(new, room // an_epoch) if is_kept else 0
            kept[asked], room = max(kept.get(asked, 0), known + fits), room - fits * an_epoch
    longest = max(longest_chains(plan.cells, seconds).values(), default=0.0)
    return Cost(seconds, longest, disk, peak, teacher_cache - room)


def _of_pixels(cell: Cell, dataset: Dataset) -> Speed:
    """Nothing is computed where the pixels are the embedding: one look at the images."""
    assert isinstance(cell.config.network, PixelsOptions)
    features = cell.config.network.features
    return Speed(0.0, 0.0, (features + 1) * len(dataset.class_names), features)


def sizes_of(plan: Plan, dataset: Dataset) -> dict[CellData, tuple[int, int]]:
    """How many images a cell trains on, and how many are evaluated, by its data."""
    found: dict[CellData, tuple[int, int]] = {}
    for cell in plan.cells.values():
        key = cell.config.data
        if key not in found:
            seen = apply(dataset, key.view)
            evaluated = sum(len(p) for p in (seen.validation, seen.test) if p is not None)
            found[key] = len(seen.train), evaluated
    return found


def _evaluation_share(cell: Cell) -> float:
    """Of the epochs, how many end with an evaluation."""
    rhythm: int = getattr(cell.schedule, "select_every", cell.config.protocol.evaluate_every)
    return 1 / rhythm


def fit_budget(
    experiment: Experiment,
    dataset: Dataset,
    store: Store,
    speeds: dict[NetworkOptions, Speed],
    jobs: int,
    budget: float,
    teacher_cache: int = 0,
) -> Experiment:
    """The experiment with as many of its seeds, from the first, as fit into `budget` seconds.
    Whole seeds only: a comparison is never left half done.

    Raises:
        UserError: not even one seed fits.
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
