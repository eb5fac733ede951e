"""Worker processes: one cell after the other, each alone in success and failure."""

import contextlib
import json
import multiprocessing.forkserver
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG, captured, changed, environment, wait_until
from training import KINDS, VERSION, Grid, assert_same_result, metrics, tiny

from harness.data import Dataset, load
from harness.data.sets.digits import DigitsOptions
from harness.execute import local
from harness.execute.local import ENVIRONMENT, LocalExecutor
from harness.execute.scheduler import begin, run
from harness.store import CellDir
from harness.train.data_request import DataRequest, DatasetCache
from harness.train.exit_status import DONE, STOPPED, WRONG_INPUT


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = LocalExecutor(("cpu", "cpu"), VERSION)
    yield made
    made.close()


@pytest.fixture
def two_devices() -> Iterator[LocalExecutor]:
    """Names of the CPU, which stand for two GPUs."""
    made = LocalExecutor(("cpu:0", "cpu:1"), VERSION)
    yield made
    made.close()


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return tiny(tmp_path, "seeds=[0,1,2,3]", "methods=[plain]")


def directories(grid: Grid) -> list[CellDir]:
    return [grid.store.prepare(cell) for cell in grid.plan.cells.values()]


def ended(executor: LocalExecutor) -> tuple[Path, int]:
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        if found := executor.poll(1.0):
            (one,) = found
            return one
    raise AssertionError("no cell ended")


def pid_of(directory: CellDir) -> int:
    return int(json.loads((directory / "lease").read_text())["pid"])


def begun(directory: CellDir) -> dict[str, Any]:
    """Return the journal's start line of the last attempt."""
    return [e for e in directory.events() if e["event"] == "start"][-1]


def slot_of(directory: CellDir) -> str:
    return begun(directory)["slot"]


def has_started(directory: CellDir) -> bool:
    return any(e["event"] == "start" for e in directory.events())


def test_a_worker_takes_the_next_cell(executor: LocalExecutor, grid: Grid, trained: Grid) -> None:
    first, bad, second, _ = directories(grid)
    (bad / "options.json").write_text(json.dumps({"dataset": {"name": "digits", "test": 3}}))
    for directory, status in ((first, DONE), (bad, WRONG_INPUT), (second, DONE)):
        executor.submit(directory.path)
        assert ended(executor) == (directory.path, status)
    assert pid_of(first) == pid_of(bad) == pid_of(second) != os.getpid()
    assert_same_result(first, trained.directory("supervised"))
    assert metrics(first) != metrics(second)
    assert (second / "log.txt").exists()


def test_a_killed_one_takes_no_other_cell_with_it(executor: LocalExecutor, grid: Grid) -> None:
    first, second, third, fourth = directories(grid)
    for directory in (first, second):
        executor.submit(directory.path)
    wait_until(lambda: has_started(first) and has_started(second))
    os.kill(pid_of(first), signal.SIGKILL)
    assert ended(executor) == (first.path, -signal.SIGKILL)
    assert ended(executor) == (second.path, DONE)
    executor.submit(fourth.path)
    assert ended(executor) == (fourth.path, DONE)
    idle = pid_of(second)
    assert pid_of(fourth) == idle, "no other one had to be started"
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{idle}").exists())
    for directory in (third, first):
        executor.submit(directory.path)
        assert ended(executor) == (directory.path, DONE)
    assert pid_of(third) == pid_of(first) != idle


def test_what_a_terminal_sends_to_all_is_left_to_the_command(
    executor: LocalExecutor, grid: Grid, capfd: pytest.CaptureFixture[str]
) -> None:
    numbers, cell = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1), directories(grid)[0]
    server = multiprocessing.forkserver._forkserver
    server._stop()
    multiprocessing.resource_tracker._resource_tracker._stop()  # none runs at first
    executor.warm_up(1)
    for number in numbers:  # before it has imported anything
        os.kill(server._forkserver_pid, number)
    executor.submit(cell.path)
    wait_until(lambda: has_started(cell))
    for number in numbers:
        os.kill(pid_of(cell), number)
    assert ended(executor) == (cell.path, DONE)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("n_kills", [2, 3])
