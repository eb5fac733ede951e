"""TensorBoard: event files below the store, one folder per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.track.environment import require_package
from harness.track.mirror import EpochMetrics, Run, Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NO_COLUMNS = ("kind", "fingerprint", "best_on_test")  # tags that HPARAMS does not show


class TensorBoard(Sink):
    """The event files that TensorBoard shows."""

    name = "TensorBoard"
    address = "tensorboard"  # below the store, wherever that moves

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._writers: dict[str, SummaryWriter] = {}

    def check(self) -> None:
        """Raise unless the package is installed.

        Raises:
            UserError: It is not.
        """
        require_package("tensorboard", "--tracker")

    def send(self, run: Run, epochs: Sequence[EpochMetrics]) -> None:
        """Write further epochs to the run's event file."""
        writer = self._writer(run)
        for numbers in epochs:
            write(writer, numbers)
        writer.flush()

    def end(self, run: Run, status: str, results: EpochMetrics | None) -> None:
        """Close the run's event file, after the results of a finished run."""
        writer = self._writer(run)
        if results is not None:
            from torch.utils.tensorboard.summary import hparams

            write(writer, results)
            columns = {name: v for name, v in run.tags.items() if name not in NO_COLUMNS}
            # `SummaryWriter.add_hparams` would write the results once more, without their epoch.
            file: Any = writer.file_writer
            for summary in hparams(columns, dict(results.metrics)):
                file.add_summary(summary, walltime=results.time)
        writer.close()
        del self._writers[run.key]

    def close(self) -> None:
        """Close the event files that are still open."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: Run) -> SummaryWriter:
        if run.key not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            files = list(run.folder.glob("events.*"))
            is_new = not any(file.name.endswith(run.key) for file in files)
            for file in files if is_new else ():  # from a training that this one replaces
                file.unlink()
            writer = SummaryWriter(str(run.folder), filename_suffix=f".{run.key}")
            if is_new:
                rows = [
                    f"| {name} | {value} |" for name, value in {**run.tags, **run.config}.items()
                ]
                text = "\n".join(["| field | value |", "|---|---|", *rows])
                writer.add_text("cell", text, walltime=run.started)
            self._writers[run.key] = writer
        return self._writers[run.key]


def write(writer: SummaryWriter, numbers: EpochMetrics) -> None:
    """Write the numbers of one epoch as scalars."""
    for name, value in numbers.metrics.items():
        writer.add_scalar(name, value, numbers.epoch, walltime=numbers.time)


SINK = TensorBoard
