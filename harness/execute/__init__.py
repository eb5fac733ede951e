"""Where cells run. Every executor runs `harness.train.cell` on a prepared directory.

- `scheduler`: decides which cells may run, in the order of their dependencies; it knows no
  executor.
- `local`: worker processes on this machine, forked from a server that has imported the modules of
  `preload`; `slots`: how many cells train at once, and on which devices.
- `child`: a function in such a process, for what must not stay in this one.
- `ray`: cells as tasks of a Ray cluster.
- `executors`: the executors by name; another executor is added there.
"""

from pathlib import Path
from typing import Protocol


class Executor(Protocol):
    """The interface that the scheduler needs."""

    @property
    def capacity(self) -> int:
        """The number of cells that can run at once, now."""
        ...

    def warm_up(self, n: int) -> None:
        """Start slow preparations for `n` cells while the caller does something else."""
        ...

    def submit(self, directory: Path) -> None:
        """Start training the cell in `directory`."""
        ...

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        """Wait up to `timeout` seconds for a cell to end.

        Returns:
            (directory, exit status) of each cell that ended. The status of a cell killed by
            signal N is -N.
        """
        ...

    def cancel(self, grace: float = 15.0) -> None:
        """Stop every running cell, and return when none is left.

        Cells are asked to stop at their last checkpoint, and killed after `grace` seconds.
        """
        ...

    def close(self) -> None:
        """Release processes and connections. Nothing can be submitted afterwards."""
        ...
