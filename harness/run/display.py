"""The display of `harness run`: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from harness.common.durations import duration
from harness.common.metrics import latest_value, logged_name, metric_name
from harness.execute.scheduler import ENDED, Progress
from harness.store.cell_files import Damaged

# Widths of the running cells' columns, so that they stay where they are.
COLUMNS = {"epoch": 7, "accuracy": 18, "loss": 7, "img/s": 6, "ETA": 11}
NARROW, ESSENTIAL = 70, ("epoch", "ETA")  # the columns of a terminal with fewer signs per line
ENDED_STYLES = {"failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class Epochs:
    """The epochs of a grid, and the time left.

    Attributes:
        trained: Epochs trained, also before this run.
        total: Epochs of all cells that have not failed and were not skipped.
        seconds_left: Wall time left if as many cells run as now; None before the first epoch.
    """

    trained: int
    total: int
    seconds_left: float | None


class Pace:
    """An estimate of the time left, from the epochs of this run.

    Cells of one kind and network are expected to take equally long per epoch; the first cells, the
    teachers, say little about the others.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ended: dict[str, tuple[float, int]] = {}  # cells that ended: seconds, epochs
        self._groups: dict[str, tuple[str, int]] = {}  # cells: kind with network, epochs

    def look(self) -> Epochs:
        """Return the epochs so far, and the time that the others will take."""
        progress = self._progress
        trained = total = 0
        epochs_left: dict[str, int] = {}
        measured: dict[str, tuple[float, int]] = {}  # seconds, epochs
        for fingerprint, cell in progress.plan.cells.items():
            state = progress.state[fingerprint]
            if state in ("failed", "skipped", "paused"):
                continue
            if fingerprint not in self._groups:
                kind = f"{cell.kind} {cell.config.network!r}"
                self._groups[fingerprint] = kind, cell.epochs
            group, epochs = self._groups[fingerprint]
            total += epochs
            if fingerprint in progress.cached_cells:
                trained += epochs
                continue
            if state == "done":
                seconds, n = self._measure_ended(fingerprint)
            else:
                seconds, n = 0.0, 0
                if state == "running":
                    journal = progress.watched(fingerprint).journal()
                    seconds, n = journal.seconds, len(journal.epochs)
                epochs_left[group] = epochs_left.get(group, 0) + epochs - n
            trained += epochs if state == "done" else n
            before = measured.get(group, (0.0, 0))
            measured[group] = before[0] + seconds, before[1] + n
        seconds, n = (sum(column) for column in zip((0.0, 0), *measured.values(), strict=True))
        if not n:
            return Epochs(trained, total, None)
        mean = seconds / n  # for groups without a finished epoch
        rates = {group: s / n for group, (s, n) in measured.items() if n}
        jobs = max(1, progress.count("running"))
        left = sum(n * rates.get(group, mean) for group, n in epochs_left.items()) / jobs
        return Epochs(trained, total, left)

    def _measure_ended(self, fingerprint: str) -> tuple[float, int]:
        if fingerprint not in self._ended:
            manifest = self._progress.directory(fingerprint).manifest
            self._ended[fingerprint] = manifest.seconds, manifest.epochs
        return self._ended[fingerprint]


def ended_line(progress: Progress, fingerprint: str) -> str:
    """Return the line about a cell that ended."""
    n_ended = progress.count(*ENDED)
    name, state = progress.plan.name_of(fingerprint), progress.state[fingerprint]
    head = f"[{n_ended:>3}/{len(progress.plan.cells)}] {name}: "
    if state != "done":
        return f"{head}{state} ({progress.errors.get(fingerprint, 'stopped')})"
    manifest, protocol = progress.directory(fingerprint).manifest, progress.plan.experiment.protocol
    stage = progress.plan.entries_of(fingerprint)[0].stage
    result = protocol.main_metric(progress.plan.cells[fingerprint].metric)
    value = manifest.results.get(result, {}).get(protocol.reported)
    accuracy = "" if value is None else f"{logged_name(stage, result)} {100 * value:.2f} %, "
    return f"{head}{accuracy}{duration(manifest.seconds)}"


