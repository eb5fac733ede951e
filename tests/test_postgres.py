"""A team's set-up: MLflow and Optuna on a real PostgreSQL server that is restarted meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import yaml
from helpers import (
    HANG,
    ROOT,
    TINY,
    Patch,
    call,
    environment,
    has_epochs,
    one_error_line,
    start,
    wait_until,
    write_experiment,
)
from postgres import PASSWORD, Postgres, free_port
from test_tune_resume import COMMAND, TUNING

from harness.common.database import Lock, connect, with_timeouts
from harness.common.errors import UserError
from harness.common.redaction import without_password
from harness.experiment.file import read
from harness.run.grid import plan_of
from harness.store import Store
from harness.track.client import make_client
from harness.track.sync_state import current_training

# Half the digits grid with a smaller teacher, one seed, two epochs each: 12 cells, and 4 of two
# methods.
GRID = tuple(
    word
    for value in (
        "seeds=[0]",
        "epochs_scale=0.1",
        "teacher={depth: 10, width: 2}",
        "students=[{depth: 10, width: 2}, {depth: 10, width: 1}]",
    )
    for word in ("--set", value)
)
CELLS = {"runs": 12, "runs2": 4}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture(scope="module")
def tables(server: Postgres) -> Postgres:
    """The server, with MLflow's tables, which take seconds to create."""
    make_client(server.url("mlflow").replace("@", f":{PASSWORD}@")).search_experiments()
    return server


def restart(server: Postgres, pause: float = 2.0) -> None:
    server.stop()
    time.sleep(pause)
    server.start()


def finish(process: "subprocess.Popen[str]", limit: float = HANG) -> str:
    """Wait for exit status 0, and return what the process wrote to stderr."""
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    return err


# -- MLflow ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_writers(tmp_path_factory: pytest.TempPathFactory, server: Postgres) -> Path:
    """Two stores, as on two hosts, each trained and logged by two orchestrators.

    All four start with a database without tables, which is restarted while they train.
    """
    folder = tmp_path_factory.mktemp("writers")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    # Two jobs each: with one, a cell takes both cores' threads, and four of them get in each
    # other's way.
    options = ("--no-bar", "--device", "cpu", "--jobs", "2", *GRID)
    env = server.env | {"MLFLOW_TRACKING_URI": server.url("mlflow")}
    some, file = ("--set", "methods=[plain,kd]"), "experiments/digits_all_images.yaml"
    writers = [
        start(folder, "run", file, "--store", store, *options, *more, **env)
        for store, more in (("runs", ()), ("runs", ()), ("runs2", some), ("runs2", some))
    ]
    # The first line says that the command has found its server and trains. On a loaded machine one
    # of the four may come to that long after the others have epochs.
    assert all(w.stdout and w.stdout.readline() for w in writers)
    assert wait_until(lambda: has_epochs(folder))
    restart(server)
    errors = [finish(w) for w in writers]
    (folder / "errors").write_text("".join(errors))
    return folder


def test_one_grid_and_one_run_a_training(four_writers: Path, server: Postgres) -> None:
    tags = Counter(
        server.sql(
            "select t.value, r.status from tags t join runs r using (run_uuid) "
            "where t.key = 'kind' and r.lifecycle_stage = 'active'",
            "mlflow",
        )
    )
    assert tags[("grid", "FINISHED")] == 1
    assert {status for _, status in tags} == {"FINISHED"}
    assert sum(tags.values()) == 1 + sum(CELLS.values())
    # Of one cell: any two may well begin in the same millisecond.
    doubled = server.sql(
        "select f.value, s.value from tags f join tags s using (run_uuid) "
        "where f.key = 'fingerprint' and s.key = 'started' group by 1, 2 having count(*) > 1",
        "mlflow",
    )
    assert doubled == []
    begun = server.sql("select count(*) from tags where key = 'started'", "mlflow")
    assert begun == [(sum(CELLS.values()),)], "a run that was made, and left"


