"""`harness run`, start to end: plan, check, train, track, report."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.data import Dataset, load
from harness.errors import UserError, one_line
from harness.execute.local import LocalExecutor, threads_for
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.plan import Plan, make_plan
from harness.progress import duration, make_display
from harness.provenance import code_version
from harness.spec import Experiment
from harness.store import Store
from harness.track.grid_run import Page
from harness.track.mlflow_sync import Tracker
from harness.track.registry import fetch

# Exit statuses of the command. UNFINISHED: --max-time came first; call again to go on.
OK, CELL_FAILED, WRONG_USE, UNFINISHED, CTRL_C = 0, 1, 2, 3, 130
SYNC_SECONDS, RETRY_SECONDS, SILENCE_SECONDS = 2.0, 20.0, 120.0


def plan_of(experiment: Experiment) -> Plan:
    """The plan, with the data on this machine."""
    return make_plan(experiment, load(experiment.dataset))


class BackgroundSync(threading.Thread):
    """Keeps MLflow up to date while cells train. A server that fails delays the picture of the
    training, never the training."""

    def __init__(self, tracker: Tracker) -> None:
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


def run_experiment(
    experiment: Experiment,
    root: Path,
    *,
    jobs: int | None = None,
    device: str = "auto",
    max_seconds: float | None = None,
    no_bar: bool = False,
    budget: float | None = None,
    page: Page | None = None,
) -> int:
    """Train what is missing, log it, say what happened; the exit status.

    Args:
        page: what the finished grid's run in MLflow shows.

    Raises:
        UserError: wrong input; nothing was started.
    """
    check_device(device)
    jobs = jobs or default_jobs(device)
    store = Store(root)
    store.create()
    dataset = load(experiment.dataset)
    if budget is not None:
        experiment = within_budget(experiment, dataset, store, jobs, device, budget)
    plan = make_plan(experiment, dataset)
    fetch(plan, store, device)
    progress = begin(plan, store)
    tracker = Tracker(plan, store)
    n_cells, n_cached = len(plan.cells), len(progress.cached_cells)
    if n_cached == n_cells and not tracker.behind() and (page is None or tracker.is_presented):
        print(f"{experiment.name}: nothing to do, all {n_cells} cells are done (in {root}).")
        return OK
    executor = LocalExecutor(jobs, device, code_version())
    executor.warm_up()
    connect(tracker)
    print(
        f"{experiment.name}: {n_cells} cells, {n_cached} done before, "
        f"{n_cells - n_cached} to train with {jobs} jobs",
        flush=True,
    )
    sync = BackgroundSync(tracker)
    sync.start()
    previous = signal.signal(signal.SIGTERM, _as_ctrl_c)
    status = OK
    try:
        with make_display(progress, no_bar) as display:
            run(progress, executor, max_seconds, display.update)
        status = CELL_FAILED if progress.count("failed") else OK
    except OutOfTime:
        status = UNFINISHED
    except KeyboardInterrupt:
        status = CTRL_C
    finally:
        signal.signal(signal.SIGTERM, previous)
        all_done = progress.count("done") == n_cells
        sync.finish(lambda: finish_tracking(tracker, all_done, page if all_done else None))
    report(progress, status)
    return status


def within_budget(
    experiment: Experiment, dataset: Dataset, store: Store, jobs: int, device: str, budget: float
) -> Experiment:
    """Whole seeds dropped from the end until the estimate fits; says which.

    Raises:
        UserError: not even one seed fits.
    """
    from harness.estimate import fit_budget, measure_networks

    speeds = measure_networks(experiment, dataset, device, threads_for(jobs))
    smaller = fit_budget(experiment, dataset, store, speeds, jobs, budget)
    n, kept = len(experiment.seeds), list(smaller.seeds)
    if len(kept) < n:
        print(
            f"--budget: {len(kept)} of {n} seeds fit; for their table use "
            f"`--set seeds={str(kept).replace(' ', '')}`"
        )
    return smaller


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


def _as_ctrl_c(*_: Any) -> None:
    raise KeyboardInterrupt


def connect(tracker: Tracker) -> None:
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


def finish_tracking(
    tracker: Tracker, all_done: bool, page: Page | None = None, attempts: int = 3
) -> None:
    """The last lines and states, and the result of a finished grid, with a few tries."""
    for attempt in range(attempts):
        try:
            tracker.sync()
            if page is not None:
                tracker.present(page)
            tracker.close(all_done)
            return
        except Exception as error:
            if attempt == attempts - 1:
                print(behind(tracker, one_line(error)), file=sys.stderr)
            else:
                time.sleep(1.0 + attempt)


def behind(tracker: Tracker, why: str) -> str:
    return (
        f"warning: MLflow at {tracker.place} is behind ({why}); nothing is lost: {tracker.remedy} "
        "sends the rest"
    )


def report(progress: Progress, status: int) -> None:
    """What the user sees last."""
    counts = {s: progress.count(s) for s in ("done", "failed", "skipped", "waiting")}
    text = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    elapsed = duration(time.monotonic() - progress.started)
    print(f"{progress.plan.experiment.name}: {text}, in {elapsed}", flush=True)
    for fingerprint, error in progress.errors.items():
        print(f"error: {progress.plan.name_of(fingerprint)}: {error}", file=sys.stderr)
    if status == UNFINISHED:
        print("--max-time is over; the same command goes on from the last epochs.")
    if status == CTRL_C:
        print("interrupted; the same command goes on from the last epochs.")
