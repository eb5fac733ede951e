"""A short message, in place of torch's half a page, if the memory does not hold a training."""

from __future__ import annotations

import contextlib

import torch

from harness.cell import Cell
from harness.common.memory import host_memory
from harness.train.device import describe

# In the messages of errors that have no type of their own: of the CPU, of CUDA's libraries, of MPS.
SIGNS = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be allocated."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def memory_line(cell: Cell, image_size: tuple[int, int] | None, device: torch.device) -> str:
    """Return the line about a cell that the device's memory does not hold, with the remedies.

    Call it before the memory is freed. `image_size` is None if the images were not loaded.
    """
    free, total = host_memory()
    with contextlib.suppress(RuntimeError):  # the GPU may not even answer
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
    config, size = cell.config, ""
    if image_size is not None:
        size = f" of {image_size[0]}x{image_size[1]} pixels"
    remedies = ["fewer cells at once (--jobs, --jobs-per-device)", "a smaller optimizer.batch_size"]
    if device.type == "cuda" and config.optimizer.precision == "float32":
        remedies.append("optimizer.precision: bfloat16")
    return (
        f"out of memory on {describe(device)} ({free / 1e9:.1f} of {total / 1e9:.1f} GB free): "
        f"{cell.kind} of {config.network.label}, batches of {config.optimizer.batch_size} images"
        f"{size}, {config.optimizer.precision}; helpful: {' or '.join(remedies)}"
    )