def test_every_epoch_of_every_store_is_there_once(four_writers: Path, server: Postgres) -> None:
    expected: Counter[tuple[Any, ...]] = Counter()
    for store, n in CELLS.items():
        directories = Store(four_writers / store).all()
        assert len(directories) == n and all(d.is_done for d in directories)
        for directory in directories:
            events = current_training(directory)
            for event in events:
                if event["event"] == "epoch":
                    key = (str(events[0]["time"]), event["epoch"], event["loss/total"])
                    expected[key] += 1
    rows = server.sql(
        "select t.value, m.step, m.value from metrics m join tags t using (run_uuid) "
        "where t.key = 'started' and m.key = 'loss/total'",
        "mlflow",
    )
    assert Counter((s, int(str(step)), v) for s, step, v in rows) == expected
    assert sum(expected.values()) == 2 * sum(CELLS.values())


def test_a_restart_is_at_most_a_warning(four_writers: Path) -> None:
    lines = (four_writers / "errors").read_text().splitlines()
    assert all(line.startswith("warning: MLflow") for line in lines), lines


def test_a_lost_connection_is_no_line_of_the_drivers(
    server: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: Patch
) -> None:
    """psycopg logs what it ignores, in the middle of a pipeline (as MLflow's metrics are sent)."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    connection = connect(server.url("postgres"), "URL")
    with pytest.raises(psycopg.OperationalError), connection.pipeline():
        connection.execute("select 1")
        server.sql(f"select pg_terminate_backend({connection.info.backend_pid})", "postgres")
        connection.execute("select pg_sleep(0.1)").fetchall()
    assert not [r.getMessage() for r in caplog.records if r.name.startswith("psycopg")]


def test_the_page_and_the_teacher_are_there_once(four_writers: Path, server: Postgres) -> None:
    notes = server.sql("select value from tags where key = 'mlflow.note.content'", "mlflow")
    assert len(notes) == 1 and "| ReFilled (tuple) |" in str(notes[0][0])
    versions = server.sql("select name, count(*) from model_versions group by name", "mlflow")
    assert versions == [("digits-all-images-wrn-10-2", 2)], "one a training"
    aliases = server.sql("select alias from registered_model_aliases order by 1", "mlflow")
    assert aliases == [("seed-0",), ("teacher",)]


def test_no_password_in_files(tmp_path: Path, tables: Postgres) -> None:
    file = tmp_path / "tiny.yaml"
    write_experiment(file, name="secret", methods=["plain"])
    uri = tables.url("mlflow").replace("@", f":{PASSWORD}@")
    done = call(tmp_path, "run", "tiny.yaml", "--no-bar", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    again = call(tmp_path, "sync", "tiny.yaml", MLFLOW_TRACKING_URI=uri)
    assert f"harness:***@127.0.0.1:{tables.port}/mlflow" in again.stdout
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_a_database_that_stays_away(tmp_path: Path) -> None:
    """Stopped for good while a cell trains: all cells are trained, one line says what to do, and
    `harness sync` sends the rest when it is back."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"training": {"epochs": 6}}))
    with Postgres() as server:
        env = server.env | {"MLFLOW_TRACKING_URI": server.url("mlflow")}
        process = start(tmp_path, "run", "tiny.yaml", "--no-bar", "--device", "cpu", **env)
        assert wait_until(lambda: has_epochs(tmp_path))
        server.stop("immediate")
        error = finish(process)
        last = error.splitlines()[-1]
        assert last.startswith("warning: MLflow ") and "`harness sync`" in last
        assert "Traceback" not in error
        assert all(d.is_done for d in Store(tmp_path / "runs").all())

        server.start()
        again = call(tmp_path, "sync", "tiny.yaml", **env)
        assert again.returncode == 0, again.stderr
        done = server.sql("select count(*) from runs where status = 'FINISHED'", "mlflow")
        assert done == [(5,)]


