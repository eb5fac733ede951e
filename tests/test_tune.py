"""Tuning without processes: an executor that only writes journals stands for the training, so that
whole studies run in seconds and can be stopped at any point."""

import functools
import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from helpers import ROOT, TINY, one_error_line, some_manifest

from harness import cli
from harness.common.errors import UserError
from harness.data import load
from harness.experiment.file import read
from harness.plan import make_plan
from harness.store import CellDir, Store
from harness.train.exit_status import DONE, FAILED, STOPPED
from harness.tune.export import (
    RESULTS,
    CandidateRecord,
    EpochCounts,
    TrialRecord,
    TuningHeader,
    count_epochs,
    write_bundle,
)
from harness.tune.halving import check_rungs, rung_epochs, survivors
from harness.tune.search import Search, identity_of
from harness.tune.storage import only_orchestrator, open_storage
from harness.tune.study import ENQUEUED_PARAMS, Study, contains, distributions, sample
from harness.tune.trials import TrialsFailed, cells_of
from harness.tune.tuning_file import read_tuning
from harness.tune.winner import check_final, tuned_path, write_winner

LONG = TINY | {"training": {"epochs": 20}, "stage1": {"epochs": 20}, "stage2": {"epochs": 20}}
TUNING: dict[str, Any] = {
    "name": "tiny",
    "experiment": "../tiny.yaml",
    "methods": {
        "plain": {"training.lr": {"low": 0.01, "high": 0.5, "log": True}},
        "kd": {"kd.temperature": {"low": 1, "high": 20}, "kd.alpha": {"low": 0.1, "high": 1}},
        "refilled": {
            "stage1.tau1": [0.25, 1, 4, 8, 16],
            "stage2.tau2": {"low": 0.25, "high": 16, "log": True},
            "stage2.lambd": {"low": 0.1, "high": 1000, "log": True},
        },
    },
    "trials": 30,
    "batch": 6,
}
SMALL = TUNING | {"trials": 12, "batch": 4, "startup_trials": 3, "top_k": 2, "fresh_seeds": [7, 8]}
JOURNAL = "tuning/runs/tuning/tiny.journal"


def write(folder: Path, tuning: dict[str, Any] = TUNING, experiment: Any = LONG) -> Path:
    for path, raw in (("tiny.yaml", experiment), ("tuning/tiny.yaml", tuning)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder / "tuning" / "tiny.yaml"


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def score(cell: dict[str, Any], epoch: int) -> float:
    """Make up a validation accuracy that grows with the epoch and depends on all settings."""
    noise = int(hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:4], 16)
    lambd = cell["spec"].get("stage2", {}).get("lambd", 10.0)
    return 0.9 - 0.5 / (epoch + 1) - 0.02 * abs(math.log10(lambd / 10)) + 1e-6 * noise


class JournalWriter:
    """An executor whose cells end at once.

    Attributes:
        budget: epochs until the process is killed.
        broken, diverging: kinds of cells that fail.
    """

    capacity = 2

    def __init__(self, budget: float = math.inf, broken: str = "", diverging: str = "") -> None:
        self.budget, self.broken, self.diverging = budget, broken, diverging
        self.ended: list[tuple[Path, int]] = []
        self.seen: list[Path] = []

    def submit(self, directory: Path) -> None:
        self.seen.append(directory)
        self.ended.append((directory, self.train(CellDir(directory))))

    def train(self, directory: CellDir) -> int:
        cell = directory.cell.as_json()
        assert cell["spec"]["data"]["without_test"] is True
        kind = cell["kind"]
        if kind in (self.broken, self.diverging):
            directory.append("failed", error="no", diverged=kind != self.broken)
            return FAILED
        last = cell["spec"][kind if kind in ("stage1", "stage2") else "training"]["epochs"]
        goal = min(directory.pause_after or last, last)
        n_epochs = len(directory.epochs())
        if not (directory / "checkpoint.pt").exists() and n_epochs:
            pytest.fail("a pruned trial was trained again")
        for epoch in range(n_epochs + 1, goal + 1):
            if self.budget <= 0:
                raise Killed
            self.budget -= 1
            metrics = {"validation/accuracy": score(cell, epoch)}
            directory.append("epoch", epoch=epoch, lr=0.1, **metrics)
            if not (directory / "checkpoint.pt").exists():
                directory.write_checkpoint(b"weights")
        if goal < last:
            return STOPPED
        (directory / "model.pt").write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        directory.finish(some_manifest(commits=["c0ffee"], model_sha256=digest))
        return DONE

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        ended, self.ended = self.ended, []
        return ended

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass

    def cancel(self, grace: float = 15.0) -> None:
        pass


