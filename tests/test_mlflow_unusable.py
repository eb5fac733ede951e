"""MLflow that cannot be used: training does not need it, and a wrong address is one line."""

import contextlib
import os
import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import (
    Output,
    Patch,
    call,
    cells,
    mlflow_client,
    one_error_line,
    processes_in,
    refusal,
    role,
    runs_in,
    wait_until,
    write_experiment,
)

from harness.cli import main
from harness.common.errors import UserError
from harness.experiment.file import read
from harness.run import grid, session
from harness.run.grid import plan_of
from harness.store import Store
from harness.track import asking
from harness.track.client import Connection, _TimedClient, make_client
from harness.track.environment import check_uri, prepare_environment
from harness.track.sync import Tracker

QUICK = ("--no-bar", "--device", "cpu")
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


@pytest.fixture
def database(empty_database: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    """An empty database that MLFLOW_TRACKING_URI names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Path(shutil.copy(empty_database, tmp_path))


def set_unknown_version(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'ffffffffffff'")


def make_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def lock(database: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(database, check_same_thread=False)
    holder.execute("begin exclusive")
    return holder


def one_warning(text: str, address: str) -> None:
    """Raise unless `text` is one warning that names the address and the remedy."""
    (line,) = text.strip().splitlines()
    assert line.startswith("warning: MLflow ") and address in line and "`harness sync`" in line


# -- training does not need it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil", [lambda d: d.write_text("hello\n" * 100), make_folder, set_unknown_version, lock]
)
def test_whatever_is_wrong_with_it_is_one_warning(
    spoil: Callable[[Path], Any], database: Path, capsys: Output
) -> None:
    held = spoil(database)
    file = write_experiment(database.parent / "tiny.yaml", methods=["plain"])
    store = Store(database.parent / "runs")
    store.create()
    (sync,) = session.start_tracking(Tracker(plan_of(read(file)), store))
    sync.finish(lambda: session.finish_tracking(sync, False))
    one_warning(capsys.readouterr().err, f"sqlite:///{database}")
    del held


def test_training_goes_on_without_it_and_sync_sends_the_rest(
    database: Path, capsys: Output
) -> None:
    folder = database.parent
    file = write_experiment(folder / "tiny.yaml", methods=["plain"], training={"epochs": 1})
    arguments = [str(file), "--store", str(folder / "runs")]
    with closing(lock(database)):
        assert main(["run", *arguments, *QUICK]) == 0
        one_warning(capsys.readouterr().err, f"sqlite:///{database}")
        assert cells(folder)["supervised"].is_done
        line = refusal(capsys, "sync", *arguments)
        assert line.startswith("error: MLFLOW_TRACKING_URI: ")
    assert main(["sync", *arguments]) == 0
    assert capsys.readouterr().out.startswith("1 cells sent")


def test_an_unreachable_server_is_one_warning(tmp_path: Path) -> None:
    write_experiment(tmp_path / "tiny.yaml", methods=["plain"])
    uri = "http://127.0.0.1:1"
    done = call(tmp_path, "run", "tiny.yaml", *QUICK, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0 and cells(tmp_path)["supervised"].is_done
    one_warning(done.stderr, uri)
    assert wait_until(lambda: not processes_in(tmp_path))


class Server:
    """A tracker, and its own connection, whose server answers after some failures."""

    name, address, remedy = "MLflow", "there", "`harness sync`"
    asked: float | None = None

    def __init__(self, failures: int) -> None:
        self.failures, self.sent, self.is_open = failures, 0, False
        self.server = self
        self.may_answer = threading.Event()
        self.may_answer.set()

    def check(self) -> None: ...

    def connect(self) -> None:
        self.may_answer.wait()
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("nobody there")
        self.is_open = True

    def sync(self) -> int:
        self.connect()
        self.sent += 1
        return 1

    def close(self, finished: bool) -> None: ...


@pytest.mark.parametrize("failures", [3, 10**9])
def test_many_failures_are_one_warning(failures: int, monkeypatch: Patch, capsys: Output) -> None:
    for name in ("RETRY_SECONDS", "SYNC_SECONDS"):
        monkeypatch.setattr(session, name, 0.01)
    tracker = Server(failures)
    (sync,) = session.start_tracking(tracker)
    assert wait_until(lambda: tracker.failures <= failures - 5)
    sync.finish(lambda: session.finish_tracking(sync, True))
    one_warning(capsys.readouterr().err, "there")
    assert bool(tracker.sent) == (failures == 3)


def test_training_does_not_wait_for_a_server_that_says_nothing(monkeypatch: Patch) -> None:
    monkeypatch.setattr(session, "START_SECONDS", 0.1)
    tracker = Server(0)
    tracker.may_answer.clear()
    (sync,) = session.start_tracking(tracker)
    assert sync.is_alive() and not tracker.is_open
    tracker.may_answer.set()
    sync.finish(lambda: None)


def test_the_first_line_does_not_wait_for_a_server(
    database: Path, monkeypatch: Patch, capsys: Output
) -> None:
    runner = SimpleNamespace(capacity=1, warm_up=lambda n: None, close=lambda: None)
    file = write_experiment(database.parent / "tiny.yaml", methods=["plain"])
    monkeypatch.setattr(grid, "make_executor", lambda *_: runner)

    def refuse(*_: object) -> None:
        raise UserError("no server")

    monkeypatch.setattr(grid, "start_tracking", refuse)
    assert main(["run", str(file), "--store", str(database.parent / "runs"), *QUICK]) == 2
    assert "1 to train with 1 jobs" in capsys.readouterr().out


def test_our_own_work_is_not_the_servers_silence(tmp_path: Path, capsys: Output) -> None:
    tracker = Server(0)
    for asked, said in ((None, ""), (0.0, "no answer for 0 s")):
        tracker.asked = asked
        (sync,) = session.start_tracking(tracker)
        sync.finish(lambda: time.sleep(0.5), silence=0.1)
        assert said in capsys.readouterr().err and sync.is_alive() == bool(said)
    connection = Connection("x", tmp_path, "http://there")
    client: Any = _TimedClient(connection, SimpleNamespace(get=lambda: connection.asked))
    assert client.get() is not None and connection.asked is None


def test_a_server_that_trickles_is_not_waited_for(monkeypatch: Patch) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.5)
    ended = threading.Event()

    def trickle(server: socket.socket) -> None:
        with contextlib.suppress(OSError), server.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not ended.wait(0.05):
                client.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=trickle, args=(server,), daemon=True).start()
        client = make_client(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(TimeoutError, match="no complete answer"):
            client.search_experiments()
        ended.set()


def test_a_server_that_fails_in_mid_run_does_not_harm_training(
    database: Path, monkeypatch: Patch, capsys: Output
) -> None:
    monkeypatch.setattr(session, "SYNC_SECONDS", 0.05)
    monkeypatch.setattr(session.time, "sleep", lambda _: None)
    folder = database.parent
    file = write_experiment(folder / "tiny.yaml", methods=["plain"])
    arguments = [str(file), "--store", str(folder / "runs")]

    def fail(_: Tracker) -> int:
        raise ConnectionError("the server is gone\nand more lines")

    with monkeypatch.context() as broken:
        broken.setattr(Tracker, "sync", fail)
        assert main(["run", *arguments, *QUICK]) == 0
    first, *_, last = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("warning: MLflow: ConnectionError: the server is gone")
    assert last.startswith("warning: MLflow ") and "`harness sync`" in last
    assert cells(folder)["supervised"].is_done

    assert main(["sync", *arguments]) == 0
    runs = runs_in(mlflow_client(folder), "tiny")
    assert sorted(role(r) for r in runs) == ["grid", "student"]
    assert {r.info.status for r in runs} == {"FINISHED"}


# -- wrong use is one line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "localhost:5000",
        "127.0.0.1:5000",
        "databricks",
        "file:///tmp/mlruns",
        "htp://localhost:5000",
        "http://",
        "http://localhost:port",
        "postgresql://me@host:port/x",
        "nosuch+driver://h/x",
        "postgresql+nosuch://h/x",
        "sqlite://mlflow.db",
        "sqlite:////proc/none/x.db",
    ],
)
def test_a_wrong_address_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: ") as caught:
        check_uri(uri)
    assert uri in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["http://h", "https://u:p@h:5000/x", "sqlite:///x.db", "postgresql://u@h/d", "postgresql:///d"],
)
def test_a_possible_address_is_not(uri: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    check_uri(uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/none/x.db", "folder"])
def test_with_a_wrong_address_nothing_is_trained(
    tmp_path: Path, monkeypatch: Patch, capfd: Output, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    file = write_experiment(tmp_path / "tiny.yaml")
    assert main(["run", str(file), "--store", str(tmp_path / "runs"), *QUICK]) == 2
    line = one_error_line(capfd.readouterr().err)
    assert line.startswith("error: MLFLOW_TRACKING_URI: ") and uri in line
    assert cells(tmp_path) == {}


def test_a_registered_teacher_is_not_looked_for_where_nothing_is(tmp_path: Path) -> None:
    write_experiment(tmp_path / "t.yaml", teacher="models:/x@teacher", methods=["kd"])
    done = call(tmp_path, "plan", "t.yaml", "--no-estimate")
    assert done.returncode == 2
    line = one_error_line(done.stderr)
    assert line.startswith("error: teacher: ") and "models:/x@teacher" in line
    assert not list(tmp_path.glob("mlflow.db*"))


@pytest.mark.parametrize(("value", "is_installed"), [("perhaps", True), ("true", False)])
def test_system_metrics_that_cannot_be_had(
    value: str, is_installed: bool, database: Path, monkeypatch: Patch, capsys: Output
) -> None:
    monkeypatch.setenv(SWITCH, value)
    if not is_installed:
        monkeypatch.setitem(sys.modules, "psutil", None)
    file = write_experiment(database.parent / "tiny.yaml")
    line = refusal(capsys, "sync", str(file), "--store", str(database.parent / "runs"))
    assert line.startswith(f"error: {SWITCH}: ") and ("[system]" in line) != is_installed


def test_no_proxy_between_this_machine_and_itself(monkeypatch: Patch) -> None:
    from requests.utils import should_bypass_proxies

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    prepare_environment("http://127.0.0.2:5000")
    for host in ("localhost", "127.0.0.1", "127.0.0.2", "example.org"):
        assert should_bypass_proxies(f"http://{host}:5000/x", None), host
    assert not should_bypass_proxies("http://mlflow.org/x", None)
    assert os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] == "false"
