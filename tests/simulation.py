"""A cluster on a simulated clock: what happens to each cell is drawn before, and nothing trains.

The plan, the scheduler and the store are the real ones. In place of workers there is a list of what
ends when; `Cluster` is the scheduler's executor, and holds it to its promises at every call.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import some_manifest
from test_plan import DATA

from harness.execute import scheduler
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.experiment.file import read
from harness.plan import Plan, chain_lengths, make_plan
from harness.store import CellDir, Store
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "digits_all_images.yaml"
INTERVAL = 0.5  # seconds at most between two looks of the scheduler, as it has them
CRASHED = -9
# Seconds of a cell, about: the teacher is the widest network, and those that have one ask it.
SECONDS = {"supervised": 60.0, "kd": 90.0, "stage1": 100.0, "stage2": 90.0}


def plan_of_seeds(n: int) -> Plan:
    """24 cells a seed: a teacher that is a plain student too, three more of these, four with KD,
    and two methods with a stage 1 and a stage 2 for each of four students."""
    return make_plan(read(EXPERIMENT).model_copy(update={"seeds": tuple(range(n))}), DATA)


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory where that can be."""
    shared = "/dev/shm"
    there = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=there) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Odds:
    """Probabilities of what may happen to a cell or to one of its starts.

    A cell may fail for good, be killed or take ten times as long. A start may be lost with its
    worker, or find another command at work on the cell."""

    failed: float = 0.0
    crashed: float = 0.0
    lost: float = 0.0
    elsewhere: float = 0.0
    straggler: float = 0.0
    spread: float = 0.1  # standard deviation of the logarithm of its seconds


@dataclass(frozen=True)
class Attempt:
    """One start of a cell: seconds until its process ends, and the status. When it is BUSY another
    command has it for `elsewhere` seconds, and `finishes` it or gives up."""

    seconds: float
    status: int
    elsewhere: float = 0.0
    finishes: bool = False


def draw(plan: Plan, fingerprint: str, seed: int, odds: Odds) -> list[Attempt]:
    """Return what happens to a cell at each of its starts, whenever they are."""
    rng = random.Random(f"{seed} {fingerprint}")
    left = SECONDS[plan.cells[fingerprint].kind] * rng.lognormvariate(0, odds.spread)
    if rng.random() < odds.straggler:
        left *= 10
    attempts = []
    while rng.random() < odds.lost:
        gone = rng.uniform(0, left)
        attempts.append(Attempt(gone, STOPPED))
        left -= gone * rng.random()  # what its last checkpoint had
    if rng.random() < odds.elsewhere:
        finishes = rng.random() < 0.5
        attempts.append(Attempt(1.0, BUSY, rng.uniform(0, 2 * left), finishes))
        if finishes:
            return attempts
    if rng.random() < odds.failed:
        return [*attempts, Attempt(rng.uniform(0, left), FAILED)]
    if rng.random() < odds.crashed:
        return [*attempts, Attempt(rng.uniform(0, left), CRASHED)]
    return [*attempts, Attempt(left, DONE)]


class LightStore(Store):
    """Writes no descriptions, which nobody reads here, and one manifest for all. Which cells are
    done, which are leased, and what their journals say is asked as ever."""

    def create(self) -> None:
        super().create()
        (self.root / "manifest.json").write_text(json.dumps(some_manifest().as_json()))

    def prepare(self, cell: Any, options: dict[str, Any] | None = None) -> CellDir:
        directory = self.directory(cell.fingerprint)
        directory.path.mkdir(exist_ok=True)
        return directory


