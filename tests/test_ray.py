"""Cells on a Ray cluster: three nodes on this machine, killed and asked to stop on purpose."""

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_bodies
from data_files import write_birds
from helpers import (
    HANG,
    ROOT,
    TINY,
    TUNING,
    WITH_RAY,
    call,
    cells,
    end_processes_in,
    epochs_of,
    has_epochs,
    needs_ray,
    start,
    wait_until,
    write_experiment,
)
from ray_kills import LIMITS
from training import RAW, VERSION, Grid, assert_same_result, go, tiny

from harness.common.errors import LostError, UserError
from harness.data import load
from harness.execute.ray.options import RayOptions
from harness.execute.scheduler import begin, run
from harness.experiment.file import parse
from harness.plan import make_plan
from harness.store import CellDir, Store
from harness.store.manifest import CellOptions
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED, WRONG_INPUT

if WITH_RAY:
    import ray
pytestmark = needs_ray
MEMORY = 80 * 2**20  # of each node's object store
BOTH = pytest.mark.parametrize("shared", [True, False], ids=["shared", "sent"])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one core. Its processes find the bodies of the tests' tasks."""
    from ray.cluster_utils import Cluster

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        for name, value in LIMITS.items():
            patch.setenv(name, value)
        # A raylet that is gone is dead after a second, not after half a minute.
        patch.setenv("RAY_health_check_period_ms", "300")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp"))
        patch.setenv("RAY_TMPDIR", place)  # short, for sockets; and nobody's `auto`
        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                made.add_node(num_cpus=1, object_store_memory=MEMORY)
            made.wait_for_nodes()
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture(scope="module")
def joined(cluster: Any) -> Iterator[str]:
    """Its address; this process is one of its drivers, as `connect` makes it."""
    from harness.execute.ray.cluster import connect

    assert connect(ray, cluster.address)
    assert not connect(ray, cluster.address), "once a process"
    yield cluster.address
    ray.shutdown()


Made = Callable[..., Any]


@pytest.fixture
def executor(joined: str) -> Iterator[Made]:
    from harness.execute.ray.executor import RayExecutor

    made = []

    def make(body: Any = None, **options: Any) -> RayExecutor:
        made.append(RayExecutor(RayOptions(joined, **options), VERSION, body))
        return made[-1]

    yield make
    for one in made:
        one.close()


def next_ended(executor: Any, limit: float = HANG) -> tuple[Path, int]:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if found := executor.poll(0.5):
            (one,) = found
            return one
    raise AssertionError("no cell ended")


def events_of(directory: CellDir) -> list[str]:
    return [e["event"] for e in directory.events()]


def slow(root: Path, epochs: int = 15) -> tuple[Grid, CellDir]:
    """A plain training that can be met in its middle."""
    grid = tiny(root, "methods=[plain]", f"training.epochs={epochs}")
    return grid, grid.directory("supervised")


# -- the same numbers ------------------------------------------------------------------------------


@BOTH
def test_the_same_bits_as_on_this_machine(
    executor: Made, trained: Grid, tmp_path: Path, shared: bool
) -> None:
    """More cells than places, and cells that start from others' models."""
    grid = tiny(tmp_path / "runs", "seeds=[0,1]")
    runner = executor(shared_files=shared)
    assert runner.capacity == 3 < len(grid.plan.cells) == 8
    progress = begin(grid.plan, grid.store)
    run(progress, runner, CellOptions.on_this_machine(parse(RAW), teacher_cache=10**8))
    assert set(progress.state.values()) == {"done"}, progress.errors
    assert set(trained.plan.cells) <= set(grid.plan.cells)
    for fingerprint in trained.plan.cells:
        directory = grid.store.directory(fingerprint)
        assert_same_result(directory, trained.store.directory(fingerprint))
        assert events_of(directory) == ["start", "epoch", "epoch", "epoch", "end"]
        assert directory.manifest.threads == 1 and directory.manifest.commits == ["0" * 40]
        trainer = json.loads((directory / "lease").read_text())["pid"]
        assert (trainer == os.getpid()) is not shared, (
            "this process holds the lease of what is sent"
        )
        assert not directory.is_leased
        files = {p.name for p in trained.store.directory(fingerprint).path.iterdir()}
        assert {p.name for p in directory.path.iterdir()} == files | {"log.txt", "options.json"}
    assert (grid.store.root / "teacher-cache").exists() is shared