class Display(Protocol):
    """A context manager that shows the progress of a run."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None: ...
    def update(self, fingerprint: str | None) -> None:
        """Show that a cell ended or, if None, that some time passed."""
        ...


class PlainDisplay:
    """A display of one line per cell that ended."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, fingerprint: str | None) -> None:
        """Print a line about a cell that ended."""
        if fingerprint is not None:
            print(ended_line(self.progress, fingerprint), flush=True)


class LiveDisplay:
    """A table of the running cells and a bar of the grid; cells that ended scroll away above."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.pace, self.console = progress, Pace(progress), Console()
        self.live = Live(self.render(), console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self.live.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self.live.__exit__(*arguments)

    def update(self, fingerprint: str | None) -> None:
        """Print a line about a cell that ended, and redraw the table."""
        if fingerprint is not None:
            style = ENDED_STYLES.get(self.progress.state[fingerprint], "")
            line = Text(ended_line(self.progress, fingerprint), style)
            self.console.print(line, highlight=False)
        with contextlib.suppress(OSError, Damaged):  # no reason to stop what trains
            self.live.update(self.render())

    def render(self) -> Group:
        """Return the table, with the counts and the time left below it."""
        progress = self.progress
        name = Column("cell", no_wrap=True, overflow="ellipsis", ratio=1)
        is_narrow = self.console.width < NARROW
        widths = {head: n for head, n in COLUMNS.items() if not is_narrow or head in ESSENTIAL}
        others = [Column(head, no_wrap=True, min_width=n) for head, n in widths.items()]
        table = Table(name, *others, box=None, pad_edge=False, expand=True, header_style="dim")
        for fingerprint in progress.cells_in("running"):
            values = running_row(progress, fingerprint)
            table.add_row(values["cell"], *(values[head] for head in widths))
        return Group(table, self._bar(), Text(self._counts(), no_wrap=True, overflow="ellipsis"))

    def _bar(self) -> Table:
        """Return the line with the grid's bar, its epochs and the time left."""
        epochs = self.pace.look()
        left = "" if epochs.seconds_left is None else f"ETA {duration(epochs.seconds_left)}"
        bar = ProgressBar(total=max(1, epochs.total), completed=epochs.trained)
        columns = Column(no_wrap=True), Column(ratio=1), Column(no_wrap=True), Column(no_wrap=True)
        line = Table.grid(*columns, padding=(0, 1))
        line.expand = True
        name = Text(self.progress.plan.experiment.name, style="bold")
        counts = f"{epochs.trained}/{epochs.total} epochs" if epochs.total else ""
        line.add_row(name, bar, counts, Text(left, style="bold"))
        return line

    def _counts(self) -> str:
        """Return how many cells are in each state, and the time so far."""
        progress = self.progress
        states = "done", "running", "waiting", "elsewhere", "failed", "skipped"
        counts = [f"{n} {state}" for state in states if (n := progress.count(state))]
        elapsed = duration(time.monotonic() - progress.started)
        return f"{len(progress.plan.cells)} cells: {', '.join(counts)}; {elapsed}" if counts else ""


def running_row(progress: Progress, fingerprint: str) -> dict[str, str]:
    """Return a running cell's row, by the heads of its columns."""
    cell = progress.plan.cells[fingerprint]
    name, total = progress.plan.name_of(fingerprint), cell.epochs
    journal = progress.watched(fingerprint).journal()
    lines = journal.epochs
    row = dict.fromkeys(COLUMNS, "") | {"cell": name, "epoch": f"{len(lines)}/{total}"}
    if not lines:
        return row
    main = progress.plan.experiment.protocol.main_metric(cell.metric)
    measured = latest_value(lines, (metric_name("validation", main), metric_name("train", main)))
    if measured:
        row["accuracy"] = f"{100 * measured[1]:.2f} % {measured[0].partition('/')[0]}"
    return row | {
        "loss": f"{lines[-1]['loss/total']:.4g}",
        "img/s": f"{lines[-1]['images_per_second']:.0f}",
        "ETA": duration((total - len(lines)) * journal.seconds / len(lines)),
    }


def make_display(progress: Progress, no_bar: bool) -> Display:
    """Return the display for this output."""
    plain = no_bar or not sys.stdout.isatty()
    return PlainDisplay(progress) if plain else LiveDisplay(progress)
