"""`harness run` from start to end: plan, check, train, track, report."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from harness.common.durations import duration
from harness.common.errors import UserError
from harness.common.exit_status import FAILED, INTERRUPTED, OK, UNFINISHED
from harness.common.provenance import code_version_or_warn
from harness.data import Dataset, load
from harness.data.dataset import ResizedCrop
from harness.execute.child import in_child
from harness.execute.executors import make_executor
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.experiment.experiment import Experiment
from harness.plan import Plan, make_plan
from harness.run.devices import facts_of, kind_of, loading_note
from harness.run.display import make_display
from harness.run.estimate import fit_budget, measure_plan
from harness.run.networks import check_networks
from harness.run.options import RunOptions
from harness.run.session import (
    RESUME_HINTS,
    finish_tracking,
    print_remarks,
    start_tracking,
    stoppable,
)
from harness.store import Store
from harness.track.grid_run import SummaryBuilder
from harness.track.mirrors import make_mirrors
from harness.track.registry import fetch_teacher
from harness.track.sync import Tracker


def plan_of(experiment: Experiment) -> Plan:
    """Return the plan of an experiment, with the data on this machine."""
    return make_plan(experiment, load(experiment.dataset))


def run_experiment(
    experiment: Experiment,
    options: RunOptions = RunOptions(),
    *,
    summary: SummaryBuilder | None = None,
    show: Callable[[Plan], None] = lambda _: None,
) -> int:
    """Train the missing cells of an experiment, and log them to MLflow.

    `summary` makes what a finished grid's run in MLflow shows; `show` prints the result of a grid
    that is done now.

    Returns:
        The exit status (harness.common.exit_status).

    Raises:
        UserError: Wrong input; nothing was started.
    """
    if options.cluster is not None and options.budget is not None:
        raise UserError("--budget: measures this machine, not a cluster; leave it out")
    options.check()
    store = Store(options.store)
    store.create()
    dataset = load(experiment.dataset)
    experiment = within_budget(experiment, dataset, options)
    plan = make_plan(experiment, dataset)
    fetch_teacher(plan, store, options.devices[0], dataset)
    progress = begin(plan, store)
    tracker, mirrors = Tracker(plan, store), make_mirrors(options.trackers, plan, store)
    where = f" on {', '.join(options.devices)}" if len(options.devices) > 1 else ""
    n_cells, n_cached = len(plan.cells), len(progress.cached_cells)
    has_unsent = bool(tracker.unsent_cells()) or any(mirror.unsent_cells() for mirror in mirrors)
    if n_cached == n_cells and not has_unsent and tracker.is_grid_ended(summary is not None):
        print(
            f"{experiment.name}: nothing to do, all {n_cells} cells are done (in {options.store})."
        )
        return OK
    notes = check_networks(experiment, dataset)
    slots = options.slots()
    runner = make_executor(options.cluster, slots, code_version_or_warn())
    runner.warm_up(n_cells - n_cached)
    with stoppable() as stops, contextlib.closing(runner):
        status = OK
        print(
            f"{experiment.name}: {n_cells} cells, {n_cached} done before, "
            f"{n_cells - n_cached} to train with {runner.capacity} jobs{where}",
            flush=True,
        )
        for note in notes:
            print(f"note: {note}")
        print_remarks(experiment, dataset)
        print_loading(dataset, slots, options)
        syncs = start_tracking(tracker, *mirrors)
        try:
            with make_display(progress, options.no_bar) as display:
                for_cells = options.of_cells(experiment, slots)
                run(progress, runner, for_cells, options.max_seconds, display.update)
            status = FAILED if progress.count("failed") else OK
        except OutOfTime:
            status = UNFINISHED
        except KeyboardInterrupt:
            status = INTERRUPTED
        finally:
            all_done = progress.count("done") == n_cells

            def publish() -> None:
                if all_done:
                    tracker.end_grid(summary)

            for sync in syncs:
                result = (publish,) if sync.tracker is tracker else ()
                sync.finish(partial(finish_tracking, sync, all_done, *result), stops=stops)
    report(progress, status)
    if status == OK:
        show(plan)
    return status


def within_budget(experiment: Experiment, dataset: Dataset, options: RunOptions) -> Experiment:
    """Drop whole seeds from the end until the estimate fits into the budget; print the others.

    Raises:
        UserError: Not even one seed fits.
    """
    if options.budget is None:
        return experiment
    slots, store = options.slots(), Store(options.store)
    speeds = measure_plan(make_plan(experiment, dataset), store, dataset, slots, options)
    lanes, cache = speeds.lanes(slots), options.teacher_cache
    smaller = fit_budget(experiment, dataset, store, speeds, lanes, options.budget, cache)
    n, kept = len(experiment.seeds), list(smaller.seeds)
    if len(kept) < n:
        print(
            f"--budget: {len(kept)} of {n} seeds fit; for their table use "
            f"`--set seeds={str(kept).replace(' ', '')}`"
        )
    return smaller


def print_loading(dataset: Dataset, slots: Sequence[str], options: RunOptions) -> None:
    """Print the note of harness.run.devices on images for which a GPU has to wait, if any."""
    may_wait = isinstance(dataset.augmentation, ResizedCrop) and not options.n_workers
    if options.cluster is None and may_wait and kind_of(slots[0]) == "cuda":
        facts = in_child(facts_of, slots[0])
        if note := loading_note(dataset, 0, options.cells_per_device(slots), facts):
            print(f"note: {note}", flush=True)


def report(progress: Progress, status: int) -> None:
    """Print how the cells ended, their errors, and how to resume."""
    counts = {s: progress.count(s) for s in ("done", "failed", "skipped", "waiting")}
    text = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    elapsed = duration(time.monotonic() - progress.started)
    print(f"{progress.plan.experiment.name}: {text}, in {elapsed}", flush=True)
    for fingerprint, error in progress.errors.items():
        print(f"error: {progress.plan.name_of(fingerprint)}: {error}", file=sys.stderr)
    if status in RESUME_HINTS:
        print(RESUME_HINTS[status])