def session(file: Path, executor: Any, storage: str = "", sets: list[str] | None = None) -> Search:
    tuning = read_tuning(file, sets)
    store = Store(file.parent / "runs")
    store.create()
    dataset = load(tuning.base.dataset, with_test=False)
    opened = open_storage(storage or str(store.root / "tuning" / "tiny.journal"), "")
    studies = [Study(opened, tuning, m, identity_of(tuning, dataset, m)) for m in tuning.spaces]
    return Search(tuning, store, dataset, studies, executor)


def finished(file: Path, executor: Any = None, storage: str = "") -> Search:
    search = session(file, executor or JournalWriter(), storage)
    search.run()
    return search


def content(search: Search) -> dict[str, Any]:
    """Return everything that the studies hold, but times."""
    return {
        f"{s.method} {t.number}": (t.state.name, t.value, t.params, t.intermediate_values)
        for s in search.studies
        for t in s.trials
    }


@pytest.fixture(scope="module", autouse=True)
def no_power_cuts() -> Iterator[None]:
    """Skip fsync, as thousands of calls would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Search, Any]]:
    """Tune with 30 trials of each method."""
    search = session(write(tmp_path_factory.mktemp("whole")), JournalWriter())
    yield search, search.run()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the small studies hold if nothing stops them."""
    return content(finished(write(tmp_path_factory.mktemp("small"), SMALL)))


# -- cost ---------------------------------------------------------------------------------------


def test_thirty_trials_cost_less_than_45_percent_of_thirty_trainings(whole: Any) -> None:
    search, _ = whole
    epochs = count_epochs(search.cells, search.store)
    assert epochs["refilled"].alone == 30 * (20 + 20)
    assert epochs["refilled"].trained <= 0.45 * 30 * (20 + 20), epochs
    # At most one stage 1 per value of tau1; in a batch six train to 5, three to 10 and two to 20.
    assert epochs["refilled"].trained <= 5 * 20 + 5 * (6 * 5 + 3 * 5 + 2 * 10)
    assert epochs["plain"] == EpochCounts(trained=5 * 65, alone=30 * 20) == epochs["kd"]


def test_each_method_has_the_same_number_of_trials(whole: Any) -> None:
    search, winners = whole
    assert [len(s.trials) for s in search.studies] == [30, 30, 30]
    assert all(s.is_finished for s in search.studies)
    assert {m: len(c) for m, c in winners.items()} == {"plain": 3, "kd": 3, "refilled": 3}


def test_trials_with_one_tau1_share_stage_1(whole: Any) -> None:
    search, _ = whole
    stage1 = {t.params["stage1.tau1"]: t.cells["stage1"] for t in search.cells["refilled"]}
    assert len({t.cells["stage1"] for t in search.cells["refilled"]}) == len(stage1) <= 5
    assert len({t.cells["teacher"] for m in ("kd", "refilled") for t in search.cells[m]}) == 1


def test_every_method_gets_the_common_fields_and_trials_for_each(tmp_path: Path) -> None:
    fields = {
        "common": {"lr": {"low": 0.01, "high": 0.5}, "optimizer": {"weight_decay": [0, 0.001]}},
        "methods": {
            "plain": {"training.augment": [None, "trivialaugment"]},
            "probe": {"probe.l2": [1, 2]},
            "refilled": {"stage1": {"lr": [0.1, 0.2], "tau1": [1, 4]}},
        },
        "trials": None,
        "trials_per_parameter": 4,
        "startup_trials": 5,
    }
    tuning = read_tuning(write(tmp_path, TUNING | fields))
    assert {m: list(space) for m, space in tuning.spaces.items()} == {
        "plain": ["optimizer.weight_decay", "training.augment", "training.lr"],
        "probe": ["probe.l2"],
        "refilled": ["optimizer.weight_decay", "stage1.lr", "stage1.tau1", "stage2.lr"],
    }
    assert tuning.spaces["refilled"]["stage1.lr"].ends == [0.1, 0.2]
    assert tuning.spaces["plain"]["training.augment"].ends == [None, "trivialaugment"]
    # Whole batches of 6; the first is random.
    assert {m: tuning.n_trials(m) for m in tuning.spaces} == {
        "plain": 12,
        "probe": 12,
        "refilled": 18,
    }
    dataset = load(tuning.base.dataset, with_test=False)
    params = {"optimizer.weight_decay": 0.001, "stage1.lr": 0.1, "stage1.tau1": 4, "stage2.lr": 0.1}

    def stage1(**changes: float) -> str:
        changed = params | {field.replace("_", ".", 1): value for field, value in changes.items()}
        return cells_of(tuning, dataset, "refilled", 0, changed).cells["stage1"]

    assert stage1() == stage1(stage2_lr=0.2)
    others = stage1(stage1_lr=0.2), stage1(stage1_tau1=1), stage1(optimizer_weight_decay=0)
    assert len({stage1(), *others}) == 4


