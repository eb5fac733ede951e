"""The scheduler, which runs a plan's cells in the order of their dependencies on any executor."""

from __future__ import annotations

import contextlib
import heapq
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from harness.common.errors import UserError
from harness.common.files import check_room
from harness.common.os_errors import describe_os_error
from harness.execute import Executor
from harness.plan import Plan, chain_lengths
from harness.store import CellDir, Store
from harness.store.cell_files import Damaged
from harness.store.cells import WatchedCell
from harness.store.manifest import CellOptions
from harness.train.exit_status import BUSY, DONE, STOPPED

ENDED = ("done", "failed", "skipped")

# Cells run in the plan's order, seed after seed: whole seeds are done early, and the cells of one
# teacher use its cached outputs at about the same time. That alone would leave the chains of the
# last seeds (teacher, stage 1, stage 2) to the end, when most jobs would have to wait. So once no
# more cells are left than this many of the longest chains have per job, the cells with the longest
# chain behind them go first.
LAST_CHAINS = 3


class Progress:
    """The states of a plan's cells; updated in place by `run`.

    Attributes:
        state: fingerprint -> done, running, elsewhere (another `harness run` trains it), waiting
            (for an upstream cell or a free job), paused (on purpose, by `harness tune`), failed, or
            skipped (an upstream cell failed). In the plan's order.
        cached_cells: Fingerprints of the cells that were done before this run.
        errors: fingerprint -> one line.
        order: fingerprint -> position in the plan's order, from 0.
        started: Start of the run, as time.monotonic().
    """

    def __init__(self, plan: Plan, store: Store, state: Mapping[str, str]) -> None:
        self.plan, self.store = plan, store
        self.started = time.monotonic()
        self.errors: dict[str, str] = {}
        self._state = dict(state)
        self.order = {f: i for i, f in enumerate(self._state)}
        # A grid may have thousands of cells, so the cells of each state are not searched anew at
        # every step.
        self._cells_in: dict[str, set[str]] = {}
        for fingerprint, cell_state in self._state.items():
            self._cells_in.setdefault(cell_state, set()).add(fingerprint)
        self.cached_cells = frozenset(self._cells_in.get("done", ()))
        self._watched: dict[str, WatchedCell] = {}

    @property
    def state(self) -> Mapping[str, str]:
        """The state of each cell; `move` changes it."""
        return MappingProxyType(self._state)

    def move(self, fingerprint: str, state: str) -> None:
        """Record that a cell is in another state now."""
        self._cells_in[self._state[fingerprint]].discard(fingerprint)
        self._cells_in.setdefault(state, set()).add(fingerprint)
        self._state[fingerprint] = state
        self._watched.pop(fingerprint, None)

    def count(self, *states: str) -> int:
        """Return the number of cells in these states."""
        return sum(len(self._cells_in.get(state, ())) for state in states)

    def cells_in(self, *states: str) -> list[str]:
        """Return the fingerprints of the cells in these states, in the plan's order."""
        fingerprints = [f for state in states for f in self._cells_in.get(state, ())]
        return sorted(fingerprints, key=self.order.__getitem__)

    def add(self, other: Progress) -> list[str]:
        """Append the cells of another plan, and return the fingerprints of those that are new."""
        new = [f for f in other.state if f not in self._state]
        cells, entries = self.plan.cells | other.plan.cells, self.plan.entries + other.plan.entries
        self.plan = Plan(self.plan.experiment, cells, tuple(dict.fromkeys(entries)))
        for fingerprint in new:
            self._state[fingerprint] = state = other.state[fingerprint]
            self.order[fingerprint] = len(self.order)
            self._cells_in.setdefault(state, set()).add(fingerprint)
        self.cached_cells |= other.cached_cells.intersection(new)
        return new

    def directory(self, fingerprint: str) -> CellDir:
        """Return the directory of a cell."""
        return self.store.directory(fingerprint)

    def watched(self, fingerprint: str) -> WatchedCell:
        """Return the directory of a running cell, of whose journal each look reads what is new."""
        if fingerprint not in self._watched:
            self._watched[fingerprint] = self.store.watch(fingerprint)
        return self._watched[fingerprint]


class OutOfTime(Exception):
    """The time given by `--max-time` is over; the next call resumes."""


