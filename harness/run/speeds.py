"""Measurements of a plan's cells (harness.run.measure). Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.cell import Cell
from harness.common.canonical_json import canonical
from harness.common.provenance import n_cores
from harness.data import Dataset
from harness.experiment.optimizer import Optimizer
from harness.methods import IMPORTED, stage_of
from harness.methods.schedules import Schedule
from harness.networks import NetworkOptions
from harness.run.devices import DeviceFacts


@dataclass(frozen=True)
class NetworkSpeed:
    """The measured speed of one network, and its size.

    Attributes:
        evaluation: Seconds per image of a forward pass in an evaluation.
        parameters: The number of parameters.
        cached_bytes: Disk that its cached output for an image takes.
        teaching: Seconds per training batch of its forward pass as a teacher; 0 if it is none.
    """

    evaluation: float
    parameters: int
    cached_bytes: int
    teaching: float = 0.0


@dataclass(frozen=True)
class Speeds:
    """The measured times of a plan.

    Attributes:
        networks: The networks of the experiment.
        steps: `speed_key` of a cell -> seconds per training step, data and teacher included.
        device: The device on which it was measured.
        description: All devices on which cells will train.
        cell_bytes: Memory of a GPU that the largest cell takes; 0 on other devices.
        startup: Seconds until a process was ready to train.
    """

    networks: dict[NetworkOptions, NetworkSpeed]
    steps: dict[str, float]
    device: DeviceFacts
    description: str = ""
    cell_bytes: int = 0
    startup: float = 0.0

    def lanes(self, slots: Sequence[str]) -> int:
        """Return by how much cells that train at once in these slots divide the time.

        Cells on one GPU share its compute: each is slower by as much as the others get of it.
        """
        if self.device.kind == "cpu":
            return min(len(slots), n_cores())
        return len(set(slots))


@dataclass(frozen=True)
class Request:
    """The cells to measure, and how cells will train.

    Attributes:
        cells: `speed_key` -> one of the cells that have it, and the network of its teacher, if any.
        networks: The networks of the experiment, with the teachers'.
        dataset: A few of its images.
        n_bytes: Size of the pixels of all of them.
        devices: Names; the first one is measured.
        optimizer: The settings of the experiment.
        batch_size: Images of a batch: fewer than the settings say if there are not as many.
        threads, n_workers, cells_per_device, graphs: As cells will have them.
    """

    cells: dict[str, tuple[Cell, NetworkOptions | None]]
    networks: tuple[NetworkOptions, ...]
    batch_size: int
    optimizer: Optimizer
    dataset: Dataset
    n_bytes: int
    devices: tuple[str, ...]
    threads: int
    n_workers: int = 0
    cells_per_device: int = 1
    graphs: str = "auto"

    @property
    def teachers(self) -> set[NetworkOptions]:
        """The networks of the teachers of its cells."""
        return {teacher for _, teacher in self.cells.values() if teacher}


def takes_steps(cell: Cell) -> bool:
    """Return whether a cell is trained by gradient steps."""
    return cell.kind != IMPORTED and stage_of(cell.kind).schedule is not None


def speed_key(cell: Cell, teacher: NetworkOptions | None) -> str:
    """Return what decides how long a training step takes, beside the optimiser.

    Of a method's settings, those are the choices and the whole numbers; a weight, a temperature or
    a learning rate costs nothing, and a schedule says how often the step is taken.
    """
    settings = {
        name: {
            field: value
            for field, value in cell.config.sections[name].model_dump(mode="json").items()
            if not isinstance(value, float | None) and field not in Schedule.untunable
        }
        for name in stage_of(cell.kind).all_sections
    }
    networks = [n and n.model_dump(mode="json") for n in (cell.config.network, teacher)]
    return canonical({"kind": cell.kind, "networks": networks, "settings": settings})


def few_images(dataset: Dataset, n: int) -> Dataset:
    """Return the data set with at most n training images, drawn at random, and no others."""
    size = len(dataset.train)
    index = np.random.default_rng(0).permutation(size)[:n]
    return replace(dataset, train=dataset.train.subset(index), validation=None, test=None)
