"""The facts that a command may know of its devices, without torch and without touching them."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import without_training
from helpers import write_experiment, wrong

from harness.cli import main
from harness.data import Dataset, ImageSet
from harness.data.dataset import Augmentation, ResizedCrop
from harness.data.packed import ImageStore, PackedImages
from harness.data.placement import fits
from harness.execute.ray.options import RayOptions
from harness.experiment.file import read
from harness.run import devices
from harness.run.devices import DeviceFacts, default_jobs, loading_note
from harness.run.grid import plan_of
from harness.run.options import RunOptions


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev, on a machine of six cores where torch finds a GPU."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(devices, "DEV", tmp_path / "dev")
    monkeypatch.setattr(devices, "n_cores", lambda: 6)
    monkeypatch.setattr(devices.sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "in_child", lambda function, *arguments: function(*arguments))
    return tmp_path / "dev"


@pytest.mark.parametrize(
    ("file", "jobs"),
    [("nvidia0", 1), ("nvidia1", 1), ("dxg", 1), ("nvmap", 1), ("kfd", 1), ("null", 6)],
)
def test_a_gpu_takes_one_cell_wherever_its_driver_is(driver: Path, file: str, jobs: int) -> None:
    (driver / file).touch()
    assert default_jobs("auto") == jobs == len(RunOptions().slots())


def test_a_driver_without_a_gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (driver / "nvidiactl").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert default_jobs("auto") == 6


def test_more_jobs_than_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "host_memory", lambda: (10**6, 2 * 10**9))
    assert len(RunOptions(device="cpu:0,cpu:1", jobs_per_device=5).slots()) == 10
    line = wrong(lambda: RunOptions(device="cpu", jobs=11).slots(), "2 GB", "at most 10")
    assert line.startswith("--jobs: 11 cells")


def test_nobody_is_asked_who_trains_nothing_here(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("asked")

    (driver / "nvidia0").touch()
    monkeypatch.setattr(devices, "in_child", refuse)
    monkeypatch.chdir(tmp_path)
    plan = plan_of(read(write_experiment(tmp_path / "tiny.yaml")))
    without_training(plan, tmp_path / "runs")
    assert main(["plan", "tiny.yaml"]) == 0
    assert main(["plan", "tiny.yaml", "--store", "new", "--no-estimate"]) == 0
    assert len(RunOptions(cluster=RayOptions()).slots()) == 1


@pytest.mark.parametrize(
    ("options", "slots", "n"),
    [
        (RunOptions(), ("cuda:0", "cuda:1") * 3, 3),
        (RunOptions(cluster=RayOptions(gpus=0.25)), ("auto",), 4),
        (RunOptions(cluster=RayOptions()), ("auto",), 1),
    ],
)
def test_cells_on_one_device(options: RunOptions, slots: tuple[str, ...], n: int) -> None:
    assert options.cells_per_device(slots) == n


# -- where large images lie ------------------------------------------------------------------------


def large(*n_images: int) -> Dataset:
    """Return a data set with a kilobyte per image, and so many of them in each part."""
    shapes = np.full((sum(n_images), 2), (10, 34))
    none = np.zeros(0)
    store = ImageStore(Path(), none, shapes, none, none, none, (), "")
    starts = np.cumsum((0, *n_images))
    train, validation, test = (
        ImageSet(PackedImages(store, np.arange(a, b)), np.zeros(b - a, dtype=np.int64))
        for a, b in itertools.pairwise(starts)
    )
    ones = (1.0, 1.0, 1.0)
    return Dataset("large", ("a",), train, validation, test, ones, ones, ResizedCrop(8, True))


@pytest.mark.parametrize(
    ("n_images", "n_cells", "is_resident"),
    [
        ((100, 40, 60), 1, True),
        ((100, 40, 61), 1, False),  # each part by itself would fit
        ((100, 0, 0), 2, True),
        ((100, 40, 60), 2, False),  # each cell by itself would fit
    ],
)
def test_all_parts_of_all_cells_fit_together(
    monkeypatch: pytest.MonkeyPatch, n_images: tuple[int, ...], n_cells: int, is_resident: bool
) -> None:
    class Properties:
        total_memory = 5 * 1020 * 200

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    dataset, gpu = large(*n_images), torch.device("cuda")
    assert fits(dataset, gpu, n_cells) == is_resident
    assert not fits(dataset, torch.device("cpu"), n_cells)
    facts = DeviceFacts("cuda", "a small one", Properties.total_memory)
    note = loading_note(dataset, 0, n_cells, facts)
    assert (note is None) == is_resident
    assert note is None or "--n-workers" in note


def test_no_note_where_nothing_waits() -> None:
    dataset, small = large(100, 40, 60), DeviceFacts("cuda", "small", 1000)
    assert loading_note(dataset, 0, 1, small)
    assert not loading_note(dataset, 2, 1, small)
    assert not loading_note(dataset, 0, 1, DeviceFacts("cpu", "cpu"))
    assert not loading_note(replace(dataset, augmentation=Augmentation(4, True)), 0, 1, small)
