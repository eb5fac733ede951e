"""What every command that trains shares: signals, exit statuses, messages, its cells' options, and
MLflow kept up to date beside the training."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.common.database import Refused
from harness.common.errors import one_line
from harness.data import Dataset
from harness.track.environment import as_user_error

if TYPE_CHECKING:
    from harness.experiment.experiment import Experiment

# Exit statuses of the command. UNFINISHED: --max-time came first; call again to go on.
OK, CELL_FAILED, WRONG_USE, UNFINISHED, CTRL_C = 0, 1, 2, 3, 130
GOES_ON = {
    UNFINISHED: "--max-time is over; the same command goes on from the last epochs.",
    CTRL_C: "interrupted; the same command goes on from the last epochs.",
}
SYNC_SECONDS, RETRY_SECONDS, SILENCE_SECONDS = 2.0, 20.0, 120.0
SAID_SECONDS = 1.0  # after which a user wonders what it waits for
LAST_TRIES = 6  # with 1, 2, .. 5 seconds between them
START_SECONDS = 30.0  # training waits so long for MLflow's first answer, yes or no


class Server(Protocol):
    """The server that a tracker sends to.

    name: as its users know it. address: without a password. last_answer: when it last answered, as
    time.monotonic(). is_open: whether it has ever answered.
    """

    name: str
    address: str
    last_answer: float

    @property
    def is_open(self) -> bool: ...

    def check(self) -> None:
        """Before anybody is asked.

        Raises:
            UserError: it cannot be used as it is set up.
        """
        ...


class Tracking(Protocol):
    """Sends what a command trains to MLflow, or to another tracker. remedy: the command that sends
    what is missing."""

    remedy: str

    @property
    def server(self) -> Server: ...

    def connect(self) -> Any:
        """Find the server, and what is there already."""
        ...

    def sync(self) -> int:
        """Send what is missing; how much that was. Safe to call again after an error."""
        ...

    def close(self, finished: bool) -> None:
        """The runs end with the command."""
        ...


def print_remarks(experiment: Experiment, dataset: Dataset) -> None:
    """What the methods' settings mean for these data, where nobody would expect it."""
    parts = [dataset.train]
    if dataset.validation is not None and experiment.protocol.train_on != "train":
        parts.append(dataset.validation)
    sizes = np.bincount(np.concatenate([part.labels for part in parts])).tolist()
    for section in dict.fromkeys(
        s for method in experiment.resolved_methods for s in method.settings
    ):
        if remark := getattr(experiment, section).remark(sizes):
            print(f"note: {remark}", flush=True)


class Stops:
    """Ctrl-C and SIGTERM of a command that trains: the first stops it in order. A further one does
    not disturb that, but MLflow is waited for no longer."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, *_: Any) -> None:
        self.n += 1
        if self.n == 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable() -> Iterator[Stops]:
    """From before the first cell until after the last line for MLflow."""
    stops, numbers = Stops(), (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, stops) for number in numbers]
    try:
        yield stops
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def connect(tracker: Tracking) -> None:
    """For a command that does nothing but send.

    Raises:
        UserError: the tracking server cannot be used.
    """
    tracker.server.check()
    with as_user_error(tracker.server.address):
        tracker.connect()


def start_tracking(*trackers: Tracking) -> list[BackgroundSync]:
    """Keep them up to date from now on. Training does not need them: whatever is wrong with one,
    but its address, is one warning.

    Raises:
        UserError: the address is wrong, or the server there refuses it.
    """
    for tracker in trackers:
        tracker.server.check()
    syncs = [BackgroundSync(tracker) for tracker in trackers]
    for sync in syncs:
        sync.start()
    for sync in syncs:
        sync.answered.wait(START_SECONDS)
        if sync.refused is not None:
            raise sync.refused
    return syncs


class BackgroundSync(threading.Thread):
    """Keeps one tracker up to date while cells train. A server that fails delays the picture of the
    training, never the training.

    answered: the first connection has succeeded or failed. refused: it failed for good.
    """

    def __init__(self, tracker: Tracking) -> None:
        super().__init__(daemon=True, name="tracker-sync")
        self.tracker = tracker
        self.answered = threading.Event()
        self.refused: Refused | None = None
        self._failing = False
        self._stop_now = threading.Event()
        self._last: Callable[[], None] = lambda: None

    @property
    def has_said_all(self) -> bool:
        """The server was away from the start, and the warning said what to do."""
        return self._failing and not self.tracker.server.is_open

    def run(self) -> None:
        works = self._attempt(self.tracker.connect)
        self.answered.set()
        if self.refused is not None:
            return
        while not self._stop_now.wait(SYNC_SECONDS if works else RETRY_SECONDS):
            works = self._attempt(self.tracker.sync)
        self._last()

    def _attempt(self, step: Callable[[], Any]) -> bool:
        """Whether it succeeded. One warning for all failures in a row."""
        try:
            step()
        except Exception as error:
            if isinstance(error, Refused) and not self.answered.is_set():
                self.refused = error
            elif not self._failing:
                print(self._warning(error), file=sys.stderr)
            self._failing = True
            return False
        self._failing = False
        return True

    def _warning(self, error: Exception) -> str:
        server = self.tracker.server
        if server.is_open:
            return f"warning: {server.name}: {one_line(error)}; trying again"
        return (
            f"warning: {server.name} at {server.address} cannot be used ({one_line(error)}); "
            f"training goes on without it, {self.tracker.remedy} sends the rest"
        )

    def finish(
        self,
        last: Callable[[], None],
        silence: float = SILENCE_SECONDS,
        stops: Stops | None = None,
    ) -> None:
        """End the thread after one call of `last` in it, the last sync. Returns without it when
        the server has not answered anything for `silence` seconds, or the user stops twice."""
        self._last = last
        self._stop_now.set()
        started, is_said = time.monotonic(), False
        while self.is_alive():
            self.join(0.2)
            if not is_said and time.monotonic() - started > SAID_SECONDS:
                server = self.tracker.server
                print(f"sending to {server.name} at {server.address} ..", flush=True)
                is_said = True
            if stops is not None and stops.n > 1:
                print(behind(self.tracker, "stopped before the end"), file=sys.stderr)
                return
            if time.monotonic() - max(started, self.tracker.server.last_answer) > silence:
                print(behind(self.tracker, f"no answer for {silence:.0f} s"), file=sys.stderr)
                return


def finish_tracking(
    sync: BackgroundSync, all_done: bool, publish: Callable[[], None] = lambda: None
) -> None:
    """The last lines and states, tried again for as long as a database may take to restart.
    publish: shows a finished grid's result."""
    tracker, attempts = sync.tracker, 1 if sync.has_said_all else LAST_TRIES
    for attempt in range(attempts):
        try:
            tracker.sync()
            publish()
            tracker.close(all_done)
            return
        except Exception as error:
            if sync.has_said_all:
                return
            if attempt == attempts - 1:
                print(behind(tracker, one_line(error)), file=sys.stderr)
            else:
                time.sleep(1.0 + attempt)


def behind(tracker: Tracking, why: str) -> str:
    server = tracker.server
    return (
        f"warning: {server.name} at {server.address} is behind ({why}); nothing is lost: "
        f"{tracker.remedy} sends the rest"
    )