def test_pruned_trials_leave_their_slot_and_no_checkpoint(whole: Any) -> None:
    search, _ = whole
    for study in search.studies:
        for trial, cells in zip(study.trials, search.cells[study.method], strict=True):
            directory = search.store.directory(cells.final)
            assert not list(directory.path.glob("checkpoint*"))
            assert directory.is_done == (trial.state.name == "COMPLETE")
            assert max(trial.intermediate_values) in ((20,) if directory.is_done else (5, 10))
    assert all((r.value is None) == (r.state == "PRUNED") for r in search.records())


def test_halving() -> None:
    assert [rung_epochs((0.25, 0.5), n) for n in (20, 2, 1)] == [[5, 10], [1], []]
    assert rung_epochs((0.25, 0.5), 20, every=4) == [4, 8]
    assert rung_epochs((0.3, 0.35), 20, every=5) == [5]  # one measurement is compared once
    assert rung_epochs((0.1, 0.5), 20, every=5) == [0, 10]
    values = {0: 0.5, 1: 0.7, 2: 0.7, 3: 0.1, 4: 0.7}
    assert survivors(values, 0.5, "maximize") == [1, 2, 4]
    assert survivors(values, 0.2, "maximize") == [1]  # of equal ones the earlier
    assert survivors(values, 0.4, "minimize") == [0, 3]


# -- the same trials, always --------------------------------------------------------------------


def kill_after(epochs: int, file: Path, storage: str = "") -> None:
    with pytest.raises(Killed):
        session(file, JournalWriter(epochs), storage).run()


def stop_after_half(file: Path) -> None:
    session(file, JournalWriter(), sets=["trials=8"]).run()


def fail_in_stage1(file: Path) -> None:
    search = session(file, JournalWriter(broken="stage1"))
    with pytest.raises(TrialsFailed, match=r"refilled #0.*: no"):
        search.run()
    states = {s.method: {t.state.name for t in s.trials} for s in search.studies}
    assert states.pop("refilled") == {"RUNNING"}
    assert [*states.values()] == [{"COMPLETE", "PRUNED"}] * 2, "the others' trials are lost"


def leave_a_lock(file: Path) -> None:
    """Kill the process while it writes the journal."""
    kill_after(100, file)
    journal = file.parent.parent / JOURNAL
    journal.with_name("tiny.journal.lock").symlink_to(journal)


INTERRUPTIONS: dict[str, Callable[[Path], None]] = {
    **{f"killed-after-{n}": functools.partial(kill_after, n) for n in (1, 21, 60, 90, 180)},
    "fewer-trials": stop_after_half,
    "failed": fail_in_stage1,
    "locked": leave_a_lock,
}


@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_resumed_studies_have_the_same_trials(tmp_path: Path, small: Any, how: str) -> None:
    file = write(tmp_path, SMALL)
    INTERRUPTIONS[how](file)
    search = finished(file)
    assert content(search) == small and all(s.is_finished for s in search.studies)


def test_sqlite_and_journal_give_the_same_trials(tmp_path: Path, small: Any) -> None:
    file, url = write(tmp_path, SMALL), f"sqlite:///{tmp_path / 'study.db'}"
    kill_after(60, file, url)
    assert content(finished(file, storage=url)) == small


