"""Choosing a device, and whole cells on a GPU where there is one."""

import copy
import os
from pathlib import Path

import pytest
import torch
from helpers import weights, wrong
from training import KINDS, VERSION, Grid, tiny

from harness.data import load
from harness.data.batches import Batch, epoch_generator
from harness.data.small import DeviceImages
from harness.networks import build
from harness.train import cell
from harness.train import device as device_module
from harness.train.cell import run_cell
from harness.train.device import describe, describe_all, resolve_device, set_determinism
from harness.train.evaluate import autocast
from harness.train.exit_status import DONE
from harness.train.methods.base import Context, make_training

DEVICE = "cuda"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


# Choosing


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with so many GPUs, and no mps."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (0, "cpu:0", "cpu"),
        (0, "cpu:13", "cpu"),
    ],
    indirect=["gpus"],
)
def test_resolve_device(gpus: None, name: str, device: str) -> None:
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "gpu", "unknown 'gpu'; allowed: auto, cpu, cuda, cuda:N, mps"),
        (0, "", "unknown ''; allowed"),
        (2, "cuda:x", "unknown 'cuda:x'; allowed"),
        (2, "cuda:-1", "unknown 'cuda:-1'; allowed"),
        (2, "cuda:01", "unknown 'cuda:01'; allowed"),
        (2, "cpu:", "unknown 'cpu:'; allowed"),
        (2, "cuda:0,cuda:1", "unknown 'cuda:0,cuda:1'; allowed"),
        (2, "cpu\n", "unknown 'cpu\\n'; allowed"),
        (0, "cuda", "cuda is not here (0 CUDA devices); use cpu or auto"),
        (0, "cuda:0", "cuda:0 is not here (0 CUDA devices); use cpu or auto"),
        (2, "cuda:2", "cuda:2 is not here (2 CUDA devices); use cpu or auto"),
        (2, "mps", "mps is not here; use cpu or auto"),
    ],
    indirect=["gpus"],
)
def test_device_that_is_not_here(gpus: None, name: str, message: str) -> None:
    assert wrong(lambda: resolve_device(name)).startswith(f"--device: {message}")


@pytest.mark.parametrize("gpus", [1], indirect=True)
def test_a_device_that_is_hidden(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert "1 CUDA devices, CUDA_VISIBLE_DEVICES is '3'" in wrong(lambda: resolve_device("cuda:1"))


def test_describe_cpu() -> None:
    assert describe(torch.device("cpu")).startswith("cpu (")


def test_describe_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_all(("cpu", "cpu")) == describe(torch.device("cpu"))
    assert describe_all(("cpu:0", "cpu:1") * 2) == f"{describe(torch.device('cpu'))} (cpu:0, cpu:1)"
    models = {"cuda:0": "A100", "cuda:1": "H100", "cuda:2": "A100"}
    monkeypatch.setattr(device_module, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[str(device)])
    assert describe_all(("cuda:1",)) == "H100"
    assert describe_all(tuple(models)) == "A100 (cuda:0, cuda:2) and H100 (cuda:1)"


@pytest.mark.parametrize(
    ("name", "used"), [("cpu", []), ("cuda", []), ("cuda:1", [torch.device("cuda:1")])]
)
def test_a_cell_takes_memory_of_no_other_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, used: list[torch.device]
) -> None:
    """Calls that name no device, such as pinned memory, must not use the first one."""

    class Begins(Exception):
        pass

    def training(*_: object) -> None:
        raise Begins

    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(cell, "resolve_device", torch.device)
    monkeypatch.setattr(cell, "describe", str)
    monkeypatch.setattr(cell, "_train", training)
    directory = tiny(tmp_path).directory("supervised")
    try:
        run_cell(directory, name, 1, VERSION, lambda: False)
    finally:
        torch.use_deterministic_algorithms(False)
    begun, failed = directory.events()
    assert failed["error"] == "Begins: " and (begun["device"], begun["slot"]) == (name, name)
    assert asked == used


def test_set_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        set_determinism()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


# On a GPU


def train_on_device(grid: Grid) -> Grid:
    for planned in grid.plan.cells.values():
        directory = grid.store.prepare(planned)
        status = run_cell(directory, DEVICE, 1, VERSION, lambda: False)
        assert status == DONE, directory.events()[-1]
    return grid


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_cell_of_each_kind(tmp_path: Path, precision: str) -> None:
    grid = train_on_device(tiny(tmp_path, f"optimizer.precision={precision}"))
    for kind in KINDS:
        directory = grid.directory(kind)
        assert directory.manifest.device == torch.cuda.get_device_name()
        assert [line["epoch"] for line in directory.epochs()] == [1, 2, 3]
        assert all(v.device.type == "cpu" for v in weights(directory).values())


@needs_cuda
def test_same_seed_same_bits_on_a_device(tmp_path: Path) -> None:
    a, b = (train_on_device(tiny(tmp_path / name)) for name in "ab")
    for kind in KINDS:
        x, y = weights(a.directory(kind)), weights(b.directory(kind))
        assert all(torch.equal(x[k], y[k]) for k in x)


def first_batch(images: DeviceImages) -> Batch:
    return next(iter(images.augmented(64, epoch_generator(0, 0))))


@needs_cuda
def test_batches_are_the_same_on_every_device(tmp_path: Path) -> None:
    dataset = load(tiny(tmp_path).plan.experiment.dataset)
    cpu, gpu = (
        first_batch(DeviceImages(dataset, dataset.train, torch.device(d))) for d in ("cpu", DEVICE)
    )
    assert torch.equal(cpu.y, gpu.y.cpu())
    assert torch.equal(gpu.y_cpu, cpu.y_cpu)
    torch.testing.assert_close(gpu.x.cpu(), cpu.x)


@needs_cuda
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_those_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, precision: str, tolerance: float
) -> None:
    # TF32 convolutions, PyTorch's default on a GPU, keep three digits: not what is tested here.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    grid = tiny(tmp_path, "network.dropout=0", f"optimizer.precision={precision}")
    config, dataset = grid.cell(kind).config, load(grid.plan.experiment.dataset)
    torch.manual_seed(0)
    student, teacher = (build("wide_resnet", 10, depth=10, width=w, dropout=0) for w in (1, 2))

    def losses(name: str) -> dict[str, float]:
        device = torch.device(name)
        images = {"train": DeviceImages(dataset, dataset.train, device)}
        model = copy.deepcopy(student).to(device).train()
        context = Context(config, images, 10, model, copy.deepcopy(teacher).to(device))
        method = make_training(kind, context)
        with autocast(device, precision):
            values, _ = method.losses(model, first_batch(images["train"]), 0)
        return {k: v.item() for k, v in values.items()}

    assert losses(DEVICE) == pytest.approx(losses("cpu"), rel=tolerance, abs=tolerance)
