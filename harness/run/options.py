"""The options of a command that trains, made once and handed down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import UserError
from harness.common.provenance import n_cores
from harness.execute.ray.options import RayOptions
from harness.execute.slots import check_devices, make_slots


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
    no_bar: bool = False
    cluster: RayOptions | None = None
    trackers: tuple[str, ...] = ()

    def slots(self) -> tuple[str, ...]:
        """Return a device of this machine for each cell that trains at once.

        With a cluster, this machine trains nothing and these are its defaults.

        Raises:
            UserError: A device is not there, or devices or options do not go together.
        """
        device, jobs = ("auto", None) if self.cluster else (self.device, self.jobs)
        devices = device.split(",")
        for name in devices:
            check_device(name)
        check_devices(devices)
        if jobs is not None and self.jobs_per_device is not None:
            raise UserError("--jobs: means the same as --jobs-per-device; give one of them")
        if jobs is not None and len(devices) > 1:
            raise UserError(
                "--jobs: is for one device; with several use --jobs-per-device N, the cells "
                "trained at once on each"
            )
        default = default_jobs(device) if len(devices) == 1 else 1
        return make_slots(devices, jobs or self.jobs_per_device or default)


def check_device(name: str) -> None:
    """Raise UserError unless this machine has the device.

    'auto' and 'cpu' always exist and cost no import of torch.
    """
    if name not in ("auto", "cpu"):
        from harness.train.device import resolve_device

        resolve_device(name)


def default_jobs(device: str) -> int:
    """Return one cell per core, or a single cell on a GPU, which it has to itself."""
    on_gpu = device.startswith("cuda") or (device == "auto" and Path("/dev/nvidia0").exists())
    return 1 if on_gpu or device == "mps" else n_cores()
