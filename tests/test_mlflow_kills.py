"""Whatever is killed, and whenever: in the end MLflow's rows are the journals', one for one."""

import multiprocessing
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import HANG, Patch, content_of, mlflow_client, runs_in

import harness.track.client
import harness.track.sync
from harness.cli import main
from harness.experiment.file import read
from harness.plan import make_plan
from harness.store import CellDir, Store
from harness.track.run_fields import NO_METRICS
from harness.track.sync import Tracker
from harness.tune.export import TrialRecord
from harness.tune.tracker import TrialView, TuneTracker
from harness.tune.tuning_file import read_tuning

FILE = Path("experiments/tiny.yaml")
TUNING = """
name: tiny
experiment: ../tiny.yaml
methods: {kd: {kd.alpha: {low: 0.1, high: 1}}}
trials: 4
batch: 2
startup_trials: 2
"""
KILLED = 9
Rows = Counter[tuple[str, int, float, int]]


def journal_rows(cell: CellDir) -> Rows:
    """Return (metric, epoch, value, time stamp) of every epoch in the journal."""
    return Counter(
        (name, line["epoch"], float(value), int(line["time"] * 1000))
        for line in cell.epochs()
        for name, value in line.items()
        if name not in NO_METRICS
    )


def mlflow_rows(database: Path, run_id: str) -> Rows:
    """Return the rows of a run as the database has them: a row that stands twice counts twice."""
    with sqlite3.connect(database) as connection:
        found = connection.execute(
            "select key, step, value, timestamp from metrics where run_uuid = ?", [run_id]
        )
        return Counter((key, step, value, stamp) for key, step, value, stamp in found)


class Journals:
    """The store of a grid that is training: every journal has only its first lines yet."""

    def __init__(self, finished: Store) -> None:
        self.cells = finished.all()
        self.whole = {
            c.path: (c / "journal.jsonl").read_bytes().splitlines(True) for c in self.cells
        }
        self.manifests = {c.path: (c / "manifest.json").read_bytes() for c in self.cells}
        for cell in self.cells:
            (cell / "mlflow.json").unlink(missing_ok=True)

    def show(self, n: int) -> None:
        for cell in self.cells:
            lines = self.whole[cell.path]
            (cell / "journal.jsonl").write_bytes(b"".join(lines[:n]))
            if n >= len(lines):
                (cell / "manifest.json").write_bytes(self.manifests[cell.path])
            else:
                (cell / "manifest.json").unlink(missing_ok=True)


def sync_until(step: int, make_tracker: Callable[[], Any]) -> None:
    """Sync in this process, and die before the `step`th call of MLflow or of `record_sent`.

    As with SIGKILL, nothing gets to clean up.
    """
    left = step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os._exit(KILLED)
            return function(*arguments, **keywords)

        return call

    class Client:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            return counted(getattr(self._client, name))

    torch.set_num_threads(1)  # a fork has none of the threads that this process may have started
    make = harness.track.client.make_client
    harness.track.client.make_client = lambda uri: Client(make(uri))
    harness.track.sync.record_sent = counted(harness.track.sync.record_sent)
    tracker = make_tracker()
    tracker.sync()
    os._exit(0)


def killed(step: int, make_tracker: Callable[[], Any]) -> bool:
    """Return whether a sync in its own process was killed; otherwise it came to its end."""
    process = multiprocessing.get_context("fork").Process(
        target=sync_until, args=(step, make_tracker)
    )
    process.start()
    process.join(HANG)
    assert process.exitcode in (0, KILLED)
    return process.exitcode == KILLED


@pytest.fixture
def folder(finished_copy: Path, empty_database: Path, monkeypatch: Patch) -> Iterator[Path]:
    """A finished store that no database knows, this process in its folder."""
    shutil.copy(empty_database, finished_copy / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished_copy / 'other.db'}")
    monkeypatch.chdir(finished_copy)
    yield finished_copy


@pytest.mark.parametrize("growing", [True, False], ids=["while-they-train", "afterwards"])
def test_every_row_of_the_journals_once(folder: Path, finished: Path, growing: bool) -> None:
    from harness.data import load

    experiment = read(FILE)
    plan, root = make_plan(experiment, load(experiment.dataset)), Path("runs")
    journals = Journals(Store(root))
    n_kills, step, longest = 0, 1, max(map(len, journals.whole.values()))
    journals.show(1 if growing else longest)
    while killed(step, lambda: Tracker(plan, Store(root))) or n_kills < longest:
        n_kills, step = n_kills + 1, step + (3 if growing else 2)
        journals.show(1 + n_kills if growing else longest)
    assert n_kills >= 10
    assert main(["sync", str(FILE)]) == 0

    client = mlflow_client(folder, "other.db")
    by_cell = {r.data.tags.get("fingerprint"): r for r in runs_in(client, "tiny")}
    assert len(by_cell) == len(runs_in(client, "tiny")) == 1 + len(plan.cells)
    for fingerprint in plan.cells:
        cell, run = Store(root).directory(fingerprint), by_cell[fingerprint]
        expected, found = journal_rows(cell), mlflow_rows(folder / "other.db", run.info.run_id)
        assert expected and not expected - found
        assert {key for key, *_ in found - expected}.isdisjoint(key for key, *_ in expected)
        assert set(found.values()) == {1}
    # Also what is no row: parameters, tags, results, states.
    assert content_of(client, "tiny") == content_of(mlflow_client(finished), "tiny")
    assert len(client.search_model_versions("")) == 1


def test_every_row_of_the_trials_once(folder: Path) -> None:
    file = Path("experiments/tuning/tiny.yaml")
    file.parent.mkdir()
    file.write_text(TUNING)
    tuning, store = read_tuning(file), Store(Path("runs"))
    finals = 3 * [c.path.name for c in store.all()]
    trials = tuple(
        TrialView(
            TrialRecord(
                trial=n,
                method="kd",
                state="COMPLETE",
                value=n / 8,
                params={"kd.alpha": 0.5},
                distributions={},
                curve={},
                cells={"kd": final},
            ),
            final,
        )
        for n, final in enumerate(finals)
    )

    def tracker() -> TuneTracker:
        made = TuneTracker(tuning, store, {"kd": "now"})
        made.view = trials
        return made

    n_kills = 0
    while killed(1 + n_kills // 2, tracker):
        n_kills += 1
    assert n_kills >= 16

    client, runs = mlflow_client(folder, "other.db"), {}
    for run in runs_in(client, "tiny-tuning"):
        key = run.data.tags.get("trial", run.data.tags["kind"])
        assert key not in runs
        runs[key] = run
    assert runs.keys() == {"study", *(str(t.record.trial) for t in trials)}
    assert {"space.kd.alpha.low", "trials"} <= runs["study"].data.params.keys()
    for trial in trials:
        run = runs[str(trial.record.trial)]
        found = mlflow_rows(folder / "other.db", run.info.run_id)
        metric = tuning.settings.metric
        journal = journal_rows(store.directory(trial.final))
        assert Counter(row for row in journal.elements() if row[0] == metric) == Counter(
            row for row in found.elements() if row[0] == metric
        )
        assert sum(found.values()) == 1 + sum(row[0] == metric for row in journal)
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
