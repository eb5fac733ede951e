"""What every command that trains shares: signals, exit statuses, messages, its cells' options, and
MLflow kept up to date beside the training."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from harness.data import DatasetOptions, data_root
from harness.errors import UserError, one_line

# Exit statuses of the command. UNFINISHED: --max-time came first; call again to go on.
OK, CELL_FAILED, WRONG_USE, UNFINISHED, CTRL_C = 0, 1, 2, 3, 130
GOES_ON = {
    UNFINISHED: "--max-time is over; the same command goes on from the last epochs.",
    CTRL_C: "interrupted; the same command goes on from the last epochs.",
}
SYNC_SECONDS, RETRY_SECONDS, SILENCE_SECONDS = 2.0, 20.0, 120.0


class Tracking(Protocol):
    """Sends what a command trains to MLflow. place: where, for messages; remedy: the command that
    sends what is missing; heard: when MLflow last answered, as time.monotonic()."""

    place: str
    remedy: str

    @property
    def heard(self) -> float: ...

    def connect(self) -> Any:
        """Before anything is trained: find the server, and what is there already."""
        ...

    def sync(self) -> int:
        """Send what is missing; how much that was. Safe to call again after an error."""
        ...

    def close(self, finished: bool) -> None:
        """The runs end with the command."""
        ...


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM stops a training in the same way as Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_device(name: str) -> None:
    """
    Raises:
        UserError: no such device. 'auto' and 'cpu' are always there and cost no import of torch.
    """
    if name not in ("auto", "cpu"):
        from harness.train.device import resolve_device

        resolve_device(name)


def default_jobs(device: str) -> int:
    """One cell a core; on a GPU one cell, which has the device to itself."""
    on_gpu = device.startswith("cuda") or (device == "auto" and Path("/dev/nvidia0").exists())
    return 1 if on_gpu or device == "mps" else len(os.sched_getaffinity(0))


def cell_options(dataset: DatasetOptions, n_workers: int = 0) -> dict[str, Any]:
    """Of `Store.prepare`: what a training needs to know of this machine, as plain JSON data."""
    return {
        "dataset": dataset.model_dump(mode="json"),
        "data_root": str(data_root()),
        "n_workers": n_workers,
    }


def connect(tracker: Tracking) -> None:
    """
    Raises:
        UserError: the tracking server cannot be used.
    """
    try:
        tracker.connect()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLFLOW_TRACKING_URI: cannot use {tracker.place} ({one_line(error)}); "
            "correct it, start the server, or unset it for a local database"
        ) from None


class BackgroundSync(threading.Thread):
    """Keeps MLflow up to date while cells train. A server that fails delays the picture of the
    training, never the training."""

    def __init__(self, tracker: Tracking) -> None:
        super().__init__(daemon=True, name="mlflow-sync")
        self.tracker = tracker
        self._stop_now = threading.Event()
        self._last: Callable[[], None] = lambda: None

    def run(self) -> None:
        pause = SYNC_SECONDS
        while not self._stop_now.wait(pause):
            try:
                self.tracker.sync()
                pause = SYNC_SECONDS
            except Exception as error:
                print(f"warning: MLflow: {one_line(error)}; trying again", file=sys.stderr)
                pause = RETRY_SECONDS
        self._last()

    def finish(self, last: Callable[[], None], silence: float = SILENCE_SECONDS) -> None:
        """End the thread after one call of `last` in it, the last sync. Returns without it when
        MLflow has not answered anything for `silence` seconds."""
        self._last = last
        self._stop_now.set()
        started = time.monotonic()
        while self.is_alive():
            self.join(0.2)
            if time.monotonic() - max(started, self.tracker.heard) > silence:
                print(behind(self.tracker, f"no answer for {silence:.0f} s"), file=sys.stderr)
                return


def finish_tracking(
    tracker: Tracking, all_done: bool, present: Callable[[], None] = lambda: None, attempts: int = 3
) -> None:
    """The last lines and states, with a few tries. present: shows a finished grid's result."""
    for attempt in range(attempts):
        try:
            tracker.sync()
            present()
            tracker.close(all_done)
            return
        except Exception as error:
            if attempt == attempts - 1:
                print(behind(tracker, one_line(error)), file=sys.stderr)
            else:
                time.sleep(1.0 + attempt)


def behind(tracker: Tracking, why: str) -> str:
    return (
        f"warning: MLflow at {tracker.place} is behind ({why}); nothing is lost: {tracker.remedy} "
        "sends the rest"
    )
