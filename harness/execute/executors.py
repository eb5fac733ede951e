"""The executors by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import UserError, nearest
from harness.execute import Executor

NAMES = ("local",)


def make_executor(name: str, slots: Sequence[str], version: dict[str, Any]) -> Executor:
    """
    Args:
        name: one of NAMES.
        slots: a device for each cell that trains at once (harness.execute.slots).
        version: of the code, for the cells' manifests (harness.provenance).

    Raises:
        UserError: there is no such executor.
    """
    if name == "local":
        from harness.execute.local import LocalExecutor

        return LocalExecutor(slots, version)
    raise UserError(f"executor: unknown {name!r}{nearest(name, NAMES)}")
