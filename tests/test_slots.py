"""How cells are spread over several devices. CPU devices stand in for GPUs; test_local and test_run
train on them."""

import dataclasses
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from helpers import ROOT, write_experiment, wrong
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import app, main
from harness.common.errors import UserError
from harness.execute.ray.options import RayOptions
from harness.execute.slots import check_devices, make_slots, next_slot
from harness.run.options import RunOptions
from harness.tune import search

# -- which slots there are -------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 4))
def test_each_device_has_as_many_and_they_take_turns(n_devices: int, per_device: int) -> None:
    devices = [f"cuda:{i}" for i in range(n_devices)]
    slots = make_slots(devices, per_device)
    assert Counter(slots) == dict.fromkeys(devices, per_device)
    for n in range(len(slots) + 1):
        counts = Counter(slots[:n])
        assert max(counts[d] for d in devices) - min(counts[d] for d in devices) <= 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs and six cores."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr("harness.run.devices.n_cores", lambda: 6)


@pytest.mark.parametrize(
    ("device", "jobs", "per_device", "slots"),
    [
        ("cpu", None, None, ["cpu"] * 6),
        ("cpu", 2, None, ["cpu"] * 2),
        ("cuda", None, None, ["cuda"]),
        ("cuda:1", 3, None, ["cuda:1"] * 3),
        ("cuda:1", None, 3, ["cuda:1"] * 3),
        ("auto", 2, None, ["auto"] * 2),
        ("cuda:0,cuda:1", None, None, ["cuda:0", "cuda:1"]),
        ("cuda:2,cuda:0", None, 2, ["cuda:2", "cuda:0"] * 2),
        ("cpu:0,cpu:1", None, None, ["cpu:0", "cpu:1"]),
    ],
)
def test_slots_of_the_options(
    machine: None, device: str, jobs: int | None, per_device: int | None, slots: list[str]
) -> None:
    found = RunOptions(device=device, jobs=jobs, jobs_per_device=per_device).slots()
    assert found == tuple(slots)


@pytest.mark.parametrize(
    ("device", "jobs", "culprit"),
    [
        ("cuda:0,cuda:3", {}, "cuda:3"),
        ("cuda:0,cuda:1,cuda:0", {}, "cuda:0"),
        ("cuda:0,cpu:0", {}, "'cuda:0,cpu:0'"),
        ("cuda,cuda:1", {}, "'cuda,cuda:1'"),
        ("auto,cuda:1", {}, "'auto,cuda:1'"),
        ("cuda:0,cuda:1", {"jobs": 2}, "--jobs-per-device"),
        ("cuda:0", {"jobs": 2, "jobs_per_device": 2}, "--jobs-per-device"),
    ],
)
def test_what_does_not_go_together(
    machine: None, device: str, jobs: dict[str, int], culprit: str
) -> None:
    line = wrong(lambda: RunOptions(device=device, **jobs).slots(), culprit)
    assert line.startswith("--jobs: " if jobs else "--device: ")


def test_one_device_goes_with_itself() -> None:
    for name in ("auto", "cpu", "cuda", "mps", "cuda:1"):
        check_devices([name])


# -- who trains next -------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_no_slot_has_two_cells_and_no_device_more_than_another_would(
    n_devices: int, per_device: int, data: st.DataObject
) -> None:
    """Cells begin and end in any order, and workers come, stay and are lost."""
    slots = make_slots([f"cpu:{i}" for i in range(n_devices)], per_device)
    busy: set[int] = set()
    warm: set[int] = set()
    for _ in range(data.draw(st.integers(0, 30))):
        if busy and (len(busy) == len(slots) or data.draw(st.booleans())):
            place = data.draw(st.sampled_from(sorted(busy)))
            busy.remove(place)
            if data.draw(st.booleans()):
                warm.discard(place)
            continue
        n_cells = Counter(slots[p] for p in busy)
        place = next_slot(slots, busy, warm)
        assert place not in busy
        assert n_cells[slots[place]] == min(n_cells[d] for d in slots)
        alike = {p for p in range(len(slots)) if p not in busy and slots[p] == slots[place]}
        assert place in warm or not alike & warm, "a worker would have to be started"
        busy.add(place)
        warm.add(place)


