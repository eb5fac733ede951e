"""How cells are spread over several devices. CPU devices stand in for GPUs; test_local and test_run
train on them."""

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, write_experiment
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.common.errors import UserError
from harness.execute.slots import check_together, next_slot, slots_on
from harness.run import session
from harness.run.session import slots_of
from harness.tune import search

# -- which slots there are -------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 4))
def test_each_device_has_as_many_and_they_take_turns(n_devices: int, per_device: int) -> None:
    devices = [f"cuda:{i}" for i in range(n_devices)]
    slots = slots_on(devices, per_device)
    assert Counter(slots) == dict.fromkeys(devices, per_device)
    for n in range(len(slots) + 1):
        counts = Counter(slots[:n])
        assert max(counts[d] for d in devices) - min(counts[d] for d in devices) <= 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs and six cores."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(session, "n_cores", lambda: 6)


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
    assert slots_of(device, jobs, per_device) == tuple(slots)


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        ("cuda:0,cuda:3", {}, "cuda:3 is not here (3 CUDA devices)"),
        ("cuda:0,cuda:1,cuda:0", {}, "cuda:0 is named twice"),
        ("cuda:0,cpu:0", {}, "'cuda:0,cpu:0'; several devices must be of one kind"),
        ("cuda,cuda:1", {}, "'cuda,cuda:1'; several devices must be of one kind, each with its"),
        ("auto,cuda:1", {}, "several devices must be of one kind"),
        ("cuda:0,cuda:1", {"jobs": 2}, "use --jobs-per-device N"),
        ("cuda:0", {"jobs": 2, "jobs_per_device": 2}, "give one of them"),
    ],
)
def test_what_does_not_go_together(
    machine: None, device: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        slots_of(device, **options)
    assert message in str(caught.value)
    assert str(caught.value).startswith("--jobs: " if options else "--device: ")
    assert "\n" not in str(caught.value)


def test_one_device_goes_with_itself() -> None:
    for name in ("auto", "cpu", "cuda", "mps", "cuda:1"):
        check_together([name])


# -- who trains next -------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_no_slot_has_two_cells_and_no_device_more_than_another_would(
    n_devices: int, per_device: int, data: st.DataObject
) -> None:
    """Cells begin and end in any order, and workers come, stay and are lost."""
    slots = slots_on([f"cpu:{i}" for i in range(n_devices)], per_device)
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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_hands_the_options_on(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function, rest = COMMANDS[command]
    seen: list[Any] = []

    def spy(*arguments: Any, **options: Any) -> int:
        seen.extend([*arguments, *options.values()])
        return 3

    monkeypatch.setattr(importlib.import_module(module), function, spy)
    file = write_experiment(tmp_path / "tiny.yaml")
    line = [command, *rest.format(file=file).split(), "--jobs-per-device", "7"]
    if command == "train":
        device, line = "cuda:0,cuda:1", [*line, "--flag-gpu", "--devices", "0", "1"]
    else:
        device, line = "cpu:0,cpu:1", [*line, "--device", "cpu:0,cpu:1"]
    assert main(line) == (0 if command == "plan" else 3)
    assert device in seen and 7 in seen


def test_a_registered_teacher_is_measured_on_the_first_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def stop(_: Any, __: Any, device: str, ___: Any) -> None:
        seen.append(device)
        raise UserError("stop")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.run.grid.fetch", stop)
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