def begin(plan: Plan, store: Store) -> Progress:
    """Return the states of the cells in the store.

    Every file from which a cell will resume or start is checked.

    Raises:
        UserError: One of these files is broken.
    """
    state = {f: _at_rest(store.directory(f)) or "waiting" for f in plan.cells}
    registered = plan.experiment.teacher_source  # `harness run` has fetched it by now
    for fingerprint, cell in plan.imported_teachers.items():
        if state[fingerprint] != "done" and not registered:
            raise UserError(
                f"teacher_checkpoint: {str(cell.config.checkpoint)[:12]}... is not in "
                f"{store.root}; `harness import-checkpoint FILE EXPERIMENT` puts it there"
            )
    sources = set()
    for fingerprint, cell in plan.cells.items():
        if state[fingerprint] != "done":
            store.directory(fingerprint).read_checkpoint()
            sources |= {f for f in cell.upstream.values() if state[f] == "done"}
    for fingerprint in sources:
        store.directory(fingerprint).check_model()
    return Progress(plan, store, state)


def run(
    progress: Progress,
    executor: Executor,
    options: CellOptions | None = None,
    max_seconds: float | None = None,
    on_change: Callable[[str | None], None] = lambda _: None,
    interval: float = 0.5,
    more: Callable[[], list[Progress]] = list,
) -> None:
    """Run cells until each is done, paused, failed or skipped.

    A failure stops only the cells that depend on the one that failed. `on_change` is called with
    the fingerprint of each cell that ended, and with None in between; `more` is called at every
    step for new cells, and for paused ones that resume. `options`: see `Store.prepare`.

    Raises:
        OutOfTime: `max_seconds` are over; all cells are stopped at their last checkpoint.
        KeyboardInterrupt: Passed on after all cells are stopped likewise.
    """
    queue = _Queue(progress)
    deadline = None if max_seconds is None else progress.started + max_seconds
    updated = -math.inf
    try:
        while True:
            if parts := more():
                for part in parts:
                    queue.add(part)
                continue
            if _is_over(progress):
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise OutOfTime
            # This reads files of each such cell, and another command may have hundreds of them.
            if progress.count("elsewhere") and time.monotonic() >= updated + interval:
                _update_elsewhere(progress, queue)
                updated = time.monotonic()
            for fingerprint in queue.take(executor.capacity):
                state = _start(progress, fingerprint, executor, options)
                queue.move(fingerprint, state)
                if state == "failed":
                    on_change(fingerprint)
            wait = interval if deadline is None else min(interval, deadline - time.monotonic())
            if _is_over(progress):  # what was left is skipped now
                wait = 0.0
            for path, status in executor.poll(max(0.0, wait)):
                fingerprint = queue.fingerprints[path]
                queue.move(fingerprint, _end(progress, fingerprint, status))
                on_change(fingerprint)
            on_change(None)
    finally:
        executor.cancel()
        for fingerprint in progress.cells_in("running", "elsewhere"):
            done = False
            with contextlib.suppress(OSError, Damaged):  # what ends the run says more
                done = progress.directory(fingerprint).is_done
            progress.move(fingerprint, "done" if done else "waiting")


def _is_over(progress: Progress) -> bool:
    return not progress.count("waiting", "running", "elsewhere")


