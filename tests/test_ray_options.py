"""Parts of the Ray executor that need no cluster: options, room on nodes, messages, signals."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray_bodies
from helpers import HANG, Output, Patch, refusal, wait_until, write_experiment, wrong
from training import tiny

from harness.common.errors import UserError
from harness.common.signals import uninterrupted
from harness.execute.executors import cluster_of
from harness.execute.ray import cluster
from harness.execute.ray.cluster import Watch, import_ray, n_cells_that_fit, resources_of
from harness.execute.ray.executor import RayExecutor
from harness.execute.ray.node import Mailbox, Report
from harness.execute.ray.options import RayOptions
from harness.execute.scheduler import begin, run
from harness.store import CellDir
from harness.train.exit_status import WRONG_INPUT


def test_the_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--executor ray.*pip install"):
        import_ray()


def chosen(name: str = "ray", **given: Any) -> Any:
    options: dict[str, Any] = {"address": None, "cpus": None, "gpus": None}
    options |= {"no_shared_files": False, "jobs": None, "device": "auto", "wait": None} | given
    return cluster_of(name, **options)


def test_options_of_the_command() -> None:
    assert chosen("local", jobs=2, device="cuda") is None, "this machine"
    assert chosen() == RayOptions()
    some = {"address": "ray://x:1", "cpus": 2, "gpus": 0.5, "jobs": 7, "wait": 90.0}
    everything = chosen(no_shared_files=True, **some)
    assert everything == RayOptions("ray://x:1", 2, 0.5, "cuda", 7, False, 90.0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "lokal"}, "--executor"),
        ({"name": "local", "address": "x"}, "--ray-address"),
        ({"name": "local", "cpus": 2}, "--cpus-per-cell"),
        ({"name": "local", "gpus": 0.5}, "--gpus-per-cell"),
        ({"name": "local", "no_shared_files": True}, "--no-shared-files"),
        ({"name": "local", "wait": 90.0}, "--ray-wait"),
        ({"gpus": 2.0}, "--gpus-per-cell"),
        ({"gpus": -1.0}, "--gpus-per-cell"),
        ({"device": "cuda:1", "gpus": 1.0}, "--device"),
        ({"device": "cuda"}, "--device"),
        ({"jobs_per_device": 2}, "--jobs-per-device"),
        ({"device": "cpu", "gpus": 0.5}, "--gpus-per-cell"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], field: str) -> None:
    assert wrong(lambda: chosen(**given)).startswith(f"{field}: ")


def test_how_many_cells_fit() -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"memory": 1e9, **resources}}

    nodes = resources_of([node(CPU=4), node(CPU=3.5, GPU=2), node(), node(False, CPU=64, GPU=8)])
    assert n_cells_that_fit(nodes, 1, 0) == 7
    assert n_cells_that_fit(nodes, 2, 0) == 3, "a cell's cores are of one node"
    assert n_cells_that_fit(nodes, 1, 1) == 2
    assert n_cells_that_fit(nodes, 1, 0.4) == 3, "two on each GPU, but three cores"
    assert n_cells_that_fit([{"CPU": 100, "GPU": 3}], 1, 0.1) == 30
    assert n_cells_that_fit([{"CPU": 100, "GPU": 2}], 1, 0.6) == 2, "a cell's share is of one GPU"


class Ray:
    """Instead of the module: a cluster that anybody may join, and where `auto` leads."""

    address, found = "", ""

    def __init__(self) -> None:
        services = SimpleNamespace(get_ray_address_from_environment=lambda *_: self.found)
        worker = SimpleNamespace(print_to_stdstream=print)
        self._private = SimpleNamespace(services=services, worker=worker)

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **_: Any) -> None:
        self.address = address


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)


@contextlib.contextmanager
def listening(answer: bytes | None, port: int = 0) -> Iterator[str]:
    """Yield the address of what answers everybody so; nothing listens there if that is None."""
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while client := server.accept()[0]:
                    client.send(answer)
                    clients.append(client)

        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer is None:
            server.close()
        else:
            threading.Thread(target=serve, daemon=True).start()
        yield address
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
    for client in clients:
        client.close()


AS_RAY = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # as gRPC begins


@pytest.mark.parametrize("form", ["{}", "ray://{}", "auto"])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (AS_RAY, ""),
        (b"HTTP/1.1 400 Bad request\r\n\r\n", "something other than Ray"),
        (b"", "does not answer"),
        (None, "refused"),
    ],
)
def test_what_listens_at_the_address_is_asked(
    answer: bytes | None, why: str, form: str, hasty: None
) -> None:
    ray = Ray()
    with listening(answer) as where:
        ray.found = where  # as a file of an earlier cluster says
        if why:
            wrong(lambda: cluster.connect(ray, form.format(where)), "--ray-address", where, why)
        assert cluster.connect(ray, form.format(where)) is True if not why else not ray.address
        assert why or ray.address == (where if form == "auto" else form.format(where))


def test_the_command_refuses_an_address_in_one_line(
    hasty: None, tmp_path: Path, monkeypatch: Patch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.execute.ray.executor.import_ray", lambda _: Ray())
    write_experiment(tmp_path / "tiny.yaml")
    with listening(None) as where:
        words = ("run", "tiny.yaml", "--executor", "ray", "--ray-address", where)
        line = refusal(capsys, *words)
        assert "--ray-address: " in line and f"{cluster.TRIES} tries" in line
        monkeypatch.setattr(cluster, "PAUSE_SECONDS", 1.0)
        assert "3 tries" not in refusal(capsys, *words, "--ray-wait", "4s"), "it tries for longer"


def test_the_log_of_a_lost_node_is_not_printed(hasty: None, capsys: Output) -> None:
    ray = Ray()
    with listening(AS_RAY) as where:
        cluster.connect(ray, where)
    ray._private.worker.print_to_stdstream({"lines": ["page 1"]}, ignore_prefix=False)
    assert capsys.readouterr().out == ""


def test_a_cluster_that_starts_is_waited_for(hasty: None, monkeypatch: Any) -> None:
    with listening(None) as where:
        pass
    monkeypatch.setattr(cluster, "TRIES", 1)
    began = threading.Event()

    def begin() -> None:
        began.wait(HANG)
        with listening(AS_RAY, int(where.rpartition(":")[2])):
            done.wait(HANG)

    done, ray = threading.Event(), Ray()
    monkeypatch.setattr(cluster.time, "sleep", lambda _: began.set())  # after the first try
    thread = threading.Thread(target=begin)
    thread.start()
    assert cluster.connect(ray, where, wait=HANG) and ray.address == where
    done.set()
    thread.join()


@pytest.mark.parametrize(("wait", "seconds"), [(None, 120), (1.0, 120), (600.0, 600)])
def test_the_time_that_rays_parts_have_to_start(
    wait: float | None, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"RAY_gcs_server_port_wait_time_s": "7"}
    monkeypatch.setattr(cluster.os, "environ", given)
    monkeypatch.setitem(sys.modules, "ray", Ray())
    import_ray(wait)
    assert given["RAY_raylet_start_wait_time_s"] == str(seconds)
    assert given["RAY_gcs_server_port_wait_time_s"] == "7", "the user's own"


def test_a_cluster_is_lost_once_it_is_silent_for_long(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(AS_RAY) as where:
        watch = Watch(Ray(), f"ray://{where}")
        assert watch.is_there()
    assert not watch.is_there(), "it may come back"
    monkeypatch.setattr(cluster, "LOST_SECONDS", -1.0)
    with pytest.raises(OSError):
        watch.is_there()


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_call_that_waits_for_a_lost_cluster_is_explained(
    is_gone: bool,
    hasty: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[str] = []

    def is_told() -> bool:
        told.append(capsys.readouterr().err)
        return any(told)

    monkeypatch.setattr(cluster, "LOST_SECONDS", 0.05)
    with listening(AS_RAY) as where:
        watch = Watch(Ray(), f"ray://{where}")
        if not is_gone:
            with watch.telling_if_lost():
                time.sleep(0.3)
            assert not is_told(), "the call takes long, but the cluster is there"
            return
    with watch.telling_if_lost():
        assert wait_until(is_told)
    assert f"lost the Ray cluster at ray://{where}" in "".join(told)
    told.clear()
    with watch.telling_if_lost():
        pass
    time.sleep(0.3)
    assert not is_told(), "the call has returned"


@pytest.mark.parametrize("address", ["6379", "http://127.0.0.1:8265", "127.0.0.1"])
def test_what_is_no_address_of_ray_is_refused(address: str) -> None:
    wrong(lambda: cluster.check_speaks_ray(address), "HOST:PORT")


def test_the_mailbox_keeps_what_is_not_known_to_be_stored() -> None:
    box = Mailbox()
    box.put("a", "journal", 1)
    box.put("b", "journal", 2)
    assert box.take(0) == box.take(0) == [(1, "a", "journal", 1), (2, "b", "journal", 2)]
    box.put("a", "checkpoint", 3)
    assert box.take(1) == [(2, "b", "journal", 2), (3, "a", "checkpoint", 3)]
    assert box.take(3) == [] == box.take(0)


def test_signals_wait_for_the_end_of_a_write() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("written")
    assert done == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: stack.enter_context(uninterrupted()))
        thread.start()
        thread.join()


class Tasks(Ray):
    """A cluster of two places, whose tasks are what `body` makes of their cells' directories."""

    def __init__(self, body: Callable[[CellDir], Report]) -> None:
        super().__init__()
        self.exceptions, self.body = pytest.importorskip("ray").exceptions, body
        self.sent: list[Path] = []

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2, "GPU": 1}}]

    def remote(self, task: Any) -> Any:
        def submit(job: Any = None, *_: Any) -> Path:
            self.sent.append(job and job.directory)
            return self.sent[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=submit))

    def wait(self, refs: list[Path], **_: Any) -> tuple[list[Path], list[Path]]:
        return refs, []

    def get(self, ref: Path) -> Report:
        return self.body(CellDir(ref))

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="127.0.0.1:1")