def test_data_come_from_here_where_a_node_has_none(
    executor: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads somewhere in this process alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_DATA_ROOT", "/proc/self/cwd/data")
    write_birds(tmp_path / "birds")
    raw = {k: RAW[k] for k in ("network", "teacher", "students", "optimizer")}
    birds = {"name": "folder", "path": "/proc/self/cwd/birds", "image_size": 8}
    raw |= {"name": "birds", "dataset": birds, "methods": ["plain"], "training": {"epochs": 2}}
    experiment = parse(raw)
    plan, store = make_plan(experiment, load(experiment.dataset)), Store(tmp_path / "runs")
    store.create()
    runner = executor(shared_files=False)
    (cell,) = plan.cells.values()
    directory = store.prepare(cell, CellOptions.on_this_machine(experiment))
    for _ in range(2):  # the second time the data go along at once
        runner.submit(directory.path)
        assert next_ended(runner) == (directory.path, DONE), (directory / "log.txt").read_text()
        assert directory.manifest.data["digest"] == cell.config.data.digest
        (directory / "manifest.json").unlink()


def test_files_are_sent_where_a_node_does_not_see_the_store(
    executor: Made, trained: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tiny(tmp_path / "runs", "methods=[plain]")
    directory = grid.directory("supervised")
    runner = executor()
    runner._probe(grid.store.root)
    (probe,) = grid.store.root.glob(".ray.*")
    os.rename(probe, probe.with_suffix(".gone"))
    runner.submit(directory.path)
    assert next_ended(runner) == (directory.path, DONE)
    assert_same_result(directory, trained.directory("supervised"))
    assert json.loads((directory / "lease").read_text())["pid"] == os.getpid()
    assert "does not see" in capsys.readouterr().err
    os.rename(probe.with_suffix(".gone"), probe)
    runner.close()
    assert not list(grid.store.root.glob(".ray.*"))


@BOTH
def test_a_cell_pauses_and_goes_on(
    executor: Made, trained: Grid, tmp_path: Path, shared: bool
) -> None:
    """As `harness tune` stops trials at their rungs."""
    directory = tiny(tmp_path, "methods=[plain]").directory("supervised")
    runner = executor(shared_files=shared)
    for epoch, status in ((1, STOPPED), (2, STOPPED), (None, DONE)):
        directory.pause_after = epoch
        runner.submit(directory.path)
        assert next_ended(runner) == (directory.path, status)
        assert len(directory.epochs()) == epoch or status == DONE
    assert_same_result(directory, trained.directory("supervised"))


# -- what is lost goes on --------------------------------------------------------------------------


@BOTH
def test_a_node_is_killed_while_it_trains(
    cluster: Any, executor: Made, tmp_path: Path, shared: bool
) -> None:
    """It is the only one with what the cell asks for, a GPU in Ray's books; then another comes."""
    _, directory = slow(tmp_path / "runs")
    doomed = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY)
    runner = executor(gpus=1.0, shared_files=shared)
    runner.submit(directory.path)
    assert wait_until(lambda: runner.poll(0.1) or directory.epochs())
    assert not directory.is_done, "met in its middle"
    cluster.remove_node(doomed, allow_graceful=False)
    other = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY)
    ended = (directory.path, BUSY)
    while ended[1] == BUSY:  # the dead node's process may hold the lease for a moment
        ended = next_ended(runner)
        if ended[1] == BUSY:
            runner.submit(directory.path)
    assert ended == (directory.path, DONE)
    cluster.remove_node(other)
    assert events_of(directory).count("start") == directory.manifest.attempts == 2
    assert "lost after epoch" in (directory / "log.txt").read_text()
    epochs = [e["epoch"] for e in directory.events() if e["event"] == "epoch"]
    assert epochs == list(range(1, 16)), "nothing twice"
    _, here = slow(tmp_path / "here")
    assert go(here) == DONE
    assert_same_result(here, directory)


def test_a_cell_that_kills_its_process_fails_after_some_tries(
    executor: Made, tmp_path: Path
) -> None:
    _, directory = slow(tmp_path)
    runner = executor(ray_bodies.killed)
    runner.submit(directory.path)
    assert next_ended(runner, 240) == (directory.path, FAILED)
    assert events_of(directory) == ["start"] * 3 + ["failed"]
    assert "lost 3 times without an epoch" in directory.events()[-1]["error"]