def test_a_fork_server_that_is_killed_while_it_forks_is_started_again(
    executor: LocalExecutor, grid: Grid, monkeypatch: pytest.MonkeyPatch, n_kills: int
) -> None:
    left, real = n_kills, multiprocessing.forkserver.read_signed

    def read_signed(fd: int) -> int:
        nonlocal left
        left -= 1
        if left >= 0:
            os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            raise EOFError("unexpected EOF")
        return real(fd)

    monkeypatch.setattr("multiprocessing.forkserver.read_signed", read_signed)
    cell = directories(grid)[0]
    if n_kills == 3:
        with pytest.raises(ChildProcessError):  # which the scheduler turns into a failed cell
            executor.submit(cell.path)
        return
    executor.submit(cell.path)
    assert ended(executor) == (cell.path, DONE)


PROGRAM = """
import threading
from harness.experiment.file import parse
from harness.run.grid import run_experiment
from harness.run.options import RunOptions

experiment = parse({RAW})
options = RunOptions(device="cpu", jobs=1, no_bar=True)
thread = threading.Thread(target=lambda: print("status", run_experiment(experiment, options)))
thread.start()
thread.join()
"""


def test_a_program_without_a_file_trains_in_a_thread(tmp_path: Path, empty_database: Path) -> None:
    """It has no `if __name__ == "__main__"` either."""
    shutil.copy(empty_database, tmp_path)
    raw = changed(methods=["plain"], training={"epochs": 1})
    program = PROGRAM.replace("{RAW}", repr(raw))
    done = captured([sys.executable, "-"], input=program, cwd=tmp_path, env=environment())
    assert done.stdout.count("status 0") == 1, done.stderr
    assert done.stdout.count("1 done") == 1


def test_one_that_is_asked_to_stop_takes_no_other(executor: LocalExecutor, grid: Grid) -> None:
    first, second, *_ = directories(grid)
    executor.submit(first.path)
    wait_until(lambda: has_started(first))
    os.kill(pid_of(first), signal.SIGTERM)
    assert ended(executor) == (first.path, STOPPED)
    executor.submit(second.path)
    assert ended(executor) == (second.path, DONE)
    assert pid_of(second) != pid_of(first)


def test_a_slot_has_one_cell_and_passes_from_a_killed_worker_to_the_next(
    two_devices: LocalExecutor, grid: Grid
) -> None:
    first, second, third, fourth = directories(grid)
    for directory in (first, second):
        two_devices.submit(directory.path)
    wait_until(lambda: has_started(first) and has_started(second))
    assert (slot_of(first), slot_of(second)) == ("cpu:0", "cpu:1")
    assert begun(second)["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    stays, killed = pid_of(first), pid_of(second)
    os.kill(stays, signal.SIGSTOP)  # its slot is taken as long as this test wants
    os.kill(killed, signal.SIGKILL)
    assert ended(two_devices) == (second.path, -signal.SIGKILL)
    for directory in (third, second):
        two_devices.submit(directory.path)
        assert ended(two_devices) == (directory.path, DONE)
        assert slot_of(directory) == "cpu:1"
    assert pid_of(third) == pid_of(second) not in (stays, killed)
    os.kill(stays, signal.SIGCONT)
    assert ended(two_devices) == (first.path, DONE)
    two_devices.submit(fourth.path)
    assert ended(two_devices) == (fourth.path, DONE)
    assert slot_of(fourth) == slot_of(first) == "cpu:0"
    assert pid_of(fourth) == pid_of(first) == stays


def test_the_slot_changes_no_bit(tmp_path: Path, trained: Grid, monkeypatch: Any) -> None:
    """The tiny grid trains to the same bits on two devices as alone, on as many threads."""
    monkeypatch.setattr(local, "threads_for", lambda _: 1)
    grid = tiny(tmp_path)
    executor = LocalExecutor(("cpu:0", "cpu:1"), VERSION)
    with contextlib.closing(executor):
        run(begin(grid.plan, grid.store), executor)
    slots = {kind: slot_of(grid.directory(kind)) for kind in KINDS}
    assert {slots["kd"], slots["stage1"]} == {"cpu:0", "cpu:1"}, "they wait for the teacher alone"
    for kind in KINDS:
        mine, other = grid.directory(kind), trained.directory(kind)
        assert_same_result(mine, other)
        assert mine.path.name == other.path.name
        for field in ("device", "threads"):
            assert getattr(mine.manifest, field) == getattr(other.manifest, field)


def test_closed_none_is_left(executor: LocalExecutor, grid: Grid) -> None:
    first, second, *_ = directories(grid)
    for directory in (first, second):
        executor.submit(directory.path)
    pids = [pid_of(d) for d in (first, second) if wait_until(lambda d=d: has_started(d))]
    n_ended = 0
    while n_ended < 2:
        n_ended += len(executor.poll(1.0))
    executor.cancel()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids), "they wait for other cells"
    workers = [worker.process for worker in executor._workers.values()]
    executor._end(dict(executor._workers), grace=HANG)  # as `close`, which waits a shorter time
    assert -signal.SIGKILL not in [process.exitcode for process in workers]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_cancelled_none_is_left(executor: LocalExecutor, grid: Grid) -> None:
    first, second, *_ = directories(grid)
    executor.submit(first.path)
    assert ended(executor) == (first.path, DONE)
    for directory in (first, second):
        executor.submit(directory.path)
    wait_until(lambda: has_started(second))
    executor.cancel(grace=30)
    assert not Path(f"/proc/{pid_of(second)}").exists()
    assert executor.poll(0.0) == [] and not second.is_done


