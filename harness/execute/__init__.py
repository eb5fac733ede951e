"""Where cells run. Every executor runs `harness.train.cell` on a prepared directory."""

from pathlib import Path
from typing import Protocol


class Executor(Protocol):
    """submit, poll, cancel: all the scheduler needs."""

    @property
    def capacity(self) -> int:
        """Cells at once, now."""
        ...

    def warm_up(self) -> None:
        """Begin whatever takes long, while the caller does something else."""
        ...

    def submit(self, directory: Path) -> None:
        """Start training the cell in `directory`."""
        ...

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        """(directory, exit status) of the cells that ended; waits up to `timeout` seconds for one.
        A cell killed by signal N has status -N."""
        ...

    def cancel(self, grace: float = 15.0) -> None:
        """Ask every running cell to stop at its last checkpoint; kill what is left after `grace`
        seconds. Returns when none is running."""
        ...

    def close(self) -> None:
        """End what waits for cells. Nothing can be submitted afterwards."""
        ...