def test_the_least_busy_device_comes_before_a_warm_worker() -> None:
    slots = ("cpu:0", "cpu:1", "cpu:0", "cpu:1")
    assert next_slot(slots, busy={0}, warm={0, 2}) == 1
    assert next_slot(slots, busy={0, 1}, warm={0, 1, 3}) == 3
    assert next_slot(slots, busy={0, 1}, warm={0, 1}) == 2
    assert next_slot(slots, busy=(), warm={1}) == 1, "of devices alike the one with a worker"
    assert next_slot(slots, busy=(), warm=()) == 0


# -- from the command line to the workers ----------------------------------------------------------

COMMANDS = {
    "run": ("harness.run.grid", "run_experiment", "{file}"),
    "plan": ("harness.run.inspect", "print_plan", "{file}"),
    "ablate": ("harness.run.ablate", "run_steps", "{file}"),
    "tune": ("harness.tune.search", "tune", f"{ROOT}/experiments/tuning/digits.yaml"),
    "train": ("harness.run.grid", "run_experiment", "--depth 10 --width 1"),
}


# Option -> the command's words, and the fields of RunOptions that they set.
GIVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "store": ("--store elsewhere", {"store": Path("elsewhere")}),
    "device": ("--device cpu:0,cpu:1", {"device": "cpu:0,cpu:1"}),
    "jobs": ("--jobs 5", {"jobs": 5}),
    "jobs_per_device": ("--jobs-per-device 7", {"jobs_per_device": 7}),
    "max_time": ("--max-time 2m", {"max_seconds": 120.0}),
    "budget": ("--budget 3h", {"budget": 10800.0}),
    "n_workers": ("--n-workers 2", {"n_workers": 2}),
    "teacher_cache": ("--teacher-cache 5MB", {"teacher_cache": 5_000_000}),
    "graphs": ("--graphs off", {"graphs": "off"}),
    "no_bar": ("--no-bar", {"no_bar": True}),
    "flag_no_bar": ("--flag-no-bar", {"no_bar": True}),
    "flag_gpu": ("--flag-gpu", {"device": "cuda"}),
    "devices": ("--flag-gpu --devices 0 1", {"device": "cuda:0,cuda:1"}),
    "tracker": ("--tracker wandb --tracker tensorboard", {"trackers": ("wandb", "tensorboard")}),
    "executor": ("--executor ray", {"cluster": RayOptions()}),
    "cpus_per_cell": ("--executor ray --cpus-per-cell 3", {"cluster": RayOptions(cpus=3)}),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_hands_its_options_on(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function, rest = COMMANDS[command]
    seen: list[RunOptions] = []

    def spy(*arguments: Any, **_: Any) -> int:
        seen.extend(a for a in arguments if isinstance(a, RunOptions))
        return 3

    monkeypatch.setattr(importlib.import_module(module), function, spy)
    monkeypatch.setattr("harness.analysis.print_results.print_power", spy)
    file = write_experiment(tmp_path / "tiny.yaml")
    line = [command, *rest.format(file=file).split()]
    status = 0 if command == "plan" else 3
    assert main(line) == status
    defaults = RunOptions(device="cpu") if command == "train" else RunOptions()
    assert seen.pop() == defaults
    names = {p.name for p in typer.main.get_command(app).commands[command].params}
    assert {"store", "jobs", "jobs_per_device"} <= names
    if command == "train":
        names.remove("n_workers")  # refused: these data need none
    for name in GIVEN.keys() & names:
        words, fields = GIVEN[name]
        assert main([*line, *words.split()]) == status, words
        assert seen.pop() == dataclasses.replace(defaults, **fields), words


def test_a_registered_teacher_is_measured_on_the_first_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def stop(_: Any, __: Any, device: str, ___: Any) -> None:
        seen.append(device)
        raise UserError("stop")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.run.grid.fetch_teacher", stop)
    file = write_experiment(tmp_path / "tiny.yaml")
    assert main(["run", str(file), "--device", "cpu:1,cpu:0"]) == 2
    assert seen == ["cpu:1"]


def test_tuning_trains_in_these_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stop(*arguments: Any) -> None:
        seen.extend(arguments)
        raise UserError("stop")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "make_executor", stop)
    file = f"{ROOT}/experiments/tuning/digits.yaml"
    assert main(["tune", file, "--device", "cpu:0,cpu:1", "--jobs-per-device", "2"]) == 2
    assert seen[1] == ("cpu:0", "cpu:1") * 2
