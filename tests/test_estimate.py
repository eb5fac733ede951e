"""`harness plan`: time and disk before anything trains, and budgets of whole seeds."""

from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import harness.run.estimate
from harness.common.errors import UserError
from harness.data import load
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse
from harness.networks import NetworkOptions
from harness.plan import make_plan
from harness.run.estimate import Speed, estimate, fit_budget, measure_networks, start_seconds
from harness.run.grid import within_budget
from harness.run.inspect import print_plan
from harness.run.options import RunOptions
from harness.store import Store
from harness.train.device import describe, resolve_device


def experiment(**fields: Any) -> Experiment:
    return parse(
        {
            "name": "tiny",
            "dataset": {"name": "digits", "validation": 100, "test": 1400},  # 297 train
            "network": "wide_resnet",
            "teacher": {"depth": 10, "width": 2},
            "students": [{"depth": 10, "width": 1}],
            "methods": ["plain", "kd", "refilled"],
            "optimizer": {"batch_size": 100},  # 3 batches
            "training": {"epochs": 10},
            "stage1": {"epochs": 20, "select_every": 10},
            "stage2": {"epochs": 10},
            "seeds": [0, 1, 2],
            **fields,
        }
    )


def speeds(e: Experiment) -> dict[NetworkOptions, Speed]:
    teacher, student = e.teacher, e.students[0]
    return {teacher: Speed(2.0, 1.0, 1000, 10), student: Speed(0.5, 0.1, 100, 5)}


def test_the_start_counts() -> None:
    """In a grid of short cells, the start is most of the time."""
    assert start_seconds(0, 2, 1.5) == 3.0
    assert start_seconds(20, 2, 0.0) == start_seconds(10, 1, 0.0) > 1


def test_the_plan_names_the_device_and_counts_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness.run.estimate, "measure_networks", lambda *_: speeds(experiment()))
    monkeypatch.setattr(harness.run.estimate, "start_seconds", lambda n, jobs, imported: 7200.0 * n)
    print_plan(experiment(seeds=[0]), RunOptions(tmp_path, jobs=2))
    last = capsys.readouterr().out.splitlines()[-1]
    expected = describe(resolve_device("auto"))
    assert last.startswith("about 10 h 0") and f" with 2 jobs on {expected}, " in last


def test_the_plan_counts_and_names_several_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def measure(_: Experiment, __: Any, *on: Any) -> dict[NetworkOptions, Speed]:
        asked.append(on)
        return speeds(experiment())

    monkeypatch.setattr(harness.run.estimate, "measure_networks", measure)
    monkeypatch.setattr(harness.run.estimate, "start_seconds", lambda n, jobs, imported: 0.0)
    monkeypatch.setattr("harness.execute.local.os.sched_getaffinity", lambda _: set(range(12)))
    e, lines = experiment(seeds=[0]), []
    for options in (
        RunOptions(tmp_path, "cpu", jobs=6),
        RunOptions(tmp_path, "cpu:0,cpu:1", jobs_per_device=3),
    ):
        print_plan(e, options)
        lines.append(capsys.readouterr().out.splitlines()[-1])
    one, two = lines
    cpu = describe(resolve_device("cpu"))
    assert f" with 6 jobs on {cpu}, " in one
    assert two == one.replace(f"on {cpu},", f"on {cpu} (cpu:0, cpu:1),")
    assert asked == [("cpu", 2), ("cpu:0", 2)], "the first, with a cell's threads"