def finish(store: Store, directory: CellDir) -> None:
    """As a training leaves a cell that is done."""
    if isinstance(store, LightStore):
        os.link(store.root / "manifest.json", directory / "manifest.json")
        return
    (directory / "model.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    directory.finish(some_manifest(model_sha256=digest))


@dataclass(order=True)
class Event:
    """The end of an attempt: here, or of another command's work on the cell."""

    time: float
    number: int
    fingerprint: str
    attempt: Attempt
    started: float
    elsewhere: bool = False


class Cluster:
    """The executor. `now` is the simulated time; whoever asks gets no time for free.

    busy: worker seconds. seconds: of each cell, all its attempts here and elsewhere.
    ended: fingerprint -> done or failed, as it is and whether or not the scheduler knows yet.
    """

    def __init__(self, plan: Plan, store: Store, capacity: int, seed: int, odds: Odds) -> None:
        self.plan, self.store, self.capacity = plan, store, capacity
        self.seed, self.odds = seed, odds
        self.now = self._last = 0.0  # the last time at which something ended
        self.busy = 0.0
        self.seconds: dict[str, float] = dict.fromkeys(plan.cells, 0.0)
        self.starts: dict[str, int] = dict.fromkeys(plan.cells, 0)
        self.order: list[str] = []  # of the starts
        self.ended: dict[str, str] = {}
        self.running: set[str] = set()
        self.most_at_once = 0
        self._fingerprints = {store.directory(f).path: f for f in plan.cells}
        self._children: dict[str, list[str]] = {f: [] for f in plan.cells}
        for fingerprint, cell in plan.cells.items():
            for upstream in cell.upstream.values():
                self._children[upstream].append(fingerprint)
        self._missing = {f: len(cell.upstream) for f, cell in plan.cells.items()}
        # Cells that may start, and the time at which they must have if a place is free.
        self._ready = {f: 0.0 for f, n in self._missing.items() if not n}
        self._left: dict[str, list[Attempt]] = {}
        self._events: list[Event] = []
        self._number = itertools.count()
        self._leases: dict[str, contextlib.ExitStack] = {}

    def attempts(self, fingerprint: str) -> list[Attempt]:
        """Those that are left."""
        if fingerprint not in self._left:
            self._left[fingerprint] = draw(self.plan, fingerprint, self.seed, self.odds)
        return self._left[fingerprint]

    # -- the executor's part

    def warm_up(self, n: int) -> None: ...

    def close(self) -> None: ...

    def submit(self, directory: Path) -> None:
        fingerprint = self._fingerprints[directory]
        # Not while it runs here or elsewhere, not when it has ended, not before its upstream cells.
        assert fingerprint in self._ready, f"{self.plan.name_of(fingerprint)} may not start"
        assert len(self.running) < self.capacity, "more cells than places"
        del self._ready[fingerprint]
        self.running.add(fingerprint)
        self.most_at_once = max(self.most_at_once, len(self.running))
        self.starts[fingerprint] += 1
        self.order.append(fingerprint)
        attempt = self.attempts(fingerprint).pop(0)
        self._push(self.now + attempt.seconds, fingerprint, attempt)

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        """Time passes until something ends, or until the timeout."""
        if len(self.running) < self.capacity:
            idle = [f for f, time in self._ready.items() if time <= self.now]
            assert not idle, f"places are free at {self.now}, and {len(idle)} cells may start"
        forgotten = not self._events and self.now > self._last + 2 * INTERVAL
        assert not forgotten, "the scheduler waits, and there is nothing that it could wait for"
        until, found = self.now + timeout, []
        while self._events and self._events[0].time <= until:
            event = heapq.heappop(self._events)
            self.now = self._last = event.time
            if event.elsewhere:
                self._end_elsewhere(event)
            else:
                found.append(self._end(event))
                until = self.now  # and what ends at the same moment
        self.now = until
        return found

    def cancel(self, grace: float = 15.0) -> None:
        """Every cell stops with what it has done, and does the rest at its next start."""
        for event in self._events:
            assert not event.elsewhere, "it is not this command that stops other ones"
            gone = self.now - event.started
            self._spend(event.fingerprint, gone, here=True)
            rest = replace(event.attempt, seconds=event.attempt.seconds - gone)
            self.attempts(event.fingerprint).insert(0, rest)
            self._ready[event.fingerprint] = self.now
        self._events.clear()
        self.running.clear()

    # -- what happens

    def _push(self, time: float, fingerprint: str, attempt: Attempt, **more: bool) -> None:
        number = next(self._number)
        heapq.heappush(self._events, Event(time, number, fingerprint, attempt, self.now, **more))

    def _spend(self, fingerprint: str, seconds: float, here: bool) -> None:
        self.seconds[fingerprint] += seconds
        self.busy += seconds if here else 0.0

    def _end(self, event: Event) -> tuple[Path, int]:
        fingerprint, status = event.fingerprint, event.attempt.status
        directory = self.store.directory(fingerprint)
        self.running.discard(fingerprint)
        self._spend(fingerprint, self.now - event.started, here=True)
        if status == DONE:
            self._finish(fingerprint, self.now)
        elif status == STOPPED:
            self._ready[fingerprint] = self.now
        elif status == BUSY:
            self._leases[fingerprint] = contextlib.ExitStack()
            self._leases[fingerprint].enter_context(directory.lease())
            until = self.now + event.attempt.elsewhere
            self._push(until, fingerprint, event.attempt, elsewhere=True)
        else:
            self.ended[fingerprint] = "failed"
            if status == FAILED:
                directory.append("failed", error="loss is nan")
        return directory.path, status

    def _end_elsewhere(self, event: Event) -> None:
        self._leases.pop(event.fingerprint).close()
        # Seen at the next look but one at the latest. Until then no place need be taken.
        seen = self.now + 2 * INTERVAL
        self._spend(event.fingerprint, seen - event.started, here=False)
        if event.attempt.finishes:
            self._finish(event.fingerprint, seen)
        else:
            self._ready[event.fingerprint] = seen

    def _finish(self, fingerprint: str, seen: float) -> None:
        finish(self.store, self.store.directory(fingerprint))
        self.ended[fingerprint] = "done"
        for child in self._children[fingerprint]:
            self._missing[child] -= 1
            if not self._missing[child]:
                self._ready[child] = seen


@dataclass
class Simulation:
    """A plan on a cluster. Its store is in `root`."""

    plan: Plan
    root: Path
    capacity: int
    seed: int = 0
    odds: Odds = Odds()
    light: bool = True

    def __post_init__(self) -> None:
        self.store = (LightStore if self.light else Store)(self.root)
        self.store.create()
        self.cluster = Cluster(self.plan, self.store, self.capacity, self.seed, self.odds)
        self.progress: Progress

    def run(self, max_seconds: float | None = None) -> Simulation:
        """`harness run`, until it ends or its time is over."""
        with self._simulated_time():
            self.progress = begin(self.plan, self.store)
            with contextlib.suppress(OutOfTime):
                run(self.progress, self.cluster, max_seconds=max_seconds, interval=INTERVAL)
        return self

    @contextlib.contextmanager
    def _simulated_time(self) -> Iterator[None]:
        """The scheduler's clock; and nothing here is to survive a power cut."""
        with pytest.MonkeyPatch.context() as patch:
            clock = SimpleNamespace(monotonic=lambda: self.cluster.now)
            patch.setattr(scheduler, "time", clock)
            patch.setattr("os.fsync", lambda _: None)
            yield

    @property
    def makespan(self) -> float:
        """Simulated seconds."""
        return self.cluster.now

    @property
    def longest_chain(self) -> float:
        """Seconds of the cells that waited for one another, all their attempts counted."""
        return max(chain_lengths(self.plan.cells, self.cluster.seconds).values())

    @property
    def lower_bound(self) -> float:
        """No order of the cells takes less: the mean of the places, the longest chain."""
        return max(self.cluster.busy / self.capacity, self.longest_chain)

    @property
    def list_bound(self) -> float:
        """Graham's: no order takes more that leaves no place free while a cell may start. What was
        elsewhere counts as work, too."""
        work = sum(self.cluster.seconds.values())
        return work / self.capacity + (1 - 1 / self.capacity) * self.longest_chain

    def expected_states(self) -> dict[str, str]:
        """By the rule, from what was drawn alone: skipped is what comes after a failed cell."""
        states: dict[str, str] = {}
        for fingerprint, cell in self.plan.cells.items():
            last = draw(self.plan, fingerprint, self.seed, self.odds)[-1]
            if any(states[f] != "done" for f in cell.upstream.values()):
                states[fingerprint] = "skipped"
            else:
                is_done = last.status == DONE or last.finishes
                states[fingerprint] = "done" if is_done else "failed"
        return states