@BOTH
def test_cancelled_all_stop_at_their_last_checkpoint(
    executor: Made, trained: Grid, tmp_path: Path, shared: bool
) -> None:
    grid = tiny(tmp_path / "runs", "methods=[plain]", "seeds=[0,1]", "training.epochs=4000")
    directories = [grid.store.prepare(cell) for cell in grid.plan.cells.values()]
    runner = executor(shared_files=shared)
    for directory in directories:
        runner.submit(directory.path)
    assert wait_until(lambda: runner.poll(0.1) or all(d.epochs() for d in directories))
    runner.cancel(grace=HANG)
    for directory in directories:
        assert events_of(directory)[-1] == "stopped" and not directory.is_leased
        assert directory.read_checkpoint() is not None
    assert runner.poll(0.0) == []
    assert all_are_free()


def all_are_free() -> bool:
    """Whether Ray has all cores of the cluster to give."""
    return wait_until(
        lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
    )


def test_one_that_does_not_stop_is_killed(executor: Made, tmp_path: Path) -> None:
    _, directory = slow(tmp_path)
    runner = executor(ray_bodies.deaf)
    runner.submit(directory.path)
    assert wait_until(lambda: runner.poll(0.1) or directory.events())
    runner.cancel(grace=0.5)
    pid = directory.events()[0]["pid"]
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert not directory.is_leased


def test_cells_that_have_no_place_yet_are_cancelled_too(executor: Made, tmp_path: Path) -> None:
    grid = tiny(tmp_path, "methods=[plain]", "seeds=[0,1,2,3,4]")
    directories = [grid.store.prepare(cell) for cell in grid.plan.cells.values()]
    runner = executor(ray_bodies.waiting)
    for directory in directories:
        runner.submit(directory.path)
    assert wait_until(lambda: sum(d.is_leased for d in directories) == 3)
    runner.cancel(grace=HANG)
    assert not any(d.is_leased for d in directories) and all_are_free()


# -- many, and next to others ----------------------------------------------------------------------


@BOTH
def test_300_cells_leave_nothing_behind(executor: Made, tmp_path: Path, shared: bool) -> None:
    """Neither tasks nor objects."""
    grid = tiny(tmp_path, "methods=[plain]", f"seeds={list(range(300))}")
    runner = executor(ray_bodies.at_once, shared_files=shared)
    references = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    progress = begin(grid.plan, grid.store)
    most = 0

    def look(_: str | None) -> None:
        nonlocal most
        most = max(most, len(references()))

    run(progress, runner, on_change=look)
    assert set(progress.state.values()) == {"done"} and len(progress.state) == 300
    assert most < 20, "as many at once as at the start"
    assert not runner._running and all_are_free()
    assert wait_until(lambda: len(references()) < 10), references()
    left = [p.name for p in grid.store.root.iterdir() if not (p / "manifest.json").exists()]
    assert all(name.startswith(".ray.") for name in left)


def test_cells_share_a_gpu(cluster: Any, executor: Made, tmp_path: Path, monkeypatch: Any) -> None:
    """Four quarters at once on the only one. (It stands in the node's books alone.)"""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    monkeypatch.setenv("HARNESS_TEST_MEETING", str(meeting))
    node = cluster.add_node(num_cpus=8, num_gpus=1, object_store_memory=MEMORY)
    runner = executor(ray_bodies.gathered, gpus=0.25, device="cuda")
    assert runner.capacity == 4
    assert executor(gpus=0.25, device="cuda", limit=3).capacity == 3
    grid = tiny(tmp_path / "runs", "methods=[plain]", "seeds=[0,1,2,3]")
    run(begin(grid.plan, grid.store), runner)
    cluster.remove_node(node)
    seen = [grid.store.directory(f).manifest.device for f in grid.plan.cells]
    assert seen == ["0"] * 4


def test_another_process_holds_a_cell(executor: Made, tmp_path: Path) -> None:
    _, directory = slow(tmp_path)
    for shared in (True, False):
        runner = executor(shared_files=shared)
        with directory.lease():
            runner.submit(directory.path)
            assert next_ended(runner) == (directory.path, BUSY)
    assert directory.events() == []


@BOTH
def test_a_damaged_cell_is_left_alone(executor: Made, tmp_path: Path, shared: bool) -> None:
    _, directory = slow(tmp_path)
    (directory / "journal.jsonl").write_text("no event\n")
    runner = executor(shared_files=shared)
    runner.submit(directory.path)
    assert next_ended(runner) == (directory.path, WRONG_INPUT)
    assert "harness repair" in (directory / "log.txt").read_text()
    assert (directory / "journal.jsonl").read_text() == "no event\n" and not directory.is_leased