def test_a_server_that_hangs_does_not_hold_the_training(tmp_path: Path, monkeypatch: Patch) -> None:
    """A server may hang so that connections stay open and nothing answers."""
    import harness.run.session as session
    from harness.track.sync import Tracker

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    tracker = Tracker(plan_of(read(file)), Store(tmp_path / "runs"), f"sqlite:///{tmp_path}/x.db")
    monkeypatch.setattr(tracker, "connect", lambda: None)
    answered = []

    released = threading.Event()

    def stuck() -> None:
        released.wait()
        answered.append(True)

    sync = session.BackgroundSync(tracker)
    sync.start()
    tracker.server.asked = 0.0
    sync.finish(stuck, silence=0.5)
    assert not answered
    released.set()
    sync.join()
    tracker.server.asked = None  # it has answered; the rest is our own work
    patient = session.BackgroundSync(tracker)
    patient.start()
    patient.finish(lambda: (time.sleep(1), answered.append(True))[1], silence=0.5)
    assert len(answered) == 2


# -- the URL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://harness@127.0.0.1:{open}/nosuch",
        "postgresql://harness:wrong@127.0.0.1:{open}/mlflow",
    ],
)
def test_an_unusable_database_is_one_line(uri: str, server: Postgres, tmp_path: Path) -> None:
    uri = uri.format(open=server.port)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = call(tmp_path, "run", "tiny.yaml", **server.env, MLFLOW_TRACKING_URI=uri)
    line = one_error_line(done.stderr)
    assert done.returncode == 2 and line.startswith("error: MLFLOW_TRACKING_URI: ")
    assert ":wrong@" not in line
    assert not has_epochs(tmp_path)


def test_a_database_that_does_not_answer_does_not_stop_training(tmp_path: Path) -> None:
    uri = f"postgresql://harness:a-secret@127.0.0.1:{free_port()}/mlflow"
    write_experiment(tmp_path / "tiny.yaml", methods=["plain"], training={"epochs": 1})
    done = call(tmp_path, "run", "tiny.yaml", "--no-bar", MLFLOW_TRACKING_URI=uri)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 0 and line.startswith("warning: MLflow ")
    assert "postgresql://harness:***@" in line and "`harness sync`" in line
    assert "a-secret" not in line
    assert has_epochs(tmp_path)


def test_without_password() -> None:
    assert without_password("sqlite:///a.db") == "sqlite:///a.db"
    assert without_password("postgresql://u@h/d") == "postgresql://u@h/d"
    assert without_password("postgresql://u:p@s@h/d") == "postgresql://u:***@h/d"


def test_timeouts_do_not_replace_the_users() -> None:
    url = with_timeouts("postgresql://u:p@h/d?connect_timeout=60")
    assert "connect_timeout=60" in url and "tcp_user_timeout=30000" in url and "u:p@h" in url


def test_a_lock_has_one_holder_and_notices_its_loss(server: Postgres, monkeypatch: Patch) -> None:
    url = server.url("optuna").replace("@", f":{PASSWORD}@")
    first, second = (Lock(url, "study", "--storage") for _ in range(2))
    assert first.acquire(wait=False) and not second.acquire(wait=False)
    assert Lock(url, "another", "--storage").acquire(wait=False)
    restart(server, 0)
    assert first.still_held(), "taken again"
    assert not second.acquire(wait=False)
    server.stop()
    server.start()
    assert second.acquire(wait=False) and not first.still_held()
    monkeypatch.setattr("harness.common.database.LOCK_SECONDS", 1)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        first.acquire(wait=True)
    for lock in (first, second):
        lock.release()
    connect(url, "--storage").close()