class _Queue:
    """The waiting cells whose upstream cells are done.

    They are in the plan's order; the last ones are ordered by the chains that wait for them
    (`LAST_CHAINS`). Children of failed cells become skipped. Each step visits only the cells that
    have moved and their children, so every move has to be made here.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.fingerprints: dict[Path, str] = {}
        self._children: dict[str, list[str]] = {}
        self._n_missing: dict[str, int] = {}  # upstream cells that are not done
        self._ready: list[tuple[float, int, str]] = []  # a heap of `_rank`
        self._moved: set[str] = set()
        self._by_chain = False
        self._measure()
        for fingerprint in progress.plan.cells:  # upstream cells come first
            self._enter(fingerprint)

    def _measure(self) -> None:
        """Measure the longest chain that starts at each cell, and the longest of all, in cells."""
        cells = self._progress.plan.cells
        self._chain = chain_lengths(cells, dict.fromkeys(cells, 1))
        self._longest = max(self._chain.values(), default=0)

    def _enter(self, fingerprint: str) -> None:
        self.fingerprints[self._progress.directory(fingerprint).path] = fingerprint
        self._children[fingerprint] = []
        upstream = self._progress.plan.cells[fingerprint].upstream.values()
        for f in upstream:
            self._children[f].append(fingerprint)
        states = {f: self._progress.state[f] for f in upstream}
        self._n_missing[fingerprint] = sum(s != "done" for s in states.values())
        self._moved |= {f for f, state in states.items() if state in ("failed", "skipped")}
        self._add_if_ready(fingerprint)

    def add(self, part: Progress) -> None:
        """Add new cells, and resume paused ones that wait in `part`."""
        self._follow_moves()  # otherwise a new cell would count moves made before it was added
        new = self._progress.add(part)
        if new:
            self._measure()
        for fingerprint in new:
            self._enter(fingerprint)
        for fingerprint in part.cells_in("waiting"):
            if self._progress.state[fingerprint] == "paused":
                self.move(fingerprint, "waiting")

    def move(self, fingerprint: str, state: str) -> None:
        """Put a cell into another state."""
        self._progress.move(fingerprint, state)
        self._moved.add(fingerprint)

    def take(self, capacity: int) -> list[str]:
        """Remove and return the next cells to run, as many as `capacity` leaves room for.

        The caller moves them.
        """
        self._follow_moves()
        last = LAST_CHAINS * self._longest * capacity
        if capacity > 1 and not self._by_chain and self._progress.count("waiting") <= last:
            self._by_chain = True
            self._ready = sorted(self._rank(fingerprint) for *_, fingerprint in self._ready)
        n = min(capacity - self._progress.count("running"), len(self._ready))
        return [heapq.heappop(self._ready)[-1] for _ in range(n)]

    def _rank(self, fingerprint: str) -> tuple[float, int, str]:
        """Return the sort key of a cell; the smallest is the first to run."""
        behind = self._chain[fingerprint] if self._by_chain else 0
        return -behind, self._progress.order[fingerprint], fingerprint

    def _follow_moves(self) -> None:
        while self._moved:
            fingerprint = self._moved.pop()
            state = self._progress.state[fingerprint]
            if state == "waiting":
                self._add_if_ready(fingerprint)
            for child in self._children[fingerprint] if state in ENDED else ():
                if state == "done":
                    self._n_missing[child] -= 1
                    self._add_if_ready(child)
                elif self._progress.state[child] == "waiting":
                    self.move(child, "skipped")

    def _add_if_ready(self, fingerprint: str) -> None:
        if self._progress.state[fingerprint] == "waiting" and not self._n_missing[fingerprint]:
            heapq.heappush(self._ready, self._rank(fingerprint))


def _update_elsewhere(progress: Progress, queue: _Queue) -> None:
    """Move the cells that another `harness run` trains: done if it is, waiting if it gave up."""
    for fingerprint in progress.cells_in("elsewhere"):
        directory = progress.directory(fingerprint)
        try:
            if directory.is_done:
                queue.move(fingerprint, "done")
            elif not directory.is_leased:
                queue.move(fingerprint, "waiting")
        except (OSError, Damaged) as error:
            queue.move(fingerprint, _fail(progress, fingerprint, error))


def _at_rest(directory: CellDir) -> str | None:
    if directory.is_done:
        return "done"
    return "paused" if directory.is_paused else None


def _start(
    progress: Progress, fingerprint: str, executor: Executor, options: CellOptions | None
) -> str:
    """Start a cell, and return its state: running, or failed if its files cannot be used."""
    try:
        directory = progress.store.prepare(progress.plan.cells[fingerprint], options)
        executor.submit(directory.path)
    except (OSError, Damaged) as error:
        return _fail(progress, fingerprint, error)
    return "running"


def _fail(progress: Progress, fingerprint: str, error: OSError | Damaged) -> str:
    """Record that the files of a cell cannot be used, as on a full disk; the other cells go on."""
    path = progress.directory(fingerprint).path
    what = describe_os_error(error, path) if isinstance(error, OSError) else str(error)
    progress.errors[fingerprint] = what
    return "failed"


def _end(progress: Progress, fingerprint: str, status: int) -> str:
    """Return the state of a cell whose process ended with this exit status."""
    try:
        return _outcome(progress, fingerprint, status)
    except (OSError, Damaged) as error:
        return _fail(progress, fingerprint, error)


def _outcome(progress: Progress, fingerprint: str, status: int) -> str:
    directory = progress.directory(fingerprint)
    if status == DONE and directory.is_done:
        return "done"
    if status == BUSY:
        return "elsewhere"
    if status == STOPPED:  # by somebody else: it resumes in its turn
        return _at_rest(directory) or "waiting"
    failures = [e["error"] for e in directory.events() if e["event"] == "failed"]
    if not failures and status > 0:  # perhaps because the reason could not be written
        check_room(directory.path)
    killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    reason = failures[-1] if failures and status > 0 else killed
    log = directory / "log.txt"  # a worker that dies at once leaves none
    progress.errors[fingerprint] = f"{reason}; see {log}" if log.exists() else reason
    return "failed"
