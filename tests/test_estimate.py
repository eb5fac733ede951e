"""`harness plan`: time and disk before anything trains, and budgets of whole seeds."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import harness.run.estimate
import harness.run.inspect
import harness.run.measure
from harness.common.errors import UserError
from harness.data import load
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse
from harness.plan import make_plan
from harness.run.devices import DeviceFacts
from harness.run.estimate import (
    CONTEXT_BYTES,
    check_memory,
    estimate,
    fit_budget,
    start_seconds,
)
from harness.run.grid import within_budget
from harness.run.inspect import print_plan
from harness.run.measure import Limits, Pace, measure
from harness.run.options import RunOptions
from harness.run.speeds import (
    NetworkSpeed,
    Request,
    Speeds,
    few_images,
    speed_key,
    takes_steps,
)
from harness.store import Store

CPU = DeviceFacts("cpu", "cpu (x86_64)")
GPU = DeviceFacts("cuda", "H100", 80 * 10**9)


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


def speeds(e: Experiment, device: DeviceFacts = CPU) -> Speeds:
    """Return 2 s for a step of the teacher, 0.5 s for one of a student and 1 s more if taught."""
    plan = make_plan(e, load(e.dataset))
    cells = [c for c in plan.cells.values() if takes_steps(c)]
    alone = {e.teacher: 2.0, e.students[0]: 0.5}
    return Speeds(
        networks={
            e.teacher: NetworkSpeed(0.01, 1000, 48, teaching=1.0),
            e.students[0]: NetworkSpeed(0.001, 100, 28),
        },
        steps={
            speed_key(c, plan.teacher_of(c)): alone[c.config.network]
            + (1.0 if "teacher" in c.upstream else 0.0)
            for c in cells
        },
        device=device,
        description=device.description,
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests for measurements, which get made-up answers."""
    requests: list[Request] = []

    def answer(_: Any, request: Request) -> tuple[float, Speeds]:
        requests.append(request)
        one = replace(speeds(experiment()), description=", ".join(request.devices))
        return time.monotonic(), one

    monkeypatch.setattr(harness.run.estimate, "in_child", answer)
    return requests


def test_the_start_counts() -> None:
    """In a grid of short cells, the start is most of the time."""
    assert start_seconds(0, 2, 1.5) == 1.5
    assert start_seconds(20, 2, 0.0) == start_seconds(10, 1, 0.0) > 1