def test_a_store_that_cannot_be_written(executor: Made, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.execute.ray.executor.apply_write", full)
    _, directory = slow(tmp_path)
    runner = executor(shared_files=False)
    runner.submit(directory.path)
    assert next_ended(runner) == (directory.path, FAILED)
    assert "No space left" in directory.events()[-1]["error"]


def test_the_cluster_is_lost(executor: Made, tmp_path: Path) -> None:
    """Here its actor beside the command: without it nothing comes back."""
    _, directory = slow(tmp_path, epochs=4000)
    runner = executor(shared_files=False)
    runner.submit(directory.path)
    assert wait_until(lambda: runner.poll(0.1) or directory.epochs())
    ray.kill(runner._mailbox)
    with pytest.raises(LostError, match=r"^--ray-address: "):
        next_ended(runner)
    assert directory.is_leased is False and directory.read_checkpoint() is not None
    assert all_are_free()


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Iterator[Path]:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    write_experiment(
        tmp_path / "slow.yaml", TINY, name="slow", methods=["plain"], training={"epochs": 25}
    )
    yield tmp_path
    end_processes_in(tmp_path)


@pytest.mark.parametrize(
    ("shared", "how"),
    [(True, signal.SIGKILL), (False, signal.SIGKILL), (False, signal.SIGINT)],
    ids=["shared-killed", "sent-killed", "sent-ctrl-c"],
)
def test_the_driver_ends_and_begins_again(
    cluster: Any, folder: Path, shared: bool, how: signal.Signals
) -> None:
    command = ["run", "slow.yaml", "--no-bar", "--executor", "ray"]
    command += ["--ray-address", cluster.address, *([] if shared else ["--no-shared-files"])]
    process = start(folder, *command)
    assert wait_until(lambda: has_epochs(folder)), process.communicate()
    os.killpg(process.pid, how)
    process.communicate(timeout=HANG)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    before = epochs_of(cells(folder)["supervised"])
    assert before[-1] < 25, "met in its middle"
    done = call(folder, *command)
    assert done.returncode == 0, done.stderr
    teacher = cells(folder)["supervised"]
    assert teacher.manifest.attempts == 2 and epochs_of(teacher) == list(range(1, 26))


def test_a_tuning_finds_the_same(cluster: Any, folder: Path) -> None:
    """As on this machine, with as many threads a cell."""
    where = {
        "here": ["--jobs", "2", "--device", "cpu"],
        "ray": ["--jobs", "2", "--executor", "ray", "--ray-address", cluster.address],
    }
    found: dict[str, list[str]] = {}
    for name, options in where.items():
        write_experiment(folder / name / "tiny.yaml")
        write_experiment(folder / name / "tuning" / "tiny.yaml", TUNING)
        (folder / name / "mlflow.db").write_bytes((folder / "mlflow.db").read_bytes())
        done = call(folder / name, "tune", "tuning/tiny.yaml", "--no-bar", *options)
        assert done.returncode == 0, done.stderr
        (bundle,) = folder.glob(f"{name}/runs/tuning/*.jsonl")
        found[name] = bundle.read_text().splitlines()[1:]  # trials, and the best of them again
    assert found["here"] == found["ray"] and len(found["ray"]) == 3


def test_max_time(cluster: Any, folder: Path) -> None:
    where = ["--executor", "ray", "--ray-address", cluster.address]
    write_experiment(
        folder / "slow.yaml", TINY, name="slow", methods=["plain"], training={"epochs": 4000}
    )
    stopped = call(folder, "run", "slow.yaml", "--no-bar", "--max-time", "8s", *where)
    assert stopped.returncode == 3, stopped.stderr
    events = cells(folder)["supervised"].events()
    assert not events or events[-1]["event"] == "stopped"


# -- bad input -------------------------------------------------------------------------------------


def test_more_than_any_node_has(executor: Made) -> None:
    with pytest.raises(UserError, match=r"--gpus-per-cell: 1, but no node .* than 0 GPUs"):
        executor(gpus=1.0, device="cuda")
    with pytest.raises(UserError, match=r"--cpus-per-cell: 99, but no node"):
        executor(cpus=99)
