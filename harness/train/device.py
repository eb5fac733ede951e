"""Choosing and describing the device."""

import os
import platform
import re
from collections.abc import Sequence

import torch

from harness.common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' -> a device that is there. 'cpu:N' is the CPU, too:
    in a list of devices it stands in for a GPU.

    Raises:
        UserError: unknown name, or a device this machine does not have.
    """
    if not re.fullmatch(r"auto|mps|(cpu|cuda)(:(0|[1-9][0-9]*))?", name):
        raise UserError(f"--device: unknown {name!r}; allowed: auto, cpu, cuda, cuda:N, mps")
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    n_gpus = torch.cuda.device_count() if name.startswith("cuda") else 0
    if name.startswith("cuda") and (n_gpus == 0 or int(name.partition(":")[2] or 0) >= n_gpus):
        raise UserError(f"--device: {name} is not here ({n_gpus} CUDA devices); use cpu or auto")
    if name == "mps" and not mps:
        raise UserError("--device: mps is not here; use cpu or auto")
    return torch.device("cpu" if name.startswith("cpu") else name)


def use(device: torch.device) -> None:
    """What names no device, as pinned memory, is of this GPU from now on in this process: else it
    would take memory of the first one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def describe(device: torch.device) -> str:
    """As the tables name it: 'cpu (x86_64)' or 'NVIDIA H100 80GB HBM3'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def describe_all(names: Sequence[str]) -> str:
    """Of one device `describe`; of several their names, too: 'NVIDIA L4 (cuda:0, cuda:1)'."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        found.setdefault(describe(resolve_device(name)), []).append(name)
    if len(set(names)) == 1:
        return next(iter(found))
    return " and ".join(f"{what} ({', '.join(each)})" for what, each in found.items())


def be_deterministic() -> None:
    """The same seed gives the same bits on one device and thread count."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling uninitialised memory costs time and changes no result.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.backends.cudnn.benchmark = False