def test_the_plan_counts_and_names_its_devices(
    tmp_path: Path,
    asked: list[Request],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(harness.run.inspect, "start_seconds", lambda n, *_: 7200.0 * n)
    monkeypatch.setattr("harness.execute.local.os.sched_getaffinity", lambda _: set(range(12)))
    e, lines = experiment(seeds=[0]), []
    for options in (
        RunOptions(tmp_path, "cpu", jobs=6, n_workers=3),
        RunOptions(tmp_path, "cpu:0,cpu:1", jobs_per_device=3),
    ):
        print_plan(e, options)
        lines.append(capsys.readouterr().out.splitlines()[-1])
    one, two = lines
    assert one.startswith("about 10 h 0") and " with 6 jobs on cpu, " in one
    assert two == one.replace(" on cpu,", " on cpu:0, cpu:1,")
    assert [(r.devices, r.threads, r.n_workers, r.cells_per_device) for r in asked] == [
        (("cpu",), 2, 3, 6),
        (("cpu:0", "cpu:1"), 2, 0, 3),
    ]


def test_a_budget_counts_several_devices(
    tmp_path: Path, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many slots do twice as much in the same time."""
    e = experiment()
    dataset, store = load(e.dataset), Store(tmp_path)
    monkeypatch.setattr("harness.execute.local.os.sched_getaffinity", lambda _: set(range(12)))
    one_seed = experiment(seeds=[0])
    cost = estimate(make_plan(one_seed, dataset), store, dataset, speeds(e)).wall_seconds(1)
    for devices, n_seeds in (("cpu:0", 1), ("cpu:0,cpu:1", 2)):
        options = RunOptions(
            tmp_path, devices, budget=1.01 * cost, jobs_per_device=1, teacher_cache=0
        )
        assert len(within_budget(e, dataset, options).seeds) == n_seeds
    assert [r.threads for r in asked] == [12, 6]


@pytest.mark.parametrize(
    ("device", "slots", "lanes"),
    [
        (CPU, ("cpu",) * 6, 6),
        (CPU, ("cpu",) * 50, 12),
        (CPU, ("cpu:0", "cpu:1") * 2, 4),
        (GPU, ("cuda",) * 4, 1),
        (GPU, ("cuda:0", "cuda:1") * 3, 2),
    ],
)
def test_cells_on_one_gpu_share_it(
    monkeypatch: pytest.MonkeyPatch, device: DeviceFacts, slots: tuple[str, ...], lanes: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    assert speeds(experiment(), device).lanes(slots) == lanes


def test_more_cells_than_the_memory_holds_are_refused() -> None:
    one = replace(speeds(experiment(), GPU), cell_bytes=10 * 10**9 - CONTEXT_BYTES)
    check_memory(one, 8)
    check_memory(replace(one, device=CPU), 1000)
    with pytest.raises(UserError, match=r"^--jobs-per-device: 9 cells .* 90 GB .* 8 fit$"):
        check_memory(one, 9)


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
    kept = fit_budget(e, dataset, store, speeds(e), 1, budget=2.5 * seconds)
    assert kept.seeds == (0, 1)
    assert fit_budget(e, dataset, store, speeds(e), 2, budget=2.5 * seconds).seeds == e.seeds
    with pytest.raises(UserError, match="--budget: one seed takes"):
        fit_budget(e, dataset, store, speeds(e), 1, budget=0.5 * seconds)


class Clock(TorchDispatchMode):
    """A clock on which every operation of torch takes one second."""

    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seconds += 1
        return operation(*args, **(kwargs or {}))


def request(e: Experiment, **fields: Any) -> Request:
    dataset = load(e.dataset)
    plan = make_plan(e, dataset)
    cells = [(c, plan.teacher_of(c)) for c in plan.cells.values() if takes_steps(c)]
    made = Request(
        cells={speed_key(*pair): pair for pair in cells},
        networks=tuple(e.networks),
        batch_size=e.optimizer.batch_size,
        optimizer=e.optimizer,
        dataset=few_images(dataset, 1000),
        n_bytes=dataset.nbytes,
        devices=("cpu",),
        threads=1,
    )
    return replace(made, **fields)


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind's own losses in the real loop and settings, after a warm-up."""
    e, settings, sizes = experiment(seeds=[0], methods=["kd", "refilled", "vid"]), [], []
    real, begin = harness.run.measure.train_epoch, Pace.begin

    def spy(*arguments: Any) -> Any:
        settings.append(torch.are_deterministic_algorithms_enabled())
        return real(*arguments)

    def count(pace: Pace, units: int = 1) -> bool:
        sizes.append(units)
        return begin(pace, units)

    monkeypatch.setattr(harness.run.measure, "train_epoch", spy)
    monkeypatch.setattr(harness.run.measure, "CPU", Limits(2, 3, 1e9, 2))
    monkeypatch.setattr(Pace, "begin", count)
    asked = request(e)
    try:
        with Clock() as clock:
            monkeypatch.setattr(harness.run.measure, "time", clock)
            found = measure(asked)
    finally:
        torch.use_deterministic_algorithms(False)
    steps = {
        (cell.kind, cell.config.network): found.steps[key] for key, (cell, _) in asked.cells.items()
    }
    (student,) = e.students
    assert found.networks.keys() == {e.teacher, student} and found.device.kind == "cpu"
    assert steps.keys() == {("supervised", e.teacher)} | {
        (kind, student) for kind in ("kd", "stage1", "stage2", "vid")
    }
    forward = found.networks[e.teacher].teaching
    assert found.networks[student].teaching == 0.0
    assert steps["supervised", e.teacher] > 2 * forward > 0, "with the backward pass"
    assert steps["vid", student] > steps["kd", student] > 3 * forward, "with losses and teacher"
    assert settings and all(settings), "deterministic, as cells are"
    assert sizes.count(1) == 6 * len(steps), "no longer than asked"
    assert {100, 256} < set(sizes), "an evaluation has larger batches than the training"


def test_a_cell_that_does_not_fit_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ..")

    e = experiment(seeds=[0])
    monkeypatch.setattr(harness.run.measure, "CPU", Limits(0, 1, 0.0, 1))
    monkeypatch.setattr(harness.run.measure.Bench, "step", full)
    try:
        with pytest.raises(UserError, match=r"^optimizer\.batch_size: out of memory on cpu"):
            measure(request(e))
    finally:
        torch.use_deterministic_algorithms(False)


def test_counting_begins_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, it waits where counting begins and ends, and nowhere else."""
    waits: list[int] = []
    now = iter((0.0, 0.0, 5.0, 5.0, 5.5, 7.0, 7.0, 7.5)).__next__
    monkeypatch.setattr(harness.run.measure, "GPU", Limits(2, 2, 100.0, 9))
    monkeypatch.setattr(harness.run.measure, "wait_for", lambda _: waits.append(n))
    monkeypatch.setattr(harness.run.measure, "time", SimpleNamespace(perf_counter=now))
    pace = Pace(torch.device("cuda"))
    for n in range(5):
        assert pace.begin(10) == (n == 4)
    assert waits == [2, 4]
    assert pace.seconds == pytest.approx((7.5 - 5.5) / 20)


def test_one_long_step_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 60.0, 60.0))
    clock = SimpleNamespace(perf_counter=times.__next__)
    monkeypatch.setattr(harness.run.measure, "time", clock)
    pace = Pace(torch.device("cpu"))
    assert (pace.begin(), pace.begin(), pace.seconds) == (False, True, 60.0)


def test_cells_that_take_as_long_are_measured_once() -> None:
    methods = ["kd", "kd(kd.temperature=8)", "refilled", "refilled-triplet"]
    e = experiment(seeds=[0, 1], methods=methods)
    plan = make_plan(e, load(e.dataset))
    cells = [c for c in plan.cells.values() if takes_steps(c)]
    kinds = [c.kind for c in {speed_key(c, plan.teacher_of(c)): c for c in cells}.values()]
    assert sorted(kinds) == ["kd", "stage1", "stage1", "stage2", "supervised"]
    assert len(cells) > 2 * len(kinds)
