"""TensorBoard: event files below the store, a folder a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.track.mirrors.mirror import Line, Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NO_COLUMNS = ("kind", "fingerprint", "best_on_test")  # of its page HPARAMS


class TensorBoard:
    """A `Sink`."""

    name = "TensorBoard"

    def __init__(self, root: Path) -> None:
        self.address = "tensorboard"  # with the store, wherever that moves
        self._writers: dict[str, SummaryWriter] = {}

    def check(self) -> None:
        pass

    def send(self, run: Run, lines: Sequence[Line]) -> None:
        writer = self._writer(run)
        for line in lines:
            write(writer, line)
        writer.flush()

    def end(self, run: Run, status: str, results: Line | None) -> None:
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
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: Run) -> SummaryWriter:
        if run.key not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            files = list(run.folder.glob("events.*"))
            is_new = not any(file.name.endswith(run.key) for file in files)
            for file in files if is_new else ():  # of a training that this one replaces
                file.unlink()
            writer = SummaryWriter(str(run.folder), filename_suffix=f".{run.key}")
            if is_new:
                rows = [f"| {name} | {value} |" for name, value in {**run.tags, **run.spec}.items()]
                text = "\n".join(["| field | value |", "|---|---|", *rows])
                writer.add_text("cell", text, walltime=run.started)
            self._writers[run.key] = writer
        return self._writers[run.key]


def write(writer: SummaryWriter, line: Line) -> None:
    for name, value in line.metrics.items():
        writer.add_scalar(name, value, line.epoch, walltime=line.time)


def sink(root: Path) -> TensorBoard:
    """root: of the store."""
    return TensorBoard(root)
