"""`harness tune` from start to end: ask, train and tell; train the best again; write the winner."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from harness.cell import SEMANTICS
from harness.common.durations import duration
from harness.common.errors import UserError, one_line
from harness.common.exit_status import FAILED, INTERRUPTED, OK, UNFINISHED, WRONG_USE
from harness.common.provenance import code_version_or_warn
from harness.common.signals import StopSignal
from harness.data import Dataset, load
from harness.execute import Executor
from harness.execute.executors import make_executor
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.methods import get_method
from harness.methods.base import TRAINING
from harness.plan import Plan, task_views
from harness.run.display import LiveDisplay
from harness.run.networks import check_networks
from harness.run.options import RunOptions
from harness.run.session import RESUME_HINTS, finish_tracking, start_tracking, stoppable
from harness.store import Store
from harness.store.manifest import CellOptions
from harness.track.environment import tracking_uri
from harness.tune.export import TrialRecord, count_epochs, record_of, write_bundle
from harness.tune.halving import Outcome, check_rungs, run_batch
from harness.tune.interleave import Interleaved, Steps
from harness.tune.storage import TUNING, only_orchestrator, open_storage, place_of
from harness.tune.study import Study, sampler_seed, study_name
from harness.tune.tracker import TrialView, TuneTracker
from harness.tune.trials import TrialCells, TrialsFailed, cells_of
from harness.tune.tuning_file import Tuning
from harness.tune.winner import Candidate, Winners, check_final, confirm, write_winner

# Draws the figures of a bundle and returns (method, file) of each.
Draw = Callable[[Path], list[tuple[str, Path]]]


def identity_of(tuning: Tuning, dataset: Dataset, method: str) -> dict[str, Any]:
    """Return everything that a study's trials depend on, as plain JSON data."""
    settings, base = tuning.settings, tuning.base
    used = [*base.resolved_methods, *(get_method(name) for name in tuning.spaces)]
    sections = {TRAINING, *(section for m in used for section in (*m.sections, *m.epoch_sources))}
    every = base.protocol.evaluate_every
    return {
        "space": {f: v.model_dump(mode="json") for f, v in tuning.spaces[method].items()},
        "sampling": {
            **settings.model_dump(
                mode="json", include={"batch", "seed", "startup_trials", "pruning"}
            ),
            "sampler_seed": sampler_seed(settings.seed, study_name(tuning, method)),
        },
        "objective": {"metric": settings.metric, "direction": settings.direction},
        "experiment": {
            **base.model_dump(mode="json", include={"teacher", "students", "pairs"}),
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
    options: RunOptions,
    *,
    storage: str | None = None,
    draw: Draw = lambda bundle: [],
) -> int:
    """Run every missing trial, train the best again, and write the tuned file.

    Returns:
        The exit status.

    Raises:
        UserError: wrong input; nothing was started.
    """
    slots, root = options.slots(), options.store
    check_final(tuning)
    check_rungs(tuning)
    store = Store(root)
    store.create()
    executor = make_executor(options.cluster, slots, code_version_or_warn())
    dataset = load(tuning.base.dataset, with_test=False)
    task_views(tuning.base, dataset)  # checks all tasks before one is trained
    check_networks(tuning.base, dataset, [get_method(method) for method in tuning.spaces])
    for_cells = options.of_cells(tuning.base, slots)
    limit = options.max_seconds
    deadline = None if limit is None else time.monotonic() + limit
    winners, bundles = [], []
    n_trials = sum(part.n_trials(method) for part in tuning.parts for method in part.spaces)
    tasks = f" for {n} tasks" if (n := len(tuning.parts)) > 1 else ""
    print(
        f"{tuning.name}: {n_trials} trials of {len(tuning.spaces)} methods{tasks}, with "
        f"{executor.capacity} jobs",
        flush=True,
    )
    with contextlib.closing(executor):
        for part in tuning.parts:
            left = None if deadline is None else deadline - time.monotonic()
            place = place_of(storage, root, part.name)
            with only_orchestrator(part.name, root, place) as check_owner, stoppable() as stops:
                opened = open_storage(place, tracking_uri())
                identity = {method: identity_of(part, dataset, method) for method in part.spaces}
                studies = [Study(opened, part, m, identity[m], check_owner) for m in part.spaces]
                search = Search(
                    part, store, dataset, studies, executor, for_cells, left, options.no_bar
                )
                status, best = _search(search, stops)
                if status != OK:
                    return status
                epochs = count_epochs(search.cells, store)
                records = search.records()
                bundle = write_bundle(part, root / TUNING, identity, records, best, epochs)
                if part.task is None:
                    _log_figures(search.tracker, draw(bundle))
                search.report(best)
            winners.append((part, best))
            bundles.append(bundle.as_posix())
    print(f"written: {write_winner(tuning, winners)}, {', '.join(bundles)}")
    first = [candidates[0] for _, best in winners for candidates in best.values()]
    late = sum(winner.after_startup for winner in first)
    print(f"{late} of {len(first)} winners came after the random start-up")
    return OK


def _search(search: Search, stops: StopSignal) -> tuple[int, Winners]:
    """Search one task and keep MLflow up to date; return the exit status and the best trials."""
    tracker = TuneTracker(
        search.tuning, search.store, {s.method: s.started for s in search.studies}
    )
    search.tracker = tracker
    (sync,) = start_tracking(tracker)
    status, winners = FAILED, {}
    try:
        winners = search.run()
        status = OK
    except UserError as error:
        status = WRONG_USE
        print(f"error: {one_line(error)}", file=sys.stderr)
    except OutOfTime:
        status = UNFINISHED
    except KeyboardInterrupt:
        status = INTERRUPTED
    except TrialsFailed as error:
        print(f"error: {error}; rerun the command to try again", file=sys.stderr)
    finally:
        if status in RESUME_HINTS:
            print(RESUME_HINTS[status])
        if status != WRONG_USE:  # else the studies cannot be read
            search.show(winners)
        sync.finish(lambda: finish_tracking(sync, all_done=status == OK), stops=stops)
    return status, winners


def without_pauses(
    progress: Progress, update: Callable[[str | None], None]
) -> Callable[[str | None], None]:
    """Return `update`, called without the fingerprints of cells that paused at a rung."""
    return lambda f: update(None if f is not None and progress.state[f] == "paused" else f)


def _log_figures(tracker: TuneTracker | None, figures: list[tuple[str, Path]]) -> None:
    if tracker is None or not tracker.server.is_open:  # a warning has been printed
        return
    try:
        tracker.log_figures(figures)
    except Exception as error:
        print(f"warning: MLflow has no figures ({type(error).__name__})", file=sys.stderr)


class Search:
    """The search of one part of a tuning.

    Attributes:
        cells: method -> the cells of its trials, in the order of their numbers.
        tracker: MLflow's, once it has been started.
    """

    def __init__(
        self,
        tuning: Tuning,
        store: Store,
        dataset: Dataset,
        studies: list[Study],
        executor: Executor,
        options: CellOptions | None = None,
        max_seconds: float | None = None,
        no_bar: bool = True,
    ) -> None:
        """Prepare a search with one study per method; `options` are those of `Store.prepare`."""
        self.tuning, self.store, self.dataset = tuning, store, dataset
        self.studies, self.executor = studies, executor
        self.max_seconds = max_seconds
        self.live = not no_bar and sys.stdout.isatty()
        self.tracker: TuneTracker | None = None
        self.options = options
        self.cells: dict[str, list[TrialCells]] = {s.method: [] for s in studies}
        self.started = time.monotonic()

    def run(self) -> Winners:
        """Search and return method -> its best trials, the winner first.

        Raises:
            OutOfTime: after `max_seconds`.
            KeyboardInterrupt: passed on, with all cells stopped.
            TrialsFailed: a cell failed; the other methods have come to their end.
        """
        progress = begin(Plan(self.tuning.base, {}, ()), self.store)
        steps = {study.method: self._steps(study) for study in self.studies}
        searches = Interleaved(steps, progress, self.store)
        with LiveDisplay(progress) if self.live else contextlib.nullcontext() as display:
            update = without_pauses(progress, display.update) if display else lambda _: None
            run(progress, self.executor, self.options, self.max_seconds, update, more=searches.more)
        if searches.failures:
            raise TrialsFailed("; ".join(map(str, searches.failures.values())))
        return {study.method: searches.results[study.method] for study in self.studies}

    def _steps(self, study: Study) -> Steps[list[Candidate]]:
        """Take one method's steps: its batches, then the re-run of the best trials."""
        settings = self.tuning.settings
        n_batches = study.n_trials // settings.batch
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

    def records(self) -> list[TrialRecord]:
        """Return the trials that were planned so far, study by study."""
        return [
            record_of(study, trial, cells)
            for study in self.studies
            for trial, cells in zip(study.trials, self.cells[study.method], strict=False)
        ]

    def show(self, winners: Winners | None = None) -> None:
        """Give the tracker the present state of every trial."""
        if self.tracker is None:
            return
        ranked = list((winners or {}).values())
        means = {(c.method, c.number): c.mean for candidates in ranked for c in candidates}
        first = {(candidates[0].method, candidates[0].number) for candidates in ranked}
        self.tracker.view = tuple(
            TrialView(record, self.cells[key[0]][key[1]].final, means.get(key), key in first)
            for record in self.records()
            for key in [(record.method, record.trial)]
        )

    def _cells(self, study: Study, trial: FrozenTrial) -> TrialCells:
        planned = self.cells[study.method]
        if trial.number == len(planned):
            planned.append(
                cells_of(self.tuning, self.dataset, study.method, trial.number, trial.params)
            )
        return planned[trial.number]

    def _tell(self, study: Study, outcomes: list[Outcome]) -> None:
        """Tell the study how its trials ended, in their order.

        A kill may leave some untold: the next call finds the same outcomes in the store.
        """
        for outcome in outcomes:
            number = outcome.trial.number
            study.note(number, cells=outcome.trial.cells, diverged=outcome.diverged)
            run_id = self.tracker and self.tracker.run_of(outcome.trial.key)
            if run_id:  # MLflow may be behind, or away
                study.note(number, run=run_id)
            study.report(number, outcome.curve)
            study.tell(number, outcome.value)

    def report(self, winners: Winners) -> None:
        """Print the cost and the best trials of each method, and the time taken.

        Trials of the random start-up are marked.
        """
        for method, epochs in count_epochs(self.cells, self.store).items():
            n_parameters = len(self.tuning.spaces[method])
            print(
                f"{study_name(self.tuning, method)}: {self.tuning.n_trials(method)} trials for "
                f"{n_parameters} parameter{'s' * (n_parameters > 1)}, "
                f"{epochs.trained} epochs trained, {epochs.trained / epochs.alone:.0%} of the "
                f"{epochs.alone} that as many separate trainings would take"
            )
            for c in winners[method]:
                mean = "diverged" if c.mean is None else f"{100 * c.mean:.2f} %"
                params = ", ".join(f"{field} {_short(v)}" for field, v in c.params.items())
                seeds = ", ".join(map(str, c.fresh))
                when = "" if c.after_startup else ", random"
                print(
                    f"  #{c.number}{when}: {100 * c.value:.2f} %, seeds {seeds}: {mean} ({params})"
                )
        elapsed = duration(time.monotonic() - self.started)
        print(f"{self.tuning.name}: tuned in {elapsed}", flush=True)


def _batch_line(study: Study, number: int, n_batches: int, outcomes: list[Outcome]) -> str:
    trials = []
    for o in outcomes:
        if o.value is not None:
            result = f"{100 * o.value:.2f} %"
        elif o.diverged:
            result = "diverged"
        else:
            result = f"pruned at {max(o.curve)} ({100 * o.curve[max(o.curve)]:.2f} %)"
        trials.append(f"#{o.trial.number} {result}")
    return f"[{study.method}, batch {number + 1}/{n_batches}] {', '.join(trials)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