def executor_of(tasks: Tasks, monkeypatch: pytest.MonkeyPatch, **options: Any) -> RayExecutor:
    monkeypatch.setattr("harness.execute.ray.executor.import_ray", lambda _: tasks)
    return RayExecutor(RayOptions(**options), {"commit": "0" * 40, "dirty": False})


def put_damage(journal: Path) -> None:
    journal.write_text("no event\n")


def put_folder(journal: Path) -> None:
    journal.unlink()
    journal.mkdir()


def test_what_is_wrong_with_a_sent_cell_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny(tmp_path, "methods=[plain]").directory("supervised")
    put_damage(directory / "journal.jsonl")
    executor = executor_of(Tasks(lambda _: Report()), monkeypatch, shared_files=False)
    executor.submit(directory.path)
    assert executor.poll(0.0) == [(directory.path, WRONG_INPUT)]
    assert "harness repair" in (directory / "log.txt").read_text() and not directory.is_leased
    assert (directory / "journal.jsonl").read_text() == "no event\n", "it is left alone"


@pytest.mark.parametrize("harm", [put_damage, put_folder])
def test_a_lost_cell_with_a_damaged_journal_fails_and_the_rest_goes_on(
    harm: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tiny(tmp_path, "methods=[plain]", "seeds=[0,1,2]")
    unlucky, *others = grid.plan.cells

    def body(directory: CellDir) -> Report:
        if directory.path == grid.store.directory(unlucky).path:
            harm(directory / "journal.jsonl")
            raise tasks.exceptions.WorkerCrashedError
        return Report(ray_bodies.at_once(directory))

    tasks = Tasks(body)
    progress = begin(grid.plan, grid.store)
    for cell in grid.plan.cells.values():
        grid.store.prepare(cell).append("start")
    run(progress, executor_of(tasks, monkeypatch))
    assert [progress.state[f] for f in (unlucky, *others)] == ["failed", "done", "done"]
    assert "journal.jsonl" in progress.errors[unlucky], progress.errors
    assert len(tasks.sent) == 3, "it is not tried again"
    assert not grid.store.directory(unlucky).is_leased
    if harm is put_damage:
        left = grid.store.directory(unlucky) / "journal.jsonl"
        assert left.read_text() == "no event\n", "nothing is appended"


def test_a_node_without_all_of_the_code_yet_has_lost_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tiny(tmp_path, "methods=[plain]")

    def body(directory: CellDir) -> Report:
        if len(tasks.sent) > 1:
            return Report(ray_bodies.at_once(directory))
        errors = tasks.exceptions
        cause = errors.RaySystemError("No module named 'harness.execute'")
        raise errors.RayTaskError("train_on_node", "", cause)

    tasks = Tasks(body)
    progress = begin(grid.plan, grid.store)
    run(progress, executor_of(tasks, monkeypatch))
    assert set(progress.state.values()) == {"done"} and len(tasks.sent) == 2


def test_nodes_that_are_still_starting_are_waited_for(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks(lambda _: Report())
    nodes = [[{"Alive": True, "Resources": {"CPU": n}}] for n in (0, 0, 2)]
    monkeypatch.setattr(tasks, "nodes", lambda: nodes.pop(0))
    assert executor_of(tasks, monkeypatch, wait=HANG).capacity == 2
    nodes = [[{"Alive": True, "Resources": {}}]]
    wrong(lambda: executor_of(tasks, monkeypatch), "--cpus-per-cell")


@pytest.mark.parametrize(
    ("options", "n_cells", "n_tasks"),
    [({}, 9, 2), ({}, 1, 1), ({"gpus": 0.5, "device": "cuda"}, 9, 0)],
)
def test_places_are_warm_before_cells_come(
    options: dict[str, Any], n_cells: int, n_tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task for each place that a cell will take; none on a GPU, whose process is used once."""
    tasks = Tasks(lambda _: Report())
    executor_of(tasks, monkeypatch, **options).warm_up(n_cells)
    assert len(tasks.sent) == n_tasks
