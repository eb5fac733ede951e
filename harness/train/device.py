"""Choosing and describing the device that trains."""

import os
import platform
import re
from collections.abc import Sequence

import torch

from harness.common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device that 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' names.

    'cpu:N' is the CPU as well: in a list of devices it stands in for a GPU. No CUDA context is
    made, but 'auto' starts CUDA's driver.

    Raises:
        UserError: The name is unknown, or this machine has no such device.
    """
    if not re.fullmatch(r"auto|mps|(cpu|cuda)(:(0|[1-9][0-9]*))?", name):
        raise UserError(f"--device: unknown {name!r}; allowed: auto, cpu, cuda, cuda:N, mps")
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    n_gpus = torch.cuda.device_count() if name.startswith("cuda") else 0
    if name.startswith("cuda") and (n_gpus == 0 or int(name.partition(":")[2] or 0) >= n_gpus):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f", CUDA_VISIBLE_DEVICES is {visible!r}"
        raise UserError(
            f"--device: {name} is not here ({n_gpus} CUDA devices{hidden}); use cpu or auto"
        )
    if name == "mps" and not mps:
        raise UserError("--device: mps is not here; use cpu or auto")
    return torch.device("cpu" if name.startswith("cpu") else name)


def use(device: torch.device) -> None:
    """Make a GPU the current one of this process.

    Otherwise pinned memory and the like would allocate memory on the first GPU.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def describe(device: torch.device) -> str:
    """Return the device's name in tables: 'cpu (x86_64)' or 'NVIDIA H100 80GB HBM3'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def describe_all(names: Sequence[str]) -> str:
    """Return the description of devices; of several, with names: 'NVIDIA L4 (cuda:0, cuda:1)'."""
    by_make: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_make.setdefault(describe(resolve_device(name)), []).append(name)
    if len(set(names)) == 1:
        return next(iter(by_make))
    return " and ".join(f"{make} ({', '.join(each)})" for make, each in by_make.items())


def set_determinism(mode: str = "bits", device: torch.device | None = None) -> None:
    """Make equal seeds give equal bits, on one device and with one number of threads.

    With the mode "fast" they need not on a GPU, which does what it does fastest: it times cuDNN's
    algorithms, adds in any order, and multiplies matrices with the 10-bit mantissas of TF32 (those
    of convolutions have them in both modes, as PyTorch does by default).
    """
    is_fast = mode == "fast" and device is not None and device.type == "cuda"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(not is_fast, warn_only=True)
    # Filling uninitialised memory costs time and changes no result.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.backends.cudnn.benchmark = is_fast
    torch.backends.cuda.matmul.allow_tf32 = is_fast
