"""MLflow's database file: whole or not at all, never changed unasked, artifacts beside it."""

import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy.exc
from helpers import environment, mlflow_client

from harness.common.errors import UserError
from harness.track import database_file
from harness.track.client import make_client

OLD, UNKNOWN = "451aebb31d03", "ffffffffffff"  # MLflow's first version, and one that is yet to come
MAKE = """
from pathlib import Path
from harness.track.client import locked, make_client
import mlflow.store.db.utils, alembic.command
print("ready", flush=True)
with locked("sqlite:///mlflow.db", Path(".")):
    make_client("sqlite:///mlflow.db")
"""


@pytest.fixture
def whole(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path))


def prepare(path: Path) -> None:
    database_file.prepare(path, f"sqlite:///{path}")


def execute(path: Path, statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


def set_version(version: str) -> str:
    return f"update alembic_version set version_num = '{version}'"


def n_tables(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("select count(*) from sqlite_master").fetchone()[0])


# -- whole or not at all ---------------------------------------------------------------------------


def test_killed_while_it_is_made_there_is_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    """Kill it at several sizes of the file, so at several moments on a machine of any speed."""
    database, aside = tmp_path / "mlflow.db", ".mlflow.db.*.tmp"
    for size in (1, 200_000, 500_000):
        options = {"cwd": tmp_path, "env": environment(), "text": True}
        process = subprocess.Popen([sys.executable, "-c", MAKE], stdout=subprocess.PIPE, **options)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                if max(p.stat().st_size for p in tmp_path.glob(f"{aside}/mlflow.db")) >= size:
                    break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not database.exists(), f"at {size} bytes it was there"
    assert [*tmp_path.glob(aside)], "no process was stopped in the middle"
    prepare(database)
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}, "litter"
    assert mlflow_client(tmp_path).create_experiment("works")


def test_in_a_folder_of_any_name(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "My (new) 100% #1 a?b=c&d päth a%20b x:y" / "mlflow.db"
    path.parent.mkdir()
    prepare(path)
    assert n_tables(path) == n_tables(whole) and list(path.parent.iterdir()) == [path]


def test_where_it_cannot_be_made_nothing_is_left(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as a disk that is full
    try:
        with pytest.raises(sqlalchemy.exc.OperationalError):
            prepare(tmp_path / "mlflow.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_behind_a_link_is_filled(tmp_path: Path, whole: Path) -> None:
    real, link = tmp_path / "disk" / "real.db", tmp_path / "link.db"
    real.parent.mkdir()
    real.touch()
    link.symlink_to(real)
    prepare(link)
    assert link.is_symlink() and n_tables(real) == n_tables(whole)


# -- one that is there already ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "delete from alembic_version",
        set_version(OLD),
        "drop table spans",
        "drop table runs; drop table alembic_version",
    ],
)
def test_one_that_is_half_made_and_holds_nothing_is_set_aside(
    whole: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    n = n_tables(whole)
    for kept in ("mlflow.db.half-made", "mlflow.db.half-made-2"):
        execute(whole, damage)
        half_made = whole.read_bytes()
        prepare(whole)
        assert n_tables(whole) == n and whole.with_name(kept).read_bytes() == half_made
        notes = [n for n in capsys.readouterr().err.splitlines() if n.startswith("note: ")]
        assert len(notes) == 1 and notes[0].endswith(kept)


@pytest.mark.parametrize(
    ("content", "version"),
    [
        ("insert into runs (run_uuid, experiment_id) values ('a', 0)", OLD),
        ("insert into experiments (name, workspace) values ('mine', 'default')", OLD),
        ("create table mine (x); insert into mine values (1)", OLD),
        ("", UNKNOWN),
    ],
)
def test_one_of_another_version_is_left_alone(whole: Path, content: str, version: str) -> None:
    execute(whole, f"{content}; {set_version(version)}")
    before = whole.read_bytes()
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: mlflow\.db ") as caught:
        prepare(whole)
    assert ("mlflow db upgrade" in str(caught.value)) == (version == OLD)
    assert whole.read_bytes() == before and list(whole.parent.iterdir()) == [whole]


def test_one_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    execute(path, "create table mine (x)")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: mine\.db "):
        prepare(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_client_uses_one_database_for_runs_and_teachers(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "postgresql://me:secret@127.0.0.1:9/x")
    assert make_client(f"sqlite:///{whole}").search_registered_models() == []


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
    """Several projects may share a database, whose artifacts lie with the first of them."""
    place = tmp_path / "project" / "mlartifacts" / "x"
    place.mkdir(parents=True)
    mlflow_client(tmp_path).create_experiment("x", place.as_uri())
    prepare(whole)
    assert mlflow_client(tmp_path).get_experiment_by_name("x").artifact_location == place.as_uri()
