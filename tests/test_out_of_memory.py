"""Cells that the memory does not hold: a line with what helps, and another try with fewer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import VERSION, failure, go, tiny

from harness.common import memory
from harness.common.memory import host_memory
from harness.execute import local
from harness.execute.local import LocalExecutor
from harness.train.exit_status import DONE, FAILED, NO_MEMORY, STOPPED
from harness.train.memory import memory_line


def cudnn() -> None:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nand more")


def gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB." + "x" * 500)


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(2**60), lambda: np.zeros(2**55), gpu, cudnn]
)
def test_the_line_of_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocate: Callable[[], None]
) -> None:
    monkeypatch.setattr("harness.train.cell.train", lambda *_: allocate())
    directory = tiny(tmp_path).directory("supervised")
    assert go(directory) == NO_MEMORY
    line = failure(directory)
    assert line.startswith("out of memory on cpu (")
    for part in ("supervised", "wrn-10-1", "64 images of 8x8", "--jobs", "optimizer.batch_size"):
        assert part in line
    assert len(line) < 300 and "\n" not in line


def test_other_errors_are_not_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("harness.train.cell.train", broken)
    assert go(tiny(tmp_path).directory("supervised")) == FAILED


def test_the_line_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 10**8, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    line = memory_line(tiny(tmp_path).cell("kd"), None, torch.device("cuda"))
    assert line.startswith("out of memory on H100 (0.3 of 80.0 GB free): kd of wrn-10-1")
    assert "bfloat16" in line


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free, total = host_memory()
    assert free == total > 10**8, "nothing says what is free"
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory() == (4_096_000, total)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert host_memory() == (100_000, 1_000_000)


class Stub:
    """A worker without a process, whose cells end when and how the test says."""

    ends: dict[Path, int]

    def __init__(self, _: Any) -> None:
        self.process = self
        self.directory: Path | None = None
        self.has_shared = False
        self.events: list[Any] = []

    def is_alive(self) -> bool:
        return True

    def begin(self, directory: Path) -> None:
        self.directory = directory

    def ended(self) -> int | None:
        assert self.directory is not None
        return self.ends.pop(self.directory, None)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    Stub.ends = {}
    monkeypatch.setattr(local, "Worker", Stub)
    monkeypatch.setattr(local.connection, "wait", lambda *_: None)


A, B, C = Path("a"), Path("b"), Path("c")


def end_of(executor: LocalExecutor, **statuses: int) -> dict[str, int]:
    """End cells with these statuses, and return what the executor makes of them."""
    Stub.ends = {Path(name): status for name, status in statuses.items()}
    return {path.name: status for path, status in executor.poll(0.0)}


def test_fewer_share_a_device_that_was_too_small(
    stubs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = LocalExecutor(("cuda",) * 3, VERSION)
    for path in (A, B, C):
        executor.submit(path)
    assert end_of(executor, a=NO_MEMORY) == {"a": STOPPED}, "it waits for another try"
    assert executor.capacity == 2
    assert "note: a: out of memory" in (said := capsys.readouterr().err) and "at most 2" in said
    assert end_of(executor, b=DONE) == {"b": DONE}
    executor.submit(A)
    assert end_of(executor, a=NO_MEMORY, c=NO_MEMORY) == {"a": STOPPED, "c": STOPPED}
    assert executor.capacity == 1
    executor.submit(A)
    assert end_of(executor, a=NO_MEMORY) == {"a": NO_MEMORY}, "it was alone"
    executor.submit(C)
    assert end_of(executor, c=DONE) == {"c": DONE}
    assert executor.capacity == 1


def test_a_worker_forgets_whom_its_last_cell_was_with(stubs: None) -> None:
    executor = LocalExecutor(("cuda",) * 2, VERSION)
    for path in (A, B):
        executor.submit(path)
    assert end_of(executor, a=DONE, b=DONE) == {"a": DONE, "b": DONE}
    executor.submit(C)
    assert end_of(executor, c=NO_MEMORY) == {"c": NO_MEMORY}


def test_a_cell_on_another_device_does_not_matter(stubs: None) -> None:
    executor = LocalExecutor(("cuda:0", "cuda:1") * 2, VERSION)
    for path in (A, B):
        executor.submit(path)
    assert end_of(executor, a=NO_MEMORY) == {"a": NO_MEMORY}
    assert executor.capacity == 4
