"""MLflow's database: whole or not at all, not needed for training, complete after any loss."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    call,
    cells,
    content_of,
    environment,
    mlflow_client,
    one_error_line,
    role,
    runs_in,
    wait_until,
    write_experiment,
)

import harness.run.session
from harness.cli import main
from harness.common.errors import UserError
from harness.experiment.file import read
from harness.run.grid import plan_of
from harness.store import Store
from harness.track import client, database_file
from harness.track.environment import check_uri
from harness.track.sync import Tracker

FILE = "experiments/tiny.yaml"
MAKE = """
import sys, time
from pathlib import Path
from harness.track.client import locked, make_client
uri = "sqlite:///mlflow.db"
import mlflow.store.db.utils, alembic.command
print("ready", flush=True)
with locked(uri, Path(".")):
    make_client(uri)
"""


@pytest.fixture
def whole(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path))


def prepare(path: Path) -> None:
    database_file.prepare(path, f"sqlite:///{path}")


def spoil(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(statement)
    connection.close()


# -- whole or not at all ---------------------------------------------------------------------------


def start_making(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_killed_while_it_is_made_there_is_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    """Killed at several sizes of the file, so at several moments, on a machine of any speed."""
    new = tmp_path / "mlflow.db.new"
    for size in (1, 200_000, 500_000):
        process = start_making(tmp_path)
        while process.poll() is None and not (new.exists() and new.stat().st_size >= size):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "mlflow.db").exists(), f"at {size} bytes it was there"
    assert new.exists(), "no process was stopped in the middle"
    prepare(tmp_path / "mlflow.db")
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}, "litter"
    assert mlflow_client(tmp_path).create_experiment("works")


@pytest.mark.parametrize(
    "name", ["My Projects (new)", "100% #1", "a?b=c&d", "päth", "a%20b", "x:y"]
)
def test_a_folder_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.store.db.utils as utils
    import sqlalchemy

    def make_one(engine: sqlalchemy.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("create table made (x integer)"))

    monkeypatch.setattr(utils, "_initialize_tables", make_one)
    (tmp_path / name).mkdir()
    prepare(tmp_path / name / "mlflow.db")
    with contextlib.closing(sqlite3.connect(tmp_path / name / "mlflow.db")) as connection:
        assert connection.execute("select name from sqlite_master").fetchall() == [("made",)]
    assert {p.name for p in (tmp_path / name).iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


def test_a_making_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.store.db.utils as utils

    def full(engine: Any) -> None:
        Path(engine.url.database).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils, "_initialize_tables", full)
    with pytest.raises(OSError, match="No space"):
        prepare(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        "delete from alembic_version",
        "update alembic_version set version_num = '451aebb31d03'",
        "drop table spans",
        "drop table runs; drop table alembic_version",
    ],
)
def test_a_half_made_one_without_runs_is_replaced_and_kept(
    whole: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(whole, damage)
    half = whole.read_bytes()
    monkeypatch.setattr(database_file, "_make", lambda path: path.write_text("new"))
    prepare(whole)
    assert whole.read_text() == "new"
    assert (whole.parent / "mlflow.db.half-made").read_bytes() == half
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "half made" in line and "mlflow.db.half-made" in line


@pytest.mark.parametrize(
    "content",
    [
        "insert into runs (run_uuid, experiment_id) values ('a', 0)",
        "insert into experiments (name, workspace) values ('mine', 'default')",
        "create table mine (x); insert into mine values (1)",
    ],
)
def test_one_that_holds_something_is_not_replaced(whole: Path, content: str) -> None:
    spoil(whole, f"{content}; update alembic_version set version_num = '451aebb31d03'")
    before = whole.read_bytes()
    with pytest.raises(UserError, match=r"older version of MLflow.*mlflow db upgrade"):
        prepare(whole)
    assert whole.read_bytes() == before and not list(whole.parent.glob("*half*"))


def test_one_of_a_version_to_come_is_left_alone(whole: Path) -> None:
    spoil(whole, "update alembic_version set version_num = 'ffffffffffff'")
    before = whole.read_bytes()
    with pytest.raises(UserError, match="another version of MLflow"):
        prepare(whole)
    assert whole.read_bytes() == before


def test_a_link_to_another_disk_stays_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "disk" / "real.db")
    monkeypatch.setattr(database_file, "_make", lambda path: path.write_text("new"))
    prepare(tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").is_symlink()
    assert (tmp_path / "disk" / "real.db").read_text() == "new"


# -- training does not need it ---------------------------------------------------------------------


def make_unusable(folder: Path, how: str) -> Any:
    """What must be kept until the run is over."""
    database = folder / "mlflow.db"
    if how == "text":
        database.write_text("hello\n" * 100)
    elif how == "folder":
        database.unlink()
        database.mkdir()
    elif how == "version":
        spoil(database, "update alembic_version set version_num = 'ffffffffffff'")
    elif how == "locked":
        holder = sqlite3.connect(database, check_same_thread=False)
        holder.execute("begin exclusive")
        return holder
    return None


@pytest.mark.parametrize("how", ["text", "folder", "version", "locked"])
def test_whatever_is_wrong_with_it_is_one_warning(
    how: str,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(database_file, "BUSY_SECONDS", 0.2)
    held = make_unusable(whole.parent, how)
    file = write_experiment(whole.parent / "tiny.yaml", methods=["plain"])
    store = Store(whole.parent / "runs")
    store.create()
    tracker = Tracker(plan_of(read(file)), store, f"sqlite:///{whole}")
    (sync,) = harness.run.session.start_tracking(tracker)
    sync.finish(lambda: harness.run.session.finish_tracking(sync, False))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"warning: MLflow at sqlite:///{whole} cannot be used (")
    assert "goes on without it" in line and "`harness sync`" in line
    if held is not None:
        held.close()


def test_training_goes_on_without_it_and_sync_sends_the_rest(
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, how = whole.parent, "locked"
    uri = f"sqlite:///{whole}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(database_file, "BUSY_SECONDS", 0.2)
    held = make_unusable(folder, how)
    file = write_experiment(folder / "tiny.yaml", methods=["plain"], training={"epochs": 1})
    arguments = [str(file), "--store", str(folder / "runs")]
    assert main(["run", *arguments, "--no-bar", "--device", "cpu"]) == 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("warning: MLflow at sqlite:///") and uri in line
    assert "goes on without it" in line and "`harness sync`" in line
    assert cells(folder)["supervised"].is_done
    assert main(["sync", *arguments]) == 2
    assert "MLFLOW_TRACKING_URI" in one_error_line(capsys.readouterr().err)

    held.close()
    assert main(["sync", *arguments]) == 0
    assert capsys.readouterr().out.startswith("1 cells sent")


class Absent:
    """A tracker, and its own connection, whose server comes back after some tries."""

    name, address, remedy, last_answer = "MLflow", "there", "`harness sync`", 0.0

    def __init__(self, failures: int) -> None:
        self.failures, self.sent, self.is_open = failures, 0, False
        self.server = self

    def check(self) -> None:
        pass

    def connect(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("nobody there")
        self.is_open = True

    def sync(self) -> int:
        self.connect()
        self.sent += 1
        return 1

    def close(self, finished: bool) -> None:
        pass


@pytest.mark.parametrize("failures", [3, 10_000])
def test_many_failures_are_one_warning(
    failures: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness.run.session, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(harness.run.session, "SYNC_SECONDS", 0.01)
    tracker = Absent(failures)
    (sync,) = harness.run.session.start_tracking(tracker)
    assert wait_until(lambda: tracker.sent or tracker.failures < failures - 5)
    sync.finish(lambda: harness.run.session.finish_tracking(sync, True))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "MLflow at there cannot be used (ConnectionError: nobody there)" in line
    assert bool(tracker.sent) == (failures == 3)


def test_training_does_not_wait_for_a_server_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harness.run.session, "START_SECONDS", 0.1)
    tracker, over = Absent(0), threading.Event()
    monkeypatch.setattr(tracker, "connect", over.wait)
    (sync,) = harness.run.session.start_tracking(tracker)
    assert sync.is_alive()
    over.set()
    sync.finish(lambda: None)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("localhost:5000", "http://"),
        ("127.0.0.1:5000", "http://"),
        ("databricks", "scheme"),
        ("file:///tmp/mlruns", "unknown scheme"),
        ("htp://localhost:5000", "unknown scheme"),
        ("http://", "no host"),
        ("http://localhost:port", "port"),
        ("postgresql://me@host:port/x", "port"),
        ("nosuch+driver://h/x", "unknown scheme"),
        ("postgresql+nosuch://h/x", "nosuch"),
        ("sqlite://mlflow.db", "three slashes"),
        ("sqlite:////proc/none/x.db", "folder"),
    ],
)
def test_a_wrong_address_is_refused(uri: str, why: str) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: cannot use") as caught:
        check_uri(uri)
    assert why in str(caught.value) and uri in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["http://h", "https://u:p@h:5000/x", "sqlite:///x.db", "postgresql://u@h/d", "postgresql:///d"],
)
def test_a_possible_address_is_not(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_uri(uri)
    assert list(tmp_path.iterdir()) == []


# -- what MLflow has lost --------------------------------------------------------------------------


@pytest.fixture
def sent(finished_copy: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished grid, sent to a database that this process opens."""
    shutil.copy(empty_database, finished_copy / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished_copy / 'other.db'}")
    monkeypatch.chdir(finished_copy)
    assert main(["sync", FILE]) == 0
    return finished_copy