def test_a_budget_counts_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many slots do twice as much in the same time."""
    e, asked = experiment(), []
    dataset, store = load(e.dataset), Store(tmp_path)

    def measure(_: Experiment, __: Any, device: str, threads: int, n_workers: int) -> Any:
        asked.append((device, threads, n_workers))
        return speeds(e)

    monkeypatch.setattr(harness.run.estimate, "measure_networks", measure)
    monkeypatch.setattr("harness.execute.local.os.sched_getaffinity", lambda _: set(range(12)))
    one_seed = experiment(seeds=[0])
    cost = estimate(make_plan(one_seed, dataset), store, dataset, speeds(e)).wall_seconds(1)
    for slots, n_seeds in ((("cpu:0",), 1), (("cpu:0", "cpu:1"), 2)):
        options = RunOptions(tmp_path, budget=1.01 * cost, n_workers=4, teacher_cache=0)
        kept = within_budget(e, dataset, slots, options)
        assert len(kept.seeds) == n_seeds
    assert asked == [("cpu:0", 12, 4), ("cpu:0", 6, 4)]


def test_seconds_of_each_kind(tmp_path: Path) -> None:
    e = experiment(seeds=[0])
    dataset = load(e.dataset)
    plan = make_plan(e, dataset)
    found = estimate(plan, Store(tmp_path), dataset, speeds(e))
    by_kind = {(plan.cells[f].kind, i): s for i, (f, s) in enumerate(found.seconds.items())}
    evaluated, train = 1500, 297
    expected = [
        10 * (3 * 2.0 + evaluated * 1.0 / 100),  # teacher
        10 * (3 * 0.5 + evaluated * 0.1 / 100),  # plain
        10 * (3 * (0.5 + 1.0) + evaluated * 0.1 / 100),  # kd: the teacher looks at each batch
        20 * (3 * (0.5 + 1.0) + (evaluated + train) * 0.1 / 100 / 10),  # stage 1
        10 * (3 * (0.5 + 1.0) + evaluated * 0.1 / 100),  # stage 2
    ]
    assert list(by_kind.values()) == pytest.approx(expected)
    assert found.wall_seconds(1) == pytest.approx(sum(expected))
    # The teacher, stage 1 and stage 2 wait for one another: further jobs do not help them.
    assert found.wall_seconds(2) == found.wall_seconds(500) == pytest.approx(210 + 93.594 + 60)
    assert found.finished_bytes == 4 * (1000 + 4 * 100)


def test_kept_answers_are_computed_once(tmp_path: Path) -> None:
    e = experiment(seeds=[0], methods=["kd", "refilled", "vid"])
    dataset = load(e.dataset)
    plan, store = make_plan(e, dataset), Store(tmp_path)
    size, alone = 297 * (4 * 10 + 8), estimate(plan, store, dataset, speeds(e))
    assert alone.teacher_cache_bytes == 0
    for room, stage1, stage2 in (
        (10**9, 10, 0),  # KD has asked for the first 10 of 20 epochs, both for all of stage 2
        (12 * size, 10, 0),
        (5 * size + 1, 15, 5),
        (0, 20, 10),
    ):
        found = estimate(plan, store, dataset, speeds(e), room)
        assert found.teacher_cache_bytes == min(room // size, 20) * size
        saved = [a - b for a, b in zip(alone.seconds.values(), found.seconds.values(), strict=True)]
        expected = [0, 0, 20 - stage1, 10 - stage2, 0]  # teacher, kd, both stages, vid
        assert saved == pytest.approx([3 * 1.0 * n for n in expected])


def test_a_task_costs_what_it_sees(tmp_path: Path) -> None:
    e = experiment(
        seeds=[0],
        methods=["plain", "teacher_ncm"],
        tasks={"classes": 5, "overlap": [0], "shots": [4]},
        protocol={"preset": "strict", "evaluate_every": 5},
    )
    dataset = load(e.dataset)
    plan = make_plan(e, dataset)
    teacher, plain, ncm = estimate(plan, Store(tmp_path), dataset, speeds(e)).seconds.values()
    own = (dataset.validation, dataset.test)
    evaluated = sum(int((part.labels >= 5).sum()) for part in own if part is not None)
    assert 0 < evaluated < 1500
    assert plain == pytest.approx(10 * (0.2 * 0.5 + evaluated * 0.1 / 100 / 5))
    assert ncm == pytest.approx(0.2 * 1.0 + evaluated * 1.0 / 100)
    assert teacher > 10 * plain


def test_budget_drops_whole_seeds_from_the_end(tmp_path: Path) -> None:
    e = experiment()
    dataset, store = load(e.dataset), Store(tmp_path)
    one = experiment(seeds=[0])
    seconds = estimate(make_plan(one, dataset), store, dataset, speeds(e)).wall_seconds(1)
    kept = fit_budget(e, dataset, store, speeds(e), jobs=1, budget=2.5 * seconds)
    assert kept.seeds == (0, 1)
    assert fit_budget(e, dataset, store, speeds(e), jobs=2, budget=2.5 * seconds).seeds == e.seeds
    with pytest.raises(UserError, match="--budget: one seed takes"):
        fit_budget(e, dataset, store, speeds(e), jobs=1, budget=0.5 * seconds)


class Clock(TorchDispatchMode):
    """A clock on which every operation of torch takes one second."""

    seconds = 0.0

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seconds += 1
        return operation(*args, **(kwargs or {}))


def test_measured_networks_are_those_of_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    e = experiment()
    with Clock() as clock:
        monkeypatch.setattr(harness.run.estimate, "_now", lambda device: clock.seconds)
        found = measure_networks(e, load(e.dataset), "cpu", threads=1)
    assert found.keys() == speeds(e).keys()
    assert all(s.step > 2 * s.forward > 0 for s in found.values()), "with the backward pass"
