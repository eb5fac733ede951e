"""The options of a command that trains, made once and handed down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.common.errors import UserError
from harness.execute.ray.options import RayOptions
from harness.execute.slots import check_devices, make_slots
from harness.experiment.experiment import Experiment
from harness.run.devices import check_device, check_host_memory, default_jobs, kind_of
from harness.store.manifest import CellOptions


@dataclass(frozen=True)
class RunOptions:
    """The options that say where cells are trained, how many at once, and for how long.

    Attributes:
        store: The folder of the trained cells.
        device: auto, cpu, cuda, cuda:N or mps; several are separated by commas.
        jobs: Cells trained at once on a single device; by default one per core, or one on a GPU.
        jobs_per_device: Cells trained at once on each device; by default one on each of several.
        max_seconds: Time after which training stops at the last finished epoch.
        budget: Seconds that the estimate may take; whole seeds are dropped until it fits.
        n_workers: Loader workers per cell.
        teacher_cache: Bytes that cached teacher outputs may take in the store; 0 caches none.
        graphs: Whether steps on a GPU are CUDA graphs: on, off, or auto, if that keeps the bits.
        no_bar: Whether to print plain lines instead of a live table.
        cluster: The Ray cluster to train on instead of this machine.
        trackers: Trackers besides MLflow (harness.track.mirrors).
    """

    store: Path = Path("runs")
    device: str = "auto"
    jobs: int | None = None
    jobs_per_device: int | None = None
    max_seconds: float | None = None
    budget: float | None = None
    n_workers: int = 0
    teacher_cache: int = 20 * 10**9
    graphs: Literal["auto", "on", "off"] = "auto"
    no_bar: bool = False
    cluster: RayOptions | None = None
    trackers: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of this machine; with a cluster, it trains nothing and uses its default."""
        return ("auto",) if self.cluster else tuple(self.device.split(","))

    def check(self) -> None:
        """Check the devices and how many cells train on them.

        Raises:
            UserError: A device is not there, or devices or options do not go together.
        """
        for name in self.devices:
            check_device(name)
        check_devices(self.devices)
        if self.jobs is not None and self.jobs_per_device is not None:
            raise UserError("--jobs: means the same as --jobs-per-device; give one of them")
        if self.jobs is not None and len(self.devices) > 1:
            raise UserError(
                "--jobs: is for one device; with several use --jobs-per-device N, the cells "
                "trained at once on each"
            )
        if self.graphs == "on":
            on_cluster = ["cuda" if self.cluster.gpus else "cpu"] if self.cluster else []
            kinds = on_cluster or [kind_of(name) for name in self.devices]
            if any(kind != "cuda" for kind in kinds):
                raise UserError("--graphs: on needs CUDA devices alone; use auto, or off")

    def slots(self) -> tuple[str, ...]:
        """Return a device of this machine for each cell that trains at once.

        Only a command that trains needs them: to know what 'auto' is may take seconds.

        Raises:
            UserError: See `check`; or this machine's memory does not hold as many cells.
        """
        self.check()
        if self.cluster:
            return self.devices
        n = self.jobs or self.jobs_per_device
        if n is None:
            n = 1 if len(self.devices) > 1 else default_jobs(self.devices[0])
        slots = make_slots(self.devices, n)
        check_host_memory(len(slots))
        return slots

    def cells_per_device(self, slots: Sequence[str]) -> int:
        """Return how many cells may train on one device at once."""
        if self.cluster:
            return max(1, int(1 / self.cluster.gpus)) if self.cluster.gpus else 1
        return max(Counter(slots).values())

    def of_cells(self, experiment: Experiment, slots: Sequence[str]) -> CellOptions:
        """Return what the cells of an experiment are told about this machine."""
        return CellOptions.on_this_machine(
            experiment,
            n_workers=self.n_workers,
            teacher_cache=self.teacher_cache,
            cells_per_device=self.cells_per_device(slots),
            graphs=self.graphs,
        )