def victim_of(folder: Path, kind: str = "kd") -> Any:
    return next(r for r in runs_in(mlflow_client(folder, "other.db"), "tiny") if role(r) == kind)


@pytest.mark.parametrize("loss", ["one", "all", "grid", "rows", "state"])
def test_what_is_lost_is_sent_again(loss: str, sent: Path, finished: Path) -> None:
    there = mlflow_client(sent, "other.db")
    run_id = victim_of(sent).info.run_id
    if loss == "one":
        there.delete_run(run_id)
    elif loss == "all":
        for run in runs_in(there, "tiny"):
            there.delete_run(run.info.run_id)
    elif loss == "grid":
        there.delete_run(victim_of(sent, "grid").info.run_id)
    elif loss == "state":
        there.set_terminated(run_id, "KILLED")
    else:
        last = "step = (select max(step) from metrics)"
        spoil(
            sent / "other.db",
            f"delete from metrics where run_uuid = '{run_id}' and {last};"
            f"update latest_metrics set step = 1 where run_uuid = '{run_id}'",
        )
    assert main(["sync", FILE]) == 0
    assert content_of(there, "tiny") == content_of(mlflow_client(finished), "tiny")


def test_a_renamed_experiment_is_said(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = mlflow_client(sent, "other.db")
    there.rename_experiment(there.get_experiment_by_name("tiny").experiment_id, "paper")
    assert main(["sync", FILE]) == 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "'tiny' is called 'paper' now" in line
    assert len(runs_in(there, "paper")) == len(runs_in(there, "tiny")) == 5


# -- a project that moved --------------------------------------------------------------------------


@pytest.mark.parametrize("original", ["gone", "kept"])
def test_artifacts_follow_a_moved_or_copied_project(
    original: str, whole: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old place", tmp_path / "new"
    old.mkdir()
    whole.rename(old / "mlflow.db")
    here = mlflow_client(old)
    experiment = here.create_experiment("x", database_file.artifacts_of(old / "mlflow.db", "x"))
    run = here.create_run(experiment)
    here.log_text(run.info.run_id, "a", "a.txt")
    before = sorted(old.rglob("*"))
    shutil.copytree(old, new)
    if original == "gone":
        shutil.rmtree(old)

    prepare(new / "mlflow.db")
    there = mlflow_client(new)
    later = there.create_run(experiment)
    there.log_text(later.info.run_id, "b", "b.txt")
    assert [a.path for a in there.list_artifacts(run.info.run_id)] == ["a.txt"]
    assert Path(there.get_run(run.info.run_id).info.artifact_uri.removeprefix("file://")).exists()
    assert len(list((new / "mlartifacts").rglob("*.txt"))) == 2
    assert (sorted(old.rglob("*")) if old.exists() else []) == (
        before if original == "kept" else []
    )


def test_artifacts_that_stayed_elsewhere_are_left_there(whole: Path, tmp_path: Path) -> None:
    """A database of several projects: the artifacts lie where the first one is."""
    place = tmp_path / "project" / "mlartifacts" / "x"
    place.mkdir(parents=True)
    mlflow_client(tmp_path).create_experiment("x", place.as_uri())
    prepare(whole)
    assert mlflow_client(tmp_path).get_experiment_by_name("x").artifact_location == place.as_uri()


def test_no_proxy_between_this_machine_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from requests.utils import should_bypass_proxies

    from harness.track.environment import prepare_environment

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    prepare_environment("http://127.0.0.2:5000")
    for host in ("localhost", "127.0.0.1", "127.0.0.2", "example.org"):
        assert should_bypass_proxies(f"http://{host}:5000/x", None), host
    assert not should_bypass_proxies("http://mlflow.org/x", None)
    assert os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] == "false"


def test_a_registered_teacher_is_not_looked_for_where_nothing_is(tmp_path: Path) -> None:
    write_experiment(tmp_path / "t.yaml", teacher="models:/x@teacher", methods=["kd"])
    done = call(tmp_path, "plan", "t.yaml", "--no-estimate")
    assert done.returncode == 2 and "no models:/x@teacher" in one_error_line(done.stderr)
    assert not list(tmp_path.glob("mlflow.db*"))


def test_the_client_uses_one_place_for_runs_and_teachers(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "postgresql://me:secret@127.0.0.1:9/x")
    made = client.make_client(f"sqlite:///{whole}")
    assert made.search_registered_models() == []
