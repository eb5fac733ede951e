"""The display of `harness run`: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from harness.common.metrics import latest_value, logged_name, metric_name
from harness.execute.scheduler import ENDED, Progress
from harness.store.cell_files import Damaged


def duration(seconds: float) -> str:
    """Return a duration as text: '7 s', '2 min 05 s' or '3 h 20 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Pace:
    """An estimate of the time left, from the epochs of this run.

    Cells of one kind and network are expected to take equally long per epoch; the first cells, the
    teachers, say little about the others.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ended: dict[str, tuple[float, int]] = {}  # cells that ended: seconds, epochs
        self._groups: dict[str, tuple[str, int]] = {}  # cells: kind with network, epochs

    def seconds_left(self) -> float | None:
        """Return the wall time left if as many cells run as now; None before the first epoch."""
        progress = self._progress
        epochs_left: dict[str, int] = {}
        measured: dict[str, tuple[float, int]] = {}  # seconds, epochs
        for fingerprint, cell in progress.plan.cells.items():
            state = progress.state[fingerprint]
            if state in ("failed", "skipped", "paused") or fingerprint in progress.cached_cells:
                continue
            if fingerprint not in self._groups:
                kind = f"{cell.kind} {cell.config.network!r}"
                self._groups[fingerprint] = kind, cell.epochs
            group, epochs = self._groups[fingerprint]
            if state == "done":
                seconds, n = self._measure_ended(fingerprint)
            else:
                seconds, n = 0.0, 0
                if state == "running":
                    journal = progress.watched(fingerprint).journal()
                    seconds, n = journal.seconds, len(journal.epochs)
                epochs_left[group] = epochs_left.get(group, 0) + epochs - n
            before = measured.get(group, (0.0, 0))
            measured[group] = before[0] + seconds, before[1] + n
        total, n_total = (sum(column) for column in zip((0.0, 0), *measured.values(), strict=True))
        if not n_total:
            return None
        mean = total / n_total  # for groups without a finished epoch
        rates = {group: s / n for group, (s, n) in measured.items() if n}
        jobs = max(1, progress.count("running"))
        return sum(n * rates.get(group, mean) for group, n in epochs_left.items()) / jobs

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
    """A table of the running cells; those that ended scroll away above it."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.pace = progress, Pace(progress)
        self.live = Live(self.render(), console=Console(), refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self.live.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self.live.__exit__(*arguments)

    def update(self, fingerprint: str | None) -> None:
        """Print a line about a cell that ended, and redraw the table."""
        if fingerprint is not None:
            self.live.console.print(ended_line(self.progress, fingerprint), highlight=False)
        with contextlib.suppress(OSError, Damaged):  # no reason to stop what trains
            self.live.update(self.render())

    def render(self) -> Group:
        """Return the table, with the counts and the time left below it."""
        progress = self.progress
        name = Column("cell", no_wrap=True, overflow="ellipsis", ratio=1)
        others = [
            Column(head, no_wrap=True) for head in ("epoch", "accuracy", "loss", "img/s", "ETA")
        ]
        table = Table(name, *others, box=None, pad_edge=False, expand=True)
        for fingerprint in progress.cells_in("running"):
            table.add_row(*running_row(progress, fingerprint))
        elapsed, left = time.monotonic() - progress.started, self.pace.seconds_left()
        eta = "" if left is None else f", ETA {duration(left)}"
        states = "done", "running", "waiting", "elsewhere", "failed", "skipped"
        counts = ", ".join(f"{n} {s}" for s in states if (n := progress.count(s)))
        line = f"{progress.plan.experiment.name}: {counts}; {duration(elapsed)}{eta}"
        return Group(table, Text(line, style="bold", no_wrap=True, overflow="ellipsis"))


def running_row(progress: Progress, fingerprint: str) -> list[str]:
    """Return a running cell's row: name, epoch, accuracy, loss, images per second, time left."""
    cell = progress.plan.cells[fingerprint]
    name, total = progress.plan.name_of(fingerprint), cell.epochs
    journal = progress.watched(fingerprint).journal()
    lines = journal.epochs
    if not lines:
        return [name, f"0/{total}", "", "", "", ""]
    main = progress.plan.experiment.protocol.main_metric(cell.metric)
    measured = latest_value(lines, (metric_name("validation", main), metric_name("train", main)))
    accuracy = f"{100 * measured[1]:.2f} % {measured[0].partition('/')[0]}" if measured else ""
    left = (total - len(lines)) * journal.seconds / len(lines)
    return [
        name,
        f"{len(lines)}/{total}",
        accuracy,
        f"{lines[-1]['loss/total']:.4g}",
        f"{lines[-1]['images_per_second']:.0f}",
        duration(left),
    ]


def make_display(progress: Progress, no_bar: bool) -> Display:
    """Return the display for this output."""
    plain = no_bar or not sys.stdout.isatty()
    return PlainDisplay(progress) if plain else LiveDisplay(progress)
