"""Time a few steps of every kind of cell as a cell's own process would train it.

It runs in a child (harness.execute.child): a CUDA context stays until its process ends.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
import warnings
from typing import NamedTuple

import torch

from harness.cell import Cell
from harness.common.errors import UserError
from harness.data.batches import Images, chunk_size
from harness.data.dataset import Dataset, ResizedCrop
from harness.data.placement import fits, on_device
from harness.networks import NetworkOptions
from harness.networks.base import Network
from harness.run.devices import facts_of
from harness.run.speeds import NetworkSpeed, Request, Speeds, few_images
from harness.train.augment import operations_of
from harness.train.device import describe_all, resolve_device, set_determinism, use
from harness.train.evaluate import autocast
from harness.train.graphs import make_graphs
from harness.train.loop import Diverged, Interrupted, train_epoch
from harness.train.memory import is_out_of_memory, memory_line
from harness.train.methods.base import Context, make_training
from harness.train.optimizer import make_average, make_optimizer
from harness.train.teacher_cache import PassFile


class Limits(NamedTuple):
    """How long one thing is timed.

    Attributes:
        warm_up: Pieces that are not counted: memory is requested, kernels are loaded.
        pieces: Pieces that are.
        seconds: After which the piece under way is the last one, even of the warm-up.
        batches: Batches of images that are enough for it.
    """

    warm_up: int
    pieces: int
    seconds: float
    batches: int


# A step of a large network takes seconds on a CPU, where it needs little warming up.
CPU = Limits(warm_up=1, pieces=3, seconds=1.0, batches=2)
GPU = Limits(warm_up=5, pieces=20, seconds=5.0, batches=26)


def limits_of(device: torch.device) -> Limits:
    """Return how long things are timed on a device."""
    return CPU if device.type == "cpu" else GPU


class Pace:
    """A clock for equal pieces of work.

    The device is waited for only where counting starts and ends: the loop does not wait, either.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.limits = device, limits_of(device)
        self._begun: list[tuple[float, int]] = []

    def begin(self, units: int = 1) -> bool:
        """Note that a piece of so many units begins; return whether it is not needed any more."""
        n, limits = len(self._begun), self.limits
        is_over = n == limits.warm_up + limits.pieces
        if n and not is_over:
            is_over = time.perf_counter() - self._begun[0][0] >= limits.seconds
        if is_over or n == limits.warm_up:
            wait_for(self.device)
        self._begun.append((time.perf_counter(), units))
        return is_over

    @property
    def seconds(self) -> float:
        """Seconds per unit."""
        first = min(self.limits.warm_up, len(self._begun) - 2)
        units = sum(n for _, n in self._begun[first:-1])
        return (self._begun[-1][0] - self._begun[first][0]) / units


def wait_for(device: torch.device) -> None:
    """Wait until a device has done everything that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure(request: Request) -> Speeds:
    """Measure everything that a plan's cells spend their time on.

    Raises:
        UserError: The device is not here, or has not enough memory for one cell.
    """
    warnings.simplefilter("ignore")  # a cell's own go to its log
    torch.set_num_threads(request.threads)
    name, image_size = request.devices[0], request.dataset.image_size
    device = resolve_device(name)
    set_determinism(request.optimizer.determinism, device)
    use(device)
    is_resident = fits(request.dataset, device, request.cells_per_device, request.n_bytes)
    size = request.batch_size
    n_batches = max(limits_of(device).batches, -(-chunk_size(device, *image_size) // size))
    few = few_images(request.dataset, n_batches * size)
    images = on_device(few, few.train, device, request.n_workers, is_resident)
    bench = Bench(images, few, request)
    networks = {}
    for options in request.networks:
        model = bench.network(options)
        networks[options] = NetworkSpeed(
            bench.forward(model),
            sum(parameter.numel() for parameter in model.parameters()),
            PassFile.size(1, model.embedding_dim),
            size * bench.forward(model, size) if options in request.teachers else 0.0,
        )
    steps = {}
    for key, (cell, guide) in request.cells.items():
        try:
            steps[key] = bench.step(cell, guide)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            line = memory_line(cell, image_size, device)
            raise UserError(f"optimizer.batch_size: {line}") from None
        if device.type == "cuda":  # the largest cell's memory counts, not that of all
            gc.collect()
            torch.cuda.empty_cache()
    # The few images stand for all of them, unless a loader brings each batch.
    pixels = 0 if isinstance(few.augmentation, ResizedCrop) and not is_resident else request.n_bytes
    peak = torch.cuda.max_memory_reserved(device) + pixels if device.type == "cuda" else 0
    return Speeds(
        networks=networks,
        steps=steps,
        device=facts_of(name),
        description=describe_all(request.devices),
        cell_bytes=peak,
    )


class Bench:
    """The steps that are timed, on the images of one device.

    Args:
        images: A few training images.
        dataset: The same as a data set.
    """

    def __init__(self, images: Images, dataset: Dataset, request: Request) -> None:
        self.images, self.dataset, self.request = images, dataset, request
        self.device, self.n_classes = images.device, len(dataset.class_names)

    def network(self, options: NetworkOptions) -> Network:
        """Return a network with random weights, as a cell has it."""
        torch.manual_seed(0)
        model = options.build(self.n_classes).to(self.device)
        return model.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, model: Network, batch_size: int | None = None) -> float:
        """Return the seconds per image of a forward pass, by default in an evaluation's batches."""
        model.eval()
        pace = Pace(self.device)
        while True:
            for batch in self.images.plain(batch_size):
                if pace.begin(len(batch.y)):
                    return pace.seconds
                with autocast(self.device, self.request.optimizer.precision):
                    model(batch.x)

    def step(self, cell: Cell, guide: NetworkOptions | None) -> float:
        """Return the seconds per step of the training loop, with the teacher's forward pass."""
        student = self.network(cell.config.network)
        teacher = self.network(guide) if guide else None
        images = self.images
        if operations := operations_of(cell.schedule):
            part, n_workers = self.dataset.train, self.request.n_workers
            images = on_device(self.dataset, part, self.device, n_workers, False, operations)
        context = Context(cell.config, {"train": images}, self.n_classes, student, teacher)
        training = make_training(cell.kind, context)
        parameters = [*student.parameters(), *training.module.to(self.device).parameters()]
        optimizer = make_optimizer(parameters, cell.config.optimizer, self.device)
        average = make_average(student, cell.config.optimizer)
        determinism = self.request.optimizer.determinism
        graphs = make_graphs(self.request.graphs, self.device, determinism)
        pace = Pace(self.device)
        for epoch in itertools.cycle(range(cell.epochs)):
            with contextlib.suppress(Diverged):  # so few images may drive the weights anywhere
                try:
                    train_epoch(
                        student,
                        training,
                        optimizer,
                        images,
                        cell.config,
                        epoch,
                        pace.begin,
                        graphs,
                        average,
                    )
                except Interrupted:
                    break
        return pace.seconds
