"""The executors by name."""

from __future__ import annotations

from typing import Any

from harness.errors import UserError, nearest
from harness.execute import Executor

NAMES = ("local",)


def make_executor(name: str, jobs: int, device: str, version: dict[str, Any]) -> Executor:
    """
    Args:
        name: one of NAMES.
        jobs: cells at once, on `device`.
        version: of the code, for the cells' manifests (harness.provenance).

    Raises:
        UserError: there is no such executor.
    """
    if name == "local":
        from harness.execute.local import LocalExecutor

        return LocalExecutor(jobs, device, version)
    raise UserError(f"executor: unknown {name!r}{nearest(name, NAMES)}")
