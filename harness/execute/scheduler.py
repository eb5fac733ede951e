"""The scheduler: runs a plan's cells in order of their dependencies, on any executor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.execute import BUSY, DONE, STOPPED, Executor
from harness.plan import Plan
from harness.store import CellDir, Store


@dataclass
class Progress:
    """What a display needs; updated in place by `run`.

    state: fingerprint -> done, running, elsewhere (another `harness run` trains it), waiting (for
        an upstream cell or a free place), paused (on purpose, by `harness tune`), failed, or
        skipped (an upstream cell failed).
    cached_cells: done before this run.
    errors: fingerprint -> one line.
    """

    plan: Plan
    store: Store
    state: dict[str, str]
    cached_cells: frozenset[str]
    started: float = field(default_factory=time.monotonic)
    errors: dict[str, str] = field(default_factory=dict)

    def count(self, state: str) -> int:
        return sum(s == state for s in self.state.values())

    def directory(self, fingerprint: str) -> CellDir:
        return self.store.directory(fingerprint)


class OutOfTime(Exception):
    """`--max-time` is over; a later call goes on."""


def begin(plan: Plan, store: Store) -> Progress:
    """Look at the store, and check every file that the coming cells will start from.

    Raises:
        UserError: a checkpoint that a cell would go on from, or start from, is broken.
    """
    state = {f: _at_rest(store.directory(f)) or "waiting" for f in plan.cells}
    registered = plan.experiment.teacher_source  # `harness run` has fetched it by now
    imported = plan.imported_teacher()
    if imported and state[imported[0]] != "done" and not registered:
        raise UserError(
            f"teacher_checkpoint: {imported[1].spec['checkpoint'][:12]}... is not in {store.root}; "
            "`harness import-checkpoint FILE EXPERIMENT` puts it there"
        )
    sources = set()
    for fingerprint, cell in plan.cells.items():
        if state[fingerprint] != "done":
            store.directory(fingerprint).read_checkpoint()
            sources |= {f for f in cell.upstream.values() if state[f] == "done"}
    for fingerprint in sources:
        store.directory(fingerprint).check_model()
    return Progress(plan, store, state, frozenset(f for f, s in state.items() if s == "done"))


def run(
    progress: Progress,
    executor: Executor,
    options: dict[str, Any] | None = None,
    max_seconds: float | None = None,
    on_change: Callable[[str | None], None] = lambda _: None,
    interval: float = 0.5,
) -> None:
    """Run until every cell is done, failed or skipped. One failure stops its children only.

    Args:
        options: of every cell's training (`Store.prepare`).
        on_change: called with the fingerprint of each cell that ended, and with None between.

    Raises:
        OutOfTime: after `max_seconds`, with all cells stopped at their last checkpoint.
        KeyboardInterrupt: passed on, with all cells stopped likewise.
    """
    plan, store, state = progress.plan, progress.store, progress.state
    by_path = {store.directory(f).path: f for f in plan.cells}
    deadline = None if max_seconds is None else progress.started + max_seconds
    try:
        while any(s in ("waiting", "running", "elsewhere") for s in state.values()):
            if deadline is not None and time.monotonic() >= deadline:
                raise OutOfTime
            _look_elsewhere(progress)
            for fingerprint in _ready(progress)[: executor.capacity - progress.count("running")]:
                executor.submit(store.prepare(plan.cells[fingerprint], options).path)
                state[fingerprint] = "running"
            wait = interval if deadline is None else min(interval, deadline - time.monotonic())
            for path, status in executor.poll(max(0.0, wait)):
                fingerprint = by_path[path]
                state[fingerprint] = _outcome(progress, path, fingerprint, status)
                on_change(fingerprint)
            on_change(None)
    finally:
        executor.cancel()
        for fingerprint, s in state.items():
            if s in ("running", "elsewhere"):
                state[fingerprint] = "done" if store.directory(fingerprint).is_done else "waiting"


def _ready(progress: Progress) -> list[str]:
    """Waiting cells whose upstream cells are done; children of failed ones become skipped."""
    ready = []
    for fingerprint, cell in progress.plan.cells.items():
        if progress.state[fingerprint] != "waiting":
            continue
        upstream = [progress.state[f] for f in cell.upstream.values()]
        if any(s in ("failed", "skipped") for s in upstream):
            progress.state[fingerprint] = "skipped"
        elif all(s == "done" for s in upstream):
            ready.append(fingerprint)
    return ready


def _look_elsewhere(progress: Progress) -> None:
    """Cells that another `harness run` trains: done when it is, ours again if it gave up."""
    for fingerprint, state in progress.state.items():
        if state == "elsewhere":
            directory = progress.directory(fingerprint)
            if directory.is_done:
                progress.state[fingerprint] = "done"
            elif not directory.is_leased:
                progress.state[fingerprint] = "waiting"


def _at_rest(directory: CellDir) -> str | None:
    if directory.is_done:
        return "done"
    return "paused" if directory.is_paused else None


def _outcome(progress: Progress, path: Path, fingerprint: str, status: int) -> str:
    directory = CellDir(path)
    if status == DONE and directory.is_done:
        return "done"
    if status == BUSY:
        return "elsewhere"
    if status == STOPPED:  # asked to stop by somebody else: it goes on in its turn
        return _at_rest(directory) or "waiting"
    failures = [e["error"] for e in directory.events() if e["event"] == "failed"]
    killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    reason = failures[-1] if failures and status > 0 else killed
    progress.errors[fingerprint] = f"{reason}; see {path / 'log.txt'}"
    return "failed"
