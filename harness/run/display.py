"""What `harness run` shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

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


def duration(seconds: float) -> str:
    """'7 s', '2 min 05 s' or '3 h 20 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Pace:
    """How long the cells that are left will take, by what an epoch of their kind and network took
    so far, in this run: cells differ, and the first ones are teachers."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seen: dict[str, tuple[float, int]] = {}  # of cells that ended: seconds, epochs
        self._kinds: dict[str, tuple[str, int]] = {}  # of cells: kind with network, epochs

    def seconds_left(self) -> float | None:
        """Of wall time, if as many cells run as now; None before anything is known."""
        progress = self._progress
        left: dict[str, int] = {}
        known: dict[str, tuple[float, int]] = {}
        for fingerprint, cell in progress.plan.cells.items():
            state = progress.state[fingerprint]
            if state in ("failed", "skipped", "paused") or fingerprint in progress.cached_cells:
                continue
            if fingerprint not in self._kinds:
                kind = f"{cell.kind} {cell.config.network!r}"
                self._kinds[fingerprint] = kind, cell.epochs
            group, epochs = self._kinds[fingerprint]
            if state == "done":
                seconds, n = self._ended(fingerprint)
            else:
                lines = progress.directory(fingerprint).epochs() if state == "running" else []
                seconds, n = sum(line["seconds"] for line in lines), len(lines)
                left[group] = left.get(group, 0) + epochs - n
            before = known.get(group, (0.0, 0))
            known[group] = before[0] + seconds, before[1] + n
        total, n_known = (sum(column) for column in zip((0.0, 0), *known.values(), strict=True))
        if not n_known:
            return None
        mean = total / n_known  # of what nothing is known of
        rates = {group: s / n for group, (s, n) in known.items() if n}
        jobs = max(1, progress.count("running"))
        return sum(n * rates.get(group, mean) for group, n in left.items()) / jobs

    def _ended(self, fingerprint: str) -> tuple[float, int]:
        if fingerprint not in self._seen:
            manifest = self._progress.directory(fingerprint).manifest
            self._seen[fingerprint] = manifest["seconds"], manifest["epochs"]
        return self._seen[fingerprint]


def ended_line(progress: Progress, fingerprint: str) -> str:
    """One line about a cell that ended."""
    over = progress.count(*ENDED)
    name, state = progress.plan.name_of(fingerprint), progress.state[fingerprint]
    head = f"[{over:>3}/{len(progress.plan.cells)}] {name}: "
    if state != "done":
        return f"{head}{state} ({progress.errors.get(fingerprint, 'stopped')})"
    manifest, protocol = progress.directory(fingerprint).manifest, progress.plan.experiment.protocol
    stage = progress.plan.entries_of(fingerprint)[0].stage
    result = protocol.main_metric(progress.plan.cells[fingerprint].metric)
    value = manifest["results"].get(result, {}).get(protocol.reported)
    shown = "" if value is None else f"{logged_name(stage, result)} {100 * value:.2f} %, "
    return f"{head}{shown}{duration(manifest['seconds'])}"


class Display(Protocol):
    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None: ...
    def update(self, fingerprint: str | None) -> None:
        """A cell ended, or (None) some time passed."""
        ...


class PlainDisplay:
    """One line for each cell that ended."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, fingerprint: str | None) -> None:
        if fingerprint is not None:
            print(ended_line(self.progress, fingerprint), flush=True)


class LiveDisplay:
    """Running cells with epoch, metric and time left; ended ones scroll away above."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.pace = progress, Pace(progress)
        self.live = Live(self.render(), console=Console(), refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self.live.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self.live.__exit__(*arguments)

    def update(self, fingerprint: str | None) -> None:
        if fingerprint is not None:
            self.live.console.print(ended_line(self.progress, fingerprint), highlight=False)
        self.live.update(self.render())

    def render(self) -> Group:
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
    cell = progress.plan.cells[fingerprint]
    name, total = progress.plan.name_of(fingerprint), cell.epochs
    lines = progress.directory(fingerprint).epochs()
    if not lines:
        return [name, f"0/{total}", "", "", "", ""]
    main = progress.plan.experiment.protocol.main_metric(cell.metric)
    measured = latest_value(lines, (metric_name("validation", main), metric_name("train", main)))
    accuracy = f"{100 * measured[1]:.2f} % {measured[0].partition('/')[0]}" if measured else ""
    left = (total - len(lines)) * sum(line["seconds"] for line in lines) / len(lines)
    return [
        name,
        f"{len(lines)}/{total}",
        accuracy,
        f"{lines[-1]['loss/total']:.4g}",
        f"{lines[-1]['images_per_second']:.0f}",
        duration(left),
    ]


def make_display(progress: Progress, no_bar: bool) -> Display:
    plain = no_bar or not sys.stdout.isatty()
    return PlainDisplay(progress) if plain else LiveDisplay(progress)