def test_a_data_set_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[DigitsOptions, bool]] = []
    real = load

    def counted(options: DigitsOptions, with_test: bool, **_: bool) -> Dataset:
        calls.append((options, with_test))
        return real(options, with_test)

    monkeypatch.setattr("harness.train.data_request.load", counted)
    cache, options = DatasetCache(), DigitsOptions()

    def dataset(options: DigitsOptions, with_test: bool, root: str | None = None) -> Dataset:
        return cache.get(DataRequest(options, with_test, root, ""))

    first = dataset(options, True)
    assert dataset(DigitsOptions(), True) is first and len(calls) == 1
    assert dataset(options, False).test is None
    other = dataset(DigitsOptions(split_seed=1), False)
    assert other.digest != first.digest and len(calls) == 3
    assert dataset(options, True, "/elsewhere").digest == first.digest and len(calls) == 4
    given = cache.get(DataRequest(options, True, None, ""), lambda: other)
    assert given is other and len(calls) == 4


STARTED = """
import gc, multiprocessing, sys
from harness.execute.local import serve_cells
before, (orders, ours) = set(sys.modules), multiprocessing.Pipe()
ours.close()
serve_cells(orders, "cpu", 1, {})
with open(FILE, "w") as file:
    print(gc.isenabled(), gc.get_freeze_count() > 100_000, *before, file=file)
"""


def test_a_worker_has_from_the_start_what_it_needs(executor: LocalExecutor, tmp_path: Path) -> None:
    """And Python does not look for garbage among it."""
    executor.warm_up(1)
    code = STARTED.replace("FILE", repr(str(tmp_path / "said")))
    process = multiprocessing.get_context("forkserver").Process(target=exec, args=(code,))
    process.start()
    process.join(HANG)
    enabled, frozen, *modules = (tmp_path / "said").read_text().split()
    assert (enabled, frozen) == ("True", "True")
    assert {"harness.train.cell", "torch._dynamo", "torch._inductor"} <= {*modules}


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize("set_by_user", [None, "7"])
def test_what_workers_are_told_unless_the_user_has_said_otherwise(
    name: str, set_by_user: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, set_by_user or "")
    if set_by_user is None:
        monkeypatch.delenv(name)
    LocalExecutor(("cpu",), VERSION).warm_up(1)
    assert os.environ[name] == (set_by_user or ENVIRONMENT[name])


FAULTS = """
import resource
def use():
    blocks = [bytearray(2**19) for _ in range(40)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_a_worker_does_not_ask_the_system_for_the_same_memory_again() -> None:
    """As a training step does that needs 20 MB in blocks of half a megabyte."""

    def faults(environment: dict[str, str]) -> int:
        kept = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
        command, env = [sys.executable, "-c", FAULTS], kept | environment
        return int(subprocess.run(command, env=env, capture_output=True, check=True).stdout)

    assert faults(ENVIRONMENT) < faults({}) / 20
