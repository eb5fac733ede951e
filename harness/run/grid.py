"""`harness run`, start to end: plan, check, train, track, report."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from harness.common.errors import UserError
from harness.common.provenance import code_version_or_warn
from harness.data import Dataset, load
from harness.execute.executors import make_executor
from harness.execute.local import threads_for
from harness.execute.ray.options import RayOptions
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.experiment.experiment import Experiment
from harness.plan import Plan, make_plan
from harness.run.display import duration, make_display
from harness.run.session import (
    CELL_FAILED,
    CTRL_C,
    GOES_ON,
    OK,
    UNFINISHED,
    finish_tracking,
    print_remarks,
    slots_of,
    start_tracking,
    stoppable,
)
from harness.store import Store
from harness.store.cell_options import cell_options
from harness.track.grid_run import SummaryBuilder
from harness.track.mirrors import make_mirrors
from harness.track.registry import fetch_teacher
from harness.track.sync import Tracker


def plan_of(experiment: Experiment) -> Plan:
    """The plan, with the data on this machine."""
    return make_plan(experiment, load(experiment.dataset))


def run_experiment(
    experiment: Experiment,
    root: Path,
    *,
    jobs: int | None = None,
    device: str = "auto",
    jobs_per_device: int | None = None,
    max_seconds: float | None = None,
    n_workers: int = 0,
    teacher_cache: int = 0,
    no_bar: bool = False,
    budget: float | None = None,
    cluster: RayOptions | None = None,
    trackers: Iterable[str] = (),
    summary: SummaryBuilder | None = None,
    show: Callable[[Plan], None] = lambda _: None,
) -> int:
    """Train what is missing, log it, say what happened; the exit status.

    Args:
        jobs, device, jobs_per_device: which cells train at once, and where (`slots_of`).
        n_workers, teacher_cache: of each cell (`cell_options`).
        cluster: of Ray, and how to use it, in place of this machine, jobs and device.
        trackers: names of harness.track.mirrors, besides MLflow.
        summary: what the finished grid's run in MLflow shows.
        show: prints the result of a grid that is done now.

    Raises:
        UserError: wrong input; nothing was started.
    """
    if cluster is not None and budget is not None:
        raise UserError("--budget: measures this machine, not a cluster; leave it out")
    slots = slots_of(device, jobs, jobs_per_device, cluster)
    store = Store(root)
    store.create()
    dataset = load(experiment.dataset)
    if budget is not None:
        experiment = within_budget(
            experiment, dataset, store, slots, budget, n_workers, teacher_cache
        )
    plan = make_plan(experiment, dataset)
    fetch_teacher(plan, store, slots[0], dataset)
    progress = begin(plan, store)
    tracker, mirrors = Tracker(plan, store), make_mirrors(trackers, plan, store)
    devices = tuple(dict.fromkeys(slots))
    where = f" on {', '.join(devices)}" if len(devices) > 1 else ""
    n_cells, n_cached = len(plan.cells), len(progress.cached_cells)
    has_unsent = bool(tracker.unsent_cells()) or any(mirror.unsent_cells() for mirror in mirrors)
    is_shown = not has_unsent and (summary is None or tracker.is_summary_published)
    if n_cached == n_cells and is_shown:
        print(f"{experiment.name}: nothing to do, all {n_cells} cells are done (in {root}).")
        return OK
    runner = make_executor(cluster, slots, code_version_or_warn())
    runner.warm_up()
    with stoppable() as stops, contextlib.closing(runner):
        status = OK
        syncs = start_tracking(tracker, *mirrors)
        try:
            print(
                f"{experiment.name}: {n_cells} cells, {n_cached} done before, "
                f"{n_cells - n_cached} to train with {runner.capacity} jobs{where}",
                flush=True,
            )
            print_remarks(experiment, dataset)
            with make_display(progress, no_bar) as display:
                options = cell_options(experiment.dataset, n_workers, teacher_cache)
                run(progress, runner, options, max_seconds, display.update)
            status = CELL_FAILED if progress.count("failed") else OK
        except OutOfTime:
            status = UNFINISHED
        except KeyboardInterrupt:
            status = CTRL_C
        finally:
            all_done = progress.count("done") == n_cells

            def publish() -> None:
                if summary is not None and all_done:
                    tracker.publish_summary(summary)

            for sync in syncs:
                result = (publish,) if sync.tracker is tracker else ()
                sync.finish(partial(finish_tracking, sync, all_done, *result), stops=stops)
    report(progress, status)
    if status == OK:
        show(plan)
    return status


def within_budget(
    experiment: Experiment,
    dataset: Dataset,
    store: Store,
    slots: Sequence[str],
    budget: float,
    n_workers: int = 0,
    teacher_cache: int = 0,
) -> Experiment:
    """Whole seeds dropped from the end until the estimate fits; says which.

    Raises:
        UserError: not even one seed fits.
    """
    from harness.run.estimate import fit_budget, measure_networks

    speeds = measure_networks(experiment, dataset, slots[0], threads_for(len(slots)), n_workers)
    smaller = fit_budget(experiment, dataset, store, speeds, len(slots), budget, teacher_cache)
    n, kept = len(experiment.seeds), list(smaller.seeds)
    if len(kept) < n:
        print(
            f"--budget: {len(kept)} of {n} seeds fit; for their table use "
            f"`--set seeds={str(kept).replace(' ', '')}`"
        )
    return smaller


def report(progress: Progress, status: int) -> None:
    """What the user sees last."""
    counts = {s: progress.count(s) for s in ("done", "failed", "skipped", "waiting")}
    text = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    elapsed = duration(time.monotonic() - progress.started)
    print(f"{progress.plan.experiment.name}: {text}, in {elapsed}", flush=True)
    for fingerprint, error in progress.errors.items():
        print(f"error: {progress.plan.name_of(fingerprint)}: {error}", file=sys.stderr)
    if status in GOES_ON:
        print(GOES_ON[status])
