"""The frame of commands that train: signals, and trackers kept up to date during training."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.common.database import Refused
from harness.common.errors import one_line
from harness.common.exit_status import INTERRUPTED, UNFINISHED
from harness.common.names import as_called
from harness.common.signals import StopSignal, stop_requests
from harness.data import Dataset
from harness.data.options import CustomOptions
from harness.networks import NetworkOptions
from harness.track.environment import as_user_error

if TYPE_CHECKING:
    from harness.experiment.experiment import Experiment

# The last line of a command with one of these exit statuses.
RESUME_HINTS = {
    UNFINISHED: "--max-time is over; rerun the command to resume from the last epochs.",
    INTERRUPTED: "interrupted; rerun the command to resume from the last epochs.",
}
SYNC_SECONDS, RETRY_SECONDS, SILENCE_SECONDS = 2.0, 20.0, 120.0
NOTICE_SECONDS = 1.0  # after which a line says what the command waits for
LAST_TRIES = 6  # with 1, 2, .. 5 seconds between them
START_SECONDS = 30.0  # that training waits for the tracker's first answer


class Server(Protocol):
    """The server of a tracker.

    Attributes:
        name: Its name for users.
        address: Its address, without a password.
        asked: Since when it owes an answer, as time.monotonic(); None if it owes none.
    """

    name: str
    address: str
    asked: float | None

    @property
    def is_open(self) -> bool:
        """Whether it has ever answered."""
        ...

    def check(self) -> None:
        """Check the settings, without a connection.

        Raises:
            UserError: They cannot be used.
        """
        ...


class Tracking(Protocol):
    """A tracker, which sends what a command trains to MLflow or another server.

    Attributes:
        remedy: The command that sends what is missing.
    """

    remedy: str

    @property
    def server(self) -> Server:
        """The server to which it sends."""
        ...

    def connect(self) -> Any:
        """Connect to the server, and find out what it already has."""
        ...

    def sync(self) -> int:
        """Send what is missing, and return how much that was. May be repeated after an error."""
        ...

    def close(self, finished: bool) -> None:
        """End the runs of this command."""
        ...


def print_remarks(experiment: Experiment, dataset: Dataset) -> None:
    """Print what was left out of the data and why, and settings with a surprising meaning."""
    for left in dataset.left_out:
        print(f"left out: {left}")
    parts = [dataset.train]
    if dataset.validation is not None and experiment.protocol.train_on != "train":
        parts.append(dataset.validation)
    sizes = np.bincount(np.concatenate([part.labels for part in parts])).tolist()
    for section in dict.fromkeys(
        s for method in experiment.resolved_methods for s in method.settings
    ):
        if remark := getattr(experiment, section).remark(sizes):
            print(f"note: {remark}", flush=True)
    if isinstance(experiment.dataset, CustomOptions):
        for remark in dict.fromkeys(map(describe_plain, experiment.networks)):
            if remark:
                print(f"note: {remark}", flush=True)


def describe_plain(network: NetworkOptions) -> str:
    """Return which of a network's options have their default for the user's own images, or ""."""
    usual = {name: type(network).model_fields[name].default for name in network.plain}
    own = {name: v for name, v in network.plain.items() if getattr(network, name) == v}
    if not own:
        return ""
    listed, papers = (
        " and ".join(f"{name} {values[name]}" for name in own) for values in (own, usual)
    )
    return (
        f"{network.network}: {listed}, the defaults for images of one's own; the data sets of the "
        f"publication have {papers}"
    )


def stoppable() -> StopSignal:
    """Let the first Ctrl-C, SIGTERM or its like (`common.signals`) stop training in order.

    Further ones do not disturb that, but end the wait for trackers. Use it from before the first
    cell until after the last line for the trackers.
    """
    return StopSignal(signal.SIGINT, *stop_requests(), interrupts=True)


def connect(tracker: Tracking) -> None:
    """Connect a tracker, for a command that only sends.

    Raises:
        UserError: The tracking server cannot be used.
    """
    tracker.server.check()
    with as_user_error(tracker.server.address):
        tracker.connect()


def start_tracking(*trackers: Tracking) -> list[BackgroundSync]:
    """Keep trackers up to date from now on.

    Training does not need them: a server that fails causes one warning.

    Raises:
        UserError: An address is wrong, or the server there refuses the command.
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
    """A thread that keeps one tracker up to date while cells train.

    A server that fails delays what it shows, never the training.

    Attributes:
        answered: Set once the first connection has succeeded or failed.
        refused: Why it failed for good, if it did.
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
    def never_connected(self) -> bool:
        """Whether no connection has succeeded, so that the first warning was the last word."""
        return self._failing and not self.tracker.server.is_open

    def run(self) -> None:
        """Connect and synchronise until `finish`."""
        works = self._attempt(self.tracker.connect)
        self.answered.set()
        if self.refused is not None:
            return
        while not self._stop_now.wait(SYNC_SECONDS if works else RETRY_SECONDS):
            works = self._attempt(self.tracker.sync)
        self._last()

    def _attempt(self, step: Callable[[], Any]) -> bool:
        """Return whether a step succeeds. Failures in a row cause one warning."""
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
            f"training goes on without it, {as_called(self.tracker.remedy)} sends the rest"
        )

    def finish(
        self,
        last: Callable[[], None],
        silence: float = SILENCE_SECONDS,
        stops: StopSignal | None = None,
    ) -> None:
        """End the thread after the last synchronisation, or give up.

        Args:
            last: The last synchronisation, called in the thread.
            silence: Seconds without any answer of the server after which to give up.
            stops: Give up when the user stops the command a second time.
        """
        self._last = last
        self._stop_now.set()
        started, has_notice = time.monotonic(), False
        while self.is_alive():
            self.join(0.2)
            if not has_notice and time.monotonic() - started > NOTICE_SECONDS:
                server = self.tracker.server
                print(f"sending to {server.name} at {server.address} ..", flush=True)
                has_notice = True
            if stops is not None and stops.n > 1:
                print(backlog(self.tracker, "stopped before the end"), file=sys.stderr)
                return
            asked = self.tracker.server.asked
            if asked is not None and time.monotonic() - max(started, asked) > silence:
                print(backlog(self.tracker, f"no answer for {silence:.0f} s"), file=sys.stderr)
                return


def finish_tracking(
    sync: BackgroundSync, all_done: bool, publish: Callable[[], None] = lambda: None
) -> None:
    """Send the last lines and states, and `publish` a finished grid's result.

    Failures are retried for as long as a database may take to restart.
    """
    tracker, attempts = sync.tracker, 1 if sync.never_connected else LAST_TRIES
    for attempt in range(attempts):
        try:
            tracker.sync()
            publish()
            tracker.close(all_done)
            return
        except Exception as error:
            if sync.never_connected:
                return
            if attempt == attempts - 1:
                print(backlog(tracker, one_line(error)), file=sys.stderr)
            else:
                time.sleep(1.0 + attempt)


def backlog(tracker: Tracking, why: str) -> str:
    """Return the warning that a server lacks results, with the command that sends them."""
    server = tracker.server
    return (
        f"warning: {server.name} at {server.address} is behind ({why}); "
        f"{as_called(tracker.remedy)} sends the rest"
    )