# -- Optuna ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studies(
    tmp_path_factory: pytest.TempPathFactory, tables: Postgres, empty_database: Path
) -> tuple[Path, Path]:
    """One tuning in PostgreSQL, which is restarted meanwhile, and again in a journal."""
    folders = []
    for kind in ("postgres", "journal"):
        folder = tmp_path_factory.mktemp(kind)
        (folder / "experiments/tuning").mkdir(parents=True)
        (folder / "experiments/tiny.yaml").write_text(yaml.safe_dump(TINY))
        tuning = TUNING | {"trials": 8, "batch": 4}
        (folder / "experiments/tuning/tiny.yaml").write_text(yaml.safe_dump(tuning))
        folders.append(folder)
    there, here = folders
    shutil.copy(empty_database, here)
    env = tables.env | {
        "MLFLOW_TRACKING_URI": tables.url("mlflow"),
        "OPTUNA_STORAGE": tables.url("optuna"),
    }
    process = start(there, *COMMAND, "--jobs", "4", **env)
    assert wait_until(lambda: has_epochs(there, 2)), process.communicate()
    refused = call(there, *COMMAND, "--store", "elsewhere", **env)
    assert refused.returncode == 2, "another host, so to speak"
    assert one_error_line(refused.stderr)
    restart(tables)
    finish(process)
    done = call(here, *COMMAND, "--jobs", "4")
    assert done.returncode == 0, done.stderr
    return there, here


def test_the_same_trials_as_in_a_journal(studies: tuple[Path, Path], server: Postgres) -> None:
    there, here = studies
    url = server.url("optuna").replace("@", f":{PASSWORD}@")
    journal = str(here / "runs/tuning/tiny.journal")
    backend = optuna.storages.journal.JournalFileBackend(journal)
    for method in ("plain", "refilled"):
        found, expected = (
            optuna.load_study(study_name=f"tiny/{method}", storage=storage).trials
            for storage in (url, optuna.storages.JournalStorage(backend))
        )
        assert [t.number for t in found] == list(range(8))
        for a, b in zip(found, expected, strict=True):
            assert (a.params, a.value, a.state) == (b.params, b.value, b.state)
            assert a.intermediate_values == b.intermediate_values
            assert a.state.is_finished()
    assert not (there / "runs/tuning/tiny.journal").exists()


# `harness`, with a second of patience where it has half a minute.
IMPATIENT = """
import sys
import harness.common.database
harness.common.database.RESTART_PAUSES = (0.5, 0.5)
from harness.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_storage_that_stays_away(tmp_path: Path, empty_database: Path) -> None:
    """The command stops with one line; rerun, it resumes."""
    shutil.copy(empty_database, tmp_path)
    (tmp_path / "experiments/tuning").mkdir(parents=True)
    (tmp_path / "experiments/tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "experiments/tuning/tiny.yaml").write_text(yaml.safe_dump(TUNING))
    with Postgres() as server:
        env = server.env | {"OPTUNA_STORAGE": server.url("optuna")}
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *COMMAND],
            cwd=tmp_path,
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert wait_until(lambda: has_epochs(tmp_path)), process.kill()
        server.stop("immediate")
        _, error = process.communicate(timeout=HANG)
        assert process.returncode == 2, error
        line = one_error_line(error)
        assert line.startswith("error: --storage: ")
        server.start()
        again = call(tmp_path, *COMMAND, **env)
        assert again.returncode == 0, again.stderr
        states = server.sql("select state, count(*) from trials group by 1 order by 1", "optuna")
        assert dict(states).keys() <= {"COMPLETE", "PRUNED"}
        assert sum(int(str(n)) for _, n in states) == 2 * TUNING["trials"]


def test_mlflow_and_optuna_need_two_databases(tmp_path: Path, server: Postgres) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(TUNING | {"experiment": "tiny.yaml"}))
    url = server.url("mlflow")
    # The same database, written in another way.
    other = url.replace("postgresql://", "postgresql+psycopg://") + "?application_name=x"
    done = call(
        tmp_path, "tune", "t.yaml", "--storage", other, **server.env, MLFLOW_TRACKING_URI=url
    )
    assert done.returncode == 2
    assert one_error_line(done.stderr).startswith("error: --storage: ")


def test_a_hanging_server_is_refused_at_the_start(tmp_path: Path) -> None:
    with Postgres() as server:
        pid = int((server.folder / "data/postmaster.pid").read_text().split()[0])

        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(UserError, match=r"^X: "):
                connect(server.url("mlflow") + "?connect_timeout=2", "X", pauses=())
        finally:
            os.kill(pid, signal.SIGCONT)
