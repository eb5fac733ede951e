"""`harness tune`, start to end: ask, train, tell; the best again with fresh seeds; the winner."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from harness.common.errors import UserError, one_line
from harness.common.provenance import announced_version
from harness.data import Dataset, load
from harness.execute import Executor
from harness.execute.executors import make_executor
from harness.execute.ray.options import RayOptions
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.methods import find
from harness.methods.base import TRAINING
from harness.plan import SEMANTICS, Plan, task_views
from harness.run.display import LiveDisplay, duration
from harness.run.session import (
    CELL_FAILED,
    CTRL_C,
    GOES_ON,
    OK,
    UNFINISHED,
    WRONG_USE,
    Stops,
    finish_tracking,
    slots_of,
    start_tracking,
    stoppable,
)
from harness.store import Store
from harness.store.cell_options import cell_options
from harness.track.environment import tracking_uri
from harness.tune.export import epochs_trained, write_bundle
from harness.tune.halving import Outcome, check_rungs, run_batch
from harness.tune.interleave import Interleaved, Steps
from harness.tune.storage import only_orchestrator, open_storage, place_of
from harness.tune.study import Study
from harness.tune.tracker import TrialView, TuneTracker
from harness.tune.trials import TrialCells, TrialsFailed, cells_of
from harness.tune.tuning_file import Tuning
from harness.tune.winner import Candidate, Winners, check_final, confirm, write_winner

# Draws the figures of a bundle: (method, file) of each.
Draw = Callable[[Path], list[tuple[str, Path]]]


def identity_of(tuning: Tuning, dataset: Dataset, method: str) -> dict[str, Any]:
    """What the trials of a study depend on: with another one, they would be other trials."""
    settings, base = tuning.settings, tuning.base
    used = [*base.used, *(find(name) for name in tuning.spaces)]
    sections = {TRAINING, *(section for m in used for section in (*m.sections, *m.reads))}
    every = base.protocol.evaluate_every
    return {
        "space": {f: v.model_dump(mode="json") for f, v in tuning.spaces[method].items()},
        "sampling": settings.model_dump(
            mode="json", include={"batch", "seed", "startup_trials", "pruning"}
        ),
        "objective": {"metric": settings.metric, "direction": settings.direction},
        "experiment": {
            **base.model_dump(mode="json", include={"teacher", "students"}),
            **base.sections(sections),
            "data": {**base.dataset.identity(), "digest": dataset.digest},
            "seed": base.seeds[0],
            "semantics": SEMANTICS,
            **({} if base.tasks is None else {"tasks": base.tasks.model_dump(mode="json")}),
            **({} if every == 1 else {"evaluate_every": every}),
        },
        "optuna": version("optuna"),
    }


def tune(
    tuning: Tuning,
    root: Path,
    *,
    storage: str | None = None,
    jobs: int | None = None,
    device: str = "auto",
    jobs_per_device: int | None = None,
    max_seconds: float | None = None,
    n_workers: int = 0,
    teacher_cache: int = 0,
    no_bar: bool = False,
    cluster: RayOptions | None = None,
    draw: Draw = lambda bundle: [],
) -> int:
    """Every trial that is missing, the re-run of the best, the tuned file; the exit status.

    Raises:
        UserError: wrong input; nothing was started.
    """
    slots = slots_of(device, jobs, jobs_per_device, cluster)
    check_final(tuning)
    check_rungs(tuning)
    store = Store(root)
    store.create()
    runner = make_executor(cluster, slots, announced_version())
    dataset = load(tuning.base.dataset, with_test=False)
    task_views(tuning.base, dataset)  # of all tasks, before one is trained
    options = cell_options(tuning.base.dataset, n_workers, teacher_cache)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    found, bundles = [], []
    with contextlib.closing(runner):
        for part in tuning.parts:
            left = None if deadline is None else deadline - time.monotonic()
            place = place_of(storage, root, part.name)
            with only_orchestrator(part.name, root, place) as owner, stoppable() as stops:
                opened = open_storage(place, tracking_uri())
                identity = {m: identity_of(part, dataset, m) for m in part.spaces}
                studies = [Study(opened, part, m, identity[m], owner) for m in part.spaces]
                search = Search(part, store, dataset, studies, runner, options, left, no_bar)
                status, candidates = _search(search, stops)
                if status != OK:
                    return status
                bundle = write_bundle(part, identity, studies, search.cells, candidates, store)
                figures = draw(bundle) if part.task is None else []
                _log_figures(search.tracker, figures)
                search.report(candidates)
            found.append((part, candidates))
            bundles.append(bundle.as_posix())
    print(f"written: {write_winner(tuning, found)}, {', '.join(bundles)}")
    return OK


def _search(search: Search, stops: Stops) -> tuple[int, Winners]:
    """One task's search, with MLflow kept up to date; the exit status, and the best trials."""
    tracker = TuneTracker(
        search.tuning, search.store, {s.method: s.started for s in search.studies}
    )
    search.tracker = tracker
    (sync,) = start_tracking(tracker)
    status, candidates = CELL_FAILED, {}
    try:
        candidates = search.run()
        status = OK
    except UserError as error:
        status = WRONG_USE
        print(f"error: {one_line(error)}", file=sys.stderr)
    except OutOfTime:
        status = UNFINISHED
    except KeyboardInterrupt:
        status = CTRL_C
    except TrialsFailed as error:
        print(f"error: {error}; the same command tries again", file=sys.stderr)
    finally:
        if status in GOES_ON:
            print(GOES_ON[status])
        if status != WRONG_USE:  # else the studies cannot be read
            search.show(candidates)
        sync.finish(lambda: finish_tracking(sync, all_done=status == OK), stops=stops)
    return status, candidates


