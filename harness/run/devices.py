"""Facts about this machine's devices, for a command that must neither import torch nor touch them.

Torch answers in a child process (harness.execute.child), and only when there is something to train.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import UserError
from harness.common.memory import host_memory
from harness.common.provenance import n_cores
from harness.data import Dataset
from harness.data.dataset import ResizedCrop, has_room
from harness.execute.child import in_child

# Files of the drivers through which torch reaches a GPU on Linux: NVIDIA's, in WSL, on a Jetson,
# and AMD's.
DRIVER_FILES = ("nvidia*", "dxg", "nvmap", "kfd")
DEV = Path("/dev")
WORKER_BYTES = 200 * 10**6  # that the process of a small network has for itself


@dataclass(frozen=True)
class DeviceFacts:
    """A device.

    Attributes:
        kind: cpu, cuda or mps.
        description: Its name in tables.
        memory: All its bytes; None unless it is a CUDA device.
    """

    kind: str
    description: str
    memory: int | None = None


def facts_of(name: str) -> DeviceFacts:
    """Return the facts of a device. On a GPU, this makes a CUDA context in this process.

    Raises:
        UserError: The name is unknown, or this machine has no such device.
    """
    import torch

    from harness.train.device import describe, resolve_device

    device = resolve_device(name)
    is_cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if is_cuda else None
    return DeviceFacts(device.type, describe(device), memory)


def check_device(name: str) -> None:
    """Raise UserError unless this machine has the device.

    'auto' and 'cpu' always exist and cost no import of torch.
    """
    if name not in ("auto", "cpu"):
        from harness.train.device import resolve_device

        resolve_device(name)


def default_jobs(device: str) -> int:
    """Return one cell per core, or a single cell on a GPU, which it has to itself."""
    return n_cores() if kind_of(device) == "cpu" else 1


def check_host_memory(n_cells: int) -> None:
    """Check that this machine's memory holds a process for each cell that trains at once.

    Raises:
        UserError: It does not.
    """
    _, total = host_memory()
    if n_cells * WORKER_BYTES > total:
        raise UserError(
            f"--jobs: {n_cells} cells at once need more than {n_cells * WORKER_BYTES / 1e9:.0f} GB "
            f"of this machine's {total / 1e9:.0f} GB of memory; give at most "
            f"{max(1, total // WORKER_BYTES)}"
        )


def kind_of(device: str) -> str:
    """Return the kind of a device that is here: cpu, cuda or mps.

    Torch knows what 'auto' is. Without any driver it need not be asked, and a machine without a GPU
    starts training seconds earlier.
    """
    if device != "auto":
        return device.partition(":")[0]
    has_driver = any(True for pattern in DRIVER_FILES for _ in DEV.glob(pattern))
    if sys.platform == "linux" and not has_driver:
        return "cpu"
    return in_child(_resolved_kind, device)


def _resolved_kind(name: str) -> str:
    from harness.train.device import resolve_device

    return resolve_device(name).type


def loading_note(
    dataset: Dataset, n_workers: int, cells_per_device: int, device: DeviceFacts
) -> str | None:
    """Return a note if a GPU has to wait for images that each cell cuts by itself on the CPU."""
    if n_workers or device.memory is None or not isinstance(dataset.augmentation, ResizedCrop):
        return None
    if has_room(dataset.nbytes, device.memory, cells_per_device):
        return None
    cells = f" for {cells_per_device} cells" if cells_per_device > 1 else ""
    return (
        f"the images ({dataset.nbytes / 1e9:.1f} GB{cells}) are too large to lie on "
        f"{device.description} ({device.memory / 1e9:.0f} GB), so each cell cuts them one after "
        "the other on the CPU; --n-workers 4 has four processes do it ahead"
    )