def test_killed_between_writes_to_the_storage(
    tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let each call write a little more; no trial may be lost, doubled or stuck."""
    from optuna.storages.journal import JournalFileBackend

    file = write(tmp_path, SMALL)
    original, calls, left = JournalFileBackend.append_logs, 0, 0

    def append(self: Any, logs: Any) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        original(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
    while True:
        left = 5 + calls % 7  # one write at a time would take minutes
        calls += 1
        try:
            search = finished(file)
            break
        except (Killed, UserError):
            assert calls < 200
    assert calls > 10
    assert content(search) == small


def test_the_seed_decides_and_the_number_of_jobs_does_not(tmp_path: Path, small: Any) -> None:
    executor = JournalWriter()
    executor.capacity = 5
    assert content(finished(write(tmp_path, SMALL), executor)) == small
    assert content(finished(write(tmp_path / "other", SMALL | {"seed": 1}))) != small


def test_sampling_does_not_depend_on_what_ran_before() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    first = sample([], space, "maximize", 0, 1)
    assert first == sample([], space, "maximize", 0, 1)
    trial = optuna.trial.create_trial(value=1.0, params=first, distributions=space)
    second = sample([trial], space, "maximize", 0, 1)
    assert second == sample([trial], space, "maximize", 0, 1) != first


def test_no_two_studies_begin_with_the_same_trials(tmp_path: Path) -> None:
    space = TUNING["methods"]["refilled"]
    twice = SMALL | {"methods": {"refilled": space, "refilled-triplet": space}}
    first, second = session(write(tmp_path, twice), JournalWriter()).studies
    renamed = session(write(tmp_path / "b", twice | {"name": "other"}), JournalWriter()).studies[0]
    lambdas = {t.params["stage2.lambd"] for s in (first, second, renamed) for t in s.batch(0)}
    assert len(lambdas) == 3 * 4


def test_a_study_from_before_is_refused(tmp_path: Path) -> None:
    tuning = read_tuning(write(tmp_path, SMALL))
    identity = identity_of(tuning, load(tuning.base.dataset, with_test=False), "kd")
    old = identity | {"sampling": {**identity["sampling"]}}
    del old["sampling"]["sampler_seed"]
    opened = open_storage(str(tmp_path / "tiny.journal"), "")
    Study(opened, tuning, "kd", old)
    with pytest.raises(UserError, match=r"sampling\.sampler_seed"):
        Study(opened, tuning, "kd", identity)


def test_fewer_trials_than_there_are_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    finished(file)
    with pytest.raises(UserError, match=r"^trials: .* 12 "):
        session(file, JournalWriter(), sets=["trials=8"])


def test_a_torn_last_line_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session(write(tmp_path, SMALL), JournalWriter())
    journal = tmp_path / JOURNAL
    text = journal.read_bytes()
    shorter = text[: text[:-1].rindex(b"\n") + 1]
    for torn in (text + b'{"op_code":6,"tri', text[:-9], text + b"\0\0\0\n"):
        journal.write_bytes(torn)
        open_storage(str(journal), "")
        assert str(journal) in capsys.readouterr().err
        assert journal.read_bytes() == (shorter if torn == text[:-9] else text)


def test_one_orchestrator_per_study(tmp_path: Path) -> None:
    study = ("tiny", tmp_path, str(tmp_path / "study.journal"))
    with only_orchestrator(*study), pytest.raises(UserError, match=str(os.getpid())):  # noqa: SIM117
        with only_orchestrator(*study):
            pass
    with only_orchestrator(*study):
        pass


# -- Optuna -------------------------------------------------------------------------------------


def test_optuna_still_has_the_storage_methods_that_studies_call() -> None:
    called = set(re.findall(r"self\._storage\.(\w+)\(", inspect.getsource(Study)))
    assert len(called) == 6
    assert called <= set(dir(optuna.storages.BaseStorage))


def test_optuna_still_keeps_enqueued_parameters_where_studies_read_them() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5})
    assert study.trials[0].system_attrs[ENQUEUED_PARAMS] == {"x": 0.5}


@pytest.mark.parametrize(("value", "expected"), [(0.5, True), (1.5, False), ("a", False)])
def test_a_distribution_contains_its_range(value: Any, expected: bool) -> None:
    assert contains(optuna.distributions.FloatDistribution(0, 1), value) is expected


def test_an_enqueued_trial_is_asked_in_its_turn(tmp_path: Path) -> None:
    """Its parameters are used as far as they are in the space; the rest are sampled."""
    study = session(write(tmp_path, SMALL), None).studies[0]
    ((field, distribution),) = study.space.items()
    assert isinstance(distribution, optuna.distributions.FloatDistribution)
    low, high = distribution.low, distribution.high
    middle = (low + high) / 2
    for params in ({field: middle}, {field: high * 10}, {"nosuch": 1}, {}):
        study.optuna.enqueue_trial(params)
    trials = study.batch(0)
    assert [(t.number, t.state.name) for t in trials] == [(n, "RUNNING") for n in range(4)]
    assert trials[0].params == {field: middle}
    assert all(low <= t.params[field] <= high for t in trials)
    assert study.batch(0) == trials


def test_a_trial_of_another_program_is_named(tmp_path: Path) -> None:
    study = session(write(tmp_path, SMALL), None).studies[0]
    study.optuna.ask()
    with pytest.raises(UserError, match=r"^tiny/plain: trial 0 "):
        study.batch(0)


# -- one method beside another ------------------------------------------------------------------


def test_trials_name_their_mlflow_runs(tmp_path: Path) -> None:
    """They name the runs that had been sent when the trial ended."""
    search = session(write(tmp_path, SMALL), JournalWriter())
    sent = {("kd", 0): "a run", ("plain", 3): "another"}
    tracker: Any = SimpleNamespace(run_of=sent.get, view=())
    search.tracker = tracker
    search.run()
    runs = {(s.method, t.number): t.user_attrs.get("run") for s in search.studies for t in s.trials}
    assert {key: run for key, run in runs.items() if run} == sent
    assert len(tracker.view) == 36


class OneIsSlow(JournalWriter):
    """Cells of one kind end only when nothing else runs."""

    capacity = 99

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        slow = [e for e in self.ended if CellDir(e[0]).cell.kind == self.kind]
        now = [e for e in self.ended if e not in slow] or slow
        self.ended = [e for e in self.ended if e not in now]
        return now


def test_no_method_waits_for_another(tmp_path: Path, small: Any) -> None:
    """Plain's search ends, with the same trials, before KD's first batch is at its first rung."""
    executor = OneIsSlow("kd")
    search = finished(write(tmp_path, SMALL), executor)
    kinds = [CellDir(p).cell.kind for p in executor.seen]
    plain = [n for n, kind in enumerate(kinds) if kind == "supervised"]
    assert kinds[: max(plain)].count("kd") == SMALL["batch"]
    assert content(search) == small


def test_a_diverging_trial_is_pruned_and_not_tried_again(tmp_path: Path) -> None:
    executor = JournalWriter(diverging="kd")
    search = session(write(tmp_path, SMALL), executor)
    with pytest.raises(TrialsFailed, match=r"^tiny/kd: "):
        search.run()
    kd = next(s for s in search.studies if s.method == "kd")
    assert [t.state.name for t in kd.trials] == ["PRUNED"] * 12
    assert all(t.user_attrs["diverged"] and not t.intermediate_values for t in kd.trials)
    failed = [p for p in executor.seen if CellDir(p).cell.kind == "kd"]
    assert len(failed) == len(set(failed))


# -- the test set -------------------------------------------------------------------------------


def test_tuning_cells_have_no_test_images(tmp_path: Path) -> None:
    tuning = read_tuning(write(tmp_path))
    dataset, ordinary = load(tuning.base.dataset, with_test=False), load(tuning.base.dataset)
    assert dataset.test is None and dataset.digest != ordinary.digest
    for method, space in tuning.spaces.items():
        params = {field: values.ends[0] for field, values in space.items()}
        plan = cells_of(tuning, dataset, method, 0, params).plan
        assert plan.experiment.seeds == (1000,), "the experiment reports other seeds"
        cells = plan.cells
        assert all(c.config.data.without_test for c in cells.values())
        assert all(c.config.protocol.train_on == "train" for c in cells.values())
        assert not cells.keys() & make_plan(tuning.base, ordinary).cells.keys()


# -- the winner ---------------------------------------------------------------------------------


def test_the_winner_is_the_best_mean_over_fresh_seeds(whole: Any) -> None:
    search, winners = whole
    for study in search.studies:
        first, *others = winners[study.method]
        assert {c.number for c in [first, *others]} == {t.number for t in study.best(3)}
        assert all(first.mean >= c.mean for c in others)
        assert list(first.fresh) == [101, 102, 103]
        assert first.mean == pytest.approx(sum(first.fresh.values()) / 3)


def test_the_tuned_file_is_an_ordinary_experiment(whole: Any) -> None:
    search, winners = whole
    path = write_winner(search.tuning, [(search.tuning, winners)])
    assert path == tuned_path(search.tuning)
    assert path == search.tuning.experiment_file.with_name("tiny.tuned.yaml")
    experiment = read(path)
    assert experiment.protocol_label == "strict(train_on=train+validation, selection=last)"
    assert experiment.methods == ("plain", "kd", "refilled")
    best = winners["refilled"][0]
    settings = experiment.for_method("refilled")
    assert settings.stage1.tau1 == best.params["stage1.tau1"]
    assert settings.stage2.lambd == best.params["stage2.lambd"]
    assert experiment.stage2.lambd == 100
    tuned = experiment.tuned["refilled"]
    assert (tuned.trial, tuned.trials, tuned.study) == (best.number, 30, "tiny/refilled")
    assert (tuned.seeds, tuned.commits) == ((101, 102, 103), ("c0ffee",))
    assert (tuned.parameters, tuned.trial_seed) == (3, 1000)
    assert tuned.after_startup is (best.number >= 12)  # the batch in which trial 10 is random
    for seed in (102, 1000):
        with pytest.raises(UserError, match=rf"^seeds: {seed} "):
            read(path, [f"seeds=[5, {seed}]"])
    assert tuned.validation == best.mean
    plan = make_plan(experiment, load(experiment.dataset))
    specs = {e.stage: plan.cells[e.fingerprint].config.as_json() for e in plan.entries}
    assert specs["stage2"]["stage2"]["lambd"] == best.params["stage2.lambd"]
    assert specs["student"]["training"]["lr"] == winners["plain"][0].params["training.lr"]
    assert specs["teacher"]["training"]["lr"] == 0.1  # every method has the same teacher
    assert "without_test" not in specs["stage2"]["data"]
    text = path.read_text()
    assert write_winner(search.tuning, [(search.tuning, winners)]).read_text() == text


def test_the_caption_shows_the_budget_of_each_method() -> None:
    from harness.analysis.bundle_fields import TunedPart
    from harness.analysis.tables.caption import tuning_budget

    tuned = {"plain": TunedPart(trials=30, parameters=2), "refilled": TunedPart(trials=None)}
    (line,) = tuning_budget(["plain", "kd", "refilled"], tuned)
    assert line.endswith("trials: plain 30 for 2 parameters, refilled by hand, kd none.")
    assert tuning_budget(["plain"], None) == []


def test_figures_are_drawn_from_the_bundle(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.analysis.tuning import draw, keep, make_tuning_figures, read_tuning_bundle
    from harness.analysis.tuning_winners import late_winners

    search, winners = whole
    monkeypatch.chdir(search.tuning.experiment_file.parent)
    identity: dict[str, dict[str, Any]] = {s.method: {} for s in search.studies}
    epochs = count_epochs(search.cells, search.store)
    store = Path("runs")
    with pytest.raises(UserError, match="not tuned in runs"):
        keep(search.tuning, store)
    bundle = write_bundle(
        search.tuning, store / "tuning", identity, search.records(), winners, epochs
    )
    assert bundle == store / "tuning" / "tiny.jsonl"
    names = {f"{m} {path.stem.rpartition('-')[2]}" for m, path in draw(bundle)}
    kinds = ("history", "slice", "importance", "contour")
    assert names == {f"{m} {k}" for m in identity for k in kinds} - {"plain contour"}
    assert {len(s.trials) for s in read_tuning_bundle(bundle).studies.values()} == {30}
    assert "test/" not in bundle.read_text()
    late = sum(best.number >= 12 for best, *_ in winners.values())
    assert late_winners() == {}, "a tuning is one's own until it is kept"
    assert not Path("docs").exists() and not Path("experiments").exists()
    assert keep(search.tuning, store) == [RESULTS / "tiny.jsonl"]
    assert late_winners() == {"tiny": (late, 3)}
    assert {path.name for path in Path("docs/figures/tuning").iterdir()} == {
        path.name for path in (store / "tuning" / "figures").iterdir()
    }
    with pytest.raises(UserError):
        read_tuning_bundle(search.tuning.file)
    monkeypatch.chdir(tmp_path)
    make_tuning_figures()  # there are none


@pytest.mark.parametrize("path", sorted((ROOT / RESULTS).rglob("*.jsonl")), ids=lambda p: p.stem)
def test_committed_bundles_are_what_their_records_say(path: Path) -> None:
    header, *lines = path.read_text().splitlines()
    raws = [json.loads(line) for line in lines]
    models = [CandidateRecord if "candidate" in raw else TrialRecord for raw in raws]
    records = [TuningHeader.model_validate(json.loads(header))]
    records += [model.model_validate(raw) for model, raw in zip(models, raws, strict=True)]
    assert [record.line for record in records] == [header, *lines]


# -- wrong input --------------------------------------------------------------------------------

# Assignment | the field that the error names | what its remedy says.
WRONG = """
methods.refilled={} | methods.refilled | field
methods={} | methods | at least 1
methods={kdd: {kd.alpha: [0.1, 1]}} | methods | 'kd'
methods.refilled.stage2.tau2={low: 8, high: 2} | methods.refilled.stage2.tau2 | swap
methods.refilled.stage2.tau2={low: 0, high: 2, log: true} | methods.refilled.stage2.tau2 | raise low
methods.kd.kd.alpha={low: 1, high: 2, log: true, step: 1} | methods.kd.kd.alpha | drop one
methods.kd.kd.alpha={low: 0.1, high: 0.35, step: 0.1} | methods.kd.kd.alpha | 0.3 or 0.4
common={optimizer.batch_size: {low: 16, high: 64, step: 64}} | common.optimizer.batch_size | 80
common={optimizer.batch_size: {low: 1, high: 4, step: 1.5}} | common.optimizer.batch_size.step | one
common={optimizer.batch_size: {low: 16.5, high: 64}} | common.optimizer.batch_size.low | whole
methods.refilled.stage2.tau2={low: 1} | methods.refilled.stage2.tau2.high | add it
methods.refilled.stage2.tau2={low: 1, hihg: 2} | methods.refilled.stage2.tau2.hihg | 'high'
methods.refilled.stage2.tau2=4 | methods.refilled.stage2.tau2 | {low:
methods.refilled.stage1.tau1=[4] | methods.refilled.stage1.tau1.choices | at least 2
methods.refilled.stage1.tau1=[4, 4] | methods.refilled.stage1.tau1.choices | drop one
methods.refilled.stage1.tau1=[0.001, 4] | methods.refilled.stage1.tau1 | 0.05
methods.refilled.tau2=[1, 2] | methods.refilled.tau2 | 'stage2.tau2'
methods.refilled.stage2.tua2=[1, 2] | methods.refilled.stage2.tua2 | 'stage2.tau2'
methods.plain.stage2.tau2=[1, 2] | methods.plain.stage2.tau2 | training.lr
methods.refilled.seeds=[1, 2] | methods.refilled.seeds | fresh_seeds
methods.refilled.seed={low: 1, high: 9} | methods.refilled.seed | fresh_seeds
methods.refilled.stage2.epochs=[1, 2] | methods.refilled.stage2.epochs | `set:`
methods.refilled.stage1.negatives=[all, most] | methods.refilled.stage1.negatives | 'smallest'
metric=test/accuracy | metric | test set
metric=loss/ce | metric | validation/accuracy
direction=up | direction | 'maximize'
trials=31 | trials | 30
trials=0 | trials | 1
batch=0 | batch | 1
trials=null | trials | trials_per_parameter
trials_per_parameter=2 | trials | not both
startup_trials=25 | startup_trials | raise trials
top_k=31 | top_k | 30 trials
trial_seed=0 | trial_seed | seed 0
trial_seed=102 | fresh_seeds | 102
common={sp.weight: [1, 2]} | common.sp.weight | `lr`
common={lr: 1} | common.training.lr | {low:
common={optimizer.weight_deca: [0, 1]} | common.optimizer.weight_deca | 'optimizer.weight_decay'
fresh_seeds=[0, 1] | fresh_seeds | seed 0
fresh_seeds=[1, 1] | fresh_seeds | drop one
fresh_seeds=[] | fresh_seeds | at least 1
pruning={rungs: [0.5, 0.2]} | pruning.rungs | sort
pruning={keep: 1} | pruning.keep | less than 1
trails=3 | trails | 'trials'
experiment=../nothing.yaml | {folder}/nothing.yaml | {folder}/tiny.yaml
set.stage2.tua2=3 | stage2.tua2 | 'tau2'
set.students=[{depth: 10, width: 1}, {depth: 10, width: 2}] | set.students | set: {
"""


@pytest.mark.parametrize("row", WRONG.strip().splitlines())
def test_wrong_input(row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, store = write(tmp_path), tmp_path / "runs"
    assignment, field, remedy = row.replace("{folder}", str(tmp_path)).split(" | ")
    assert cli.main(["tune", str(file), "--store", str(store), "--set", assignment]) == 2
    error = one_error_line(capsys.readouterr().err)
    assert error.startswith(f"error: {field}: ") and remedy in error
    assert not store.exists()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("kd.alpha", {"low": 0.1, "high": 0.3, "step": 0.1}),  # 0.1 + 2 * 0.1 > 0.3 in binary
        ("kd.alpha", {"low": 1e-3, "high": 1.0, "step": 1e-3}),
        ("optimizer.batch_size", {"low": 16, "high": 64, "step": 16}),
    ],
)
def test_optuna_gets_the_range_of_the_file(
    field: str, values: dict[str, float], tmp_path: Path
) -> None:
    file = write(tmp_path, TUNING | {"methods": {"kd": {field: values}}})
    one = distributions(read_tuning(file), "kd")[field]
    assert {key: getattr(one, key) for key in values} == values


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", str(tmp_path / "x.yaml")]) == 2
    assert f"{tmp_path}/x.yaml" in one_error_line(capsys.readouterr().err)


def test_wrong_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = write(tmp_path), ["--store", str(tmp_path / "runs")]
    shared = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared)
    for storage in (shared, "nosuch://u:secret@host/db"):
        assert cli.main(["tune", str(file), *store, "--storage", storage]) == 2
        error = one_error_line(capsys.readouterr().err)
        assert error.startswith("error: --storage: ") and "secret" not in error
    assert "nosuch://u:***@host/db" in error


def test_another_space_is_refused_with_the_difference(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    session(file, JournalWriter())
    for assignment, difference in (
        ("methods.kd.kd.alpha={low: 0.2, high: 1}", "space.kd.alpha.low: 0.1 -> 0.2"),
        ("batch=2", "sampling.batch: 4 -> 2"),
        ("set.stage2.lr=0.3", "experiment.stage2.lr: 0.1 -> 0.3"),
        ("set.dataset.validation=200", "experiment.data.digest"),
    ):
        with pytest.raises(UserError) as caught:
            session(file, JournalWriter(), sets=[assignment])
        assert difference in str(caught.value)


def test_published_teacher_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, experiment=LONG | {"teacher_checkpoint": "0" * 64})
    with pytest.raises(UserError, match=r"^experiment: "):
        read_tuning(file)


@pytest.mark.parametrize("file", sorted((ROOT / "experiments/tuning").glob("*.yaml")), ids=str)
def test_stored_tuning_files_are_valid(file: Path) -> None:
    tuning = read_tuning(file)
    assert {"plain", "refilled"} <= {name.partition("@")[0] for name in tuning.spaces}
    assert tuning.name == file.stem
    check_rungs(tuning)
    check_final(tuning)


@pytest.mark.parametrize(
    ("tuned", "base"), [("digits", "digits_shots"), ("digits_cross", "digits_overlap")]
)
def test_a_tuned_grid_has_the_fields_that_it_was_tuned_with(tuned: str, base: str) -> None:
    """Two files hold them, of which only one has the tuned settings."""
    one, other = (
        read(ROOT / f"experiments/{name}.yaml").model_dump(exclude={"name", "description", "tuned"})
        for name in (tuned, base)
    )
    assert one == other


def test_fingerprints_of_other_experiments_did_not_change(tmp_path: Path) -> None:
    """An experiment without `tuned` has no such field."""
    experiment = read_tuning(write(tmp_path)).base
    assert "tuned" not in experiment.model_dump(mode="json")
    assert "tuned" not in experiment.model_dump(mode="json", exclude={"seeds"})
    assert "tuned" in experiment.model_copy(update={"tuned": {}}).model_dump()


@pytest.mark.parametrize(
    ("tuned", "field"),
    [
        ({"refilled": {"settings": {"kd": {"alpha": 1}}}}, "tuned.refilled.settings.kd"),
        ({"kd": {"settings": {"kd": {"alhpa": 1}}}}, "tuned.kd.settings.kd.alhpa"),
        ({"kd": {"settings": {"kd": {"alpha": 2}}}}, "tuned.kd.settings.kd.alpha"),
        ({"kd": {"settings": {"training": {"epochs": 2}}}}, "tuned.kd.settings.training.epochs"),
        ({"refilled-triplet": {"settings": {}}}, "tuned.refilled-triplet"),
    ],
)
def test_wrong_tuned_settings(tuned: Any, field: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(TINY | {"tuned": tuned}))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{field}: ") and "\n" not in str(caught.value)


def test_the_committed_study_is_still_the_same_study() -> None:
    """A study on disk with another identity would be refused by `harness tune`."""
    path = ROOT / RESULTS / "digits.jsonl"
    committed = json.loads(path.read_text().splitlines()[0])["studies"]
    tuning = read_tuning(ROOT / "experiments" / "tuning" / "digits.yaml")
    dataset = load(tuning.base.dataset, with_test=False)
    for method, identity in committed.items():
        ours = json.loads(json.dumps(identity_of(tuning, dataset, method)))
        assert ours | {"optuna": ""} == identity | {"optuna": ""}
    assert committed.keys() == tuning.spaces.keys()