def without_pauses(
    progress: Progress, update: Callable[[str | None], None]
) -> Callable[[str | None], None]:
    """A trial that has come to its rung is no news."""
    return lambda f: update(None if f is not None and progress.state[f] == "paused" else f)


def _log_figures(tracker: TuneTracker | None, figures: list[tuple[str, Path]]) -> None:
    if tracker is None or not tracker.server.is_open:  # which has been said
        return
    try:
        tracker.log_figures(figures)
    except Exception as error:
        print(f"warning: MLflow has no figures ({type(error).__name__})", file=sys.stderr)


class Search:
    """One call of `harness tune`: what it shares between its steps."""

    def __init__(
        self,
        tuning: Tuning,
        store: Store,
        dataset: Dataset,
        studies: list[Study],
        executor: Executor,
        options: dict[str, Any] | None = None,
        max_seconds: float | None = None,
        no_bar: bool = True,
    ) -> None:
        self.tuning, self.store, self.dataset = tuning, store, dataset
        self.studies, self.executor = studies, executor
        self.max_seconds = max_seconds
        self.live = not no_bar and sys.stdout.isatty()
        self.tracker: TuneTracker | None = None
        self.options = options
        self.cells: dict[str, list[TrialCells]] = {s.method: [] for s in studies}
        self.started = time.monotonic()

    def run(self) -> Winners:
        """
        Returns:
            method -> its best trials, the winner first.

        Raises:
            OutOfTime, KeyboardInterrupt, TrialsFailed.
        """
        progress = begin(Plan(self.tuning.base, {}, ()), self.store)
        steps = {study.method: self._steps(study) for study in self.studies}
        searches = Interleaved(steps, progress, self.store)
        with LiveDisplay(progress) if self.live else contextlib.nullcontext() as display:
            update = without_pauses(progress, display.update) if display else lambda _: None
            run(progress, self.executor, self.options, self.max_seconds, update, more=searches.more)
        if searches.failed:
            raise TrialsFailed("; ".join(map(str, searches.failed.values())))
        return {study.method: searches.found[study.method] for study in self.studies}

    def _steps(self, study: Study) -> Steps[list[Candidate]]:
        """One method's search."""
        settings = self.tuning.settings
        n_batches = settings.trials // settings.batch
        for number in range(n_batches):
            batch = study.batch(number)
            cells = [self._cells(study, trial) for trial in batch]
            self.show()
            if not all(trial.state.is_finished() for trial in batch):
                outcomes = yield from run_batch(cells, settings, self.store, self.options)
                self._tell(study, outcomes)
                self.show()
                print(_batch_line(study, number, n_batches, outcomes), flush=True)
        return (yield from confirm(study, self.dataset, self.store))

    def show(self, candidates: dict[str, list[Candidate]] | None = None) -> None:
        """Give the tracker the present state of every trial."""
        if self.tracker is None:
            return
        means = {(c.method, c.number): c.mean for cs in (candidates or {}).values() for c in cs}
        winners = {(cs[0].method, cs[0].number) for cs in (candidates or {}).values()}
        self.tracker.view = tuple(
            TrialView(
                method=study.method,
                number=trial.number,
                state=trial.state.name,
                value=trial.value if trial.state == TrialState.COMPLETE else None,
                params=cells.params,
                cells=cells.cells,
                final=cells.final,
                diverged=bool(trial.user_attrs.get("diverged")),
                mean=means.get(cells.key),
                is_winner=cells.key in winners,
            )
            for study in self.studies
            for trial, cells in zip(study.trials, self.cells[study.method], strict=False)
        )

    def _cells(self, study: Study, trial: FrozenTrial) -> TrialCells:
        known = self.cells[study.method]
        if trial.number == len(known):
            known.append(
                cells_of(self.tuning, self.dataset, study.method, trial.number, trial.params)
            )
        return known[trial.number]

    def _tell(self, study: Study, outcomes: list[Outcome]) -> None:
        """In the order of the trials. A kill in between leaves some untold: the next call finds
        the same outcomes in the store and tells the rest."""
        for outcome in outcomes:
            number = outcome.trial.number
            study.note(number, cells=outcome.trial.cells, diverged=outcome.diverged)
            run = self.tracker and self.tracker.run_of(outcome.trial.key)
            if run:  # MLflow may be behind, or away
                study.note(number, run=run)
            study.report(number, outcome.curve)
            study.tell(number, outcome.value)

    def report(self, candidates: dict[str, list[Candidate]]) -> None:
        """What the user sees last."""
        for method, epochs in epochs_trained(self.cells, self.store).items():
            print(
                f"{self.tuning.name}/{method}: {self.tuning.settings.trials} trials, "
                f"{epochs['trained']} epochs trained, {epochs['trained'] / epochs['alone']:.0%} of "
                f"{epochs['alone']} for as many trainings of their own"
            )
            for c in candidates[method]:
                mean = "diverged" if c.mean is None else f"{100 * c.mean:.2f} %"
                shown = ", ".join(f"{k} {_short(v)}" for k, v in c.params.items())
                seeds = ", ".join(map(str, c.fresh))
                print(f"  #{c.number}: {100 * c.value:.2f} %, seeds {seeds}: {mean} ({shown})")
        elapsed = duration(time.monotonic() - self.started)
        print(f"{self.tuning.name}: tuned in {elapsed}", flush=True)


def _batch_line(study: Study, number: int, n_batches: int, outcomes: list[Outcome]) -> str:
    parts = []
    for o in outcomes:
        if o.value is not None:
            how = f"{100 * o.value:.2f} %"
        elif o.diverged:
            how = "diverged"
        else:
            how = f"pruned at {max(o.curve)} ({100 * o.curve[max(o.curve)]:.2f} %)"
        parts.append(f"#{o.trial.number} {how}")
    return f"[{study.method}, batch {number + 1}/{n_batches}] {', '.join(parts)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
