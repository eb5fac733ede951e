"""The script that saves and restores a team's server, on a real PostgreSQL."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from helpers import ROOT
from postgres import PASSWORD, Postgres

SCRIPT = ROOT / "docker" / "backup.sh"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Yield a server whose first database has a table in place of MLflow's, which take seconds."""
    with Postgres() as running:
        running.sql("create table metrics (run text, value float, is_nan boolean)", "mlflow")
        running.sql("insert into metrics values ('a', 0.1, false), ('b', 'NaN', true)", "mlflow")
        storage = optuna.storages.RDBStorage(url_of(running))
        study = optuna.create_study(study_name="digits/kd", storage=storage)
        study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 1), n_trials=3)
        storage.engine.dispose()
        yield running


def url_of(server: Postgres) -> str:
    return server.url("optuna").replace(
        "postgresql://harness@", f"postgresql+psycopg://harness:{PASSWORD}@"
    )


def backup(server: Postgres, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "harness"}
    path = f"{server.bin}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **server.env, **variables, **env}
    return subprocess.run(
        [str(SCRIPT), *arguments], capture_output=True, text=True, env=environment
    )


def state(server: Postgres) -> list[object]:
    storage = optuna.storages.RDBStorage(url_of(server))
    trials = optuna.load_study(study_name="digits/kd", storage=storage).trials
    storage.engine.dispose()
    metrics = server.sql("select run, value::text, is_nan from metrics order by run", "mlflow")
    return [metrics, [(trial.params, trial.value, trial.state) for trial in trials]]


def test_what_is_destroyed_comes_back(server: Postgres, tmp_path: Path) -> None:
    artifacts, folder = tmp_path / "mlartifacts", tmp_path / "backups" / "today"
    (artifacts / "1" / "run").mkdir(parents=True)
    (artifacts / "1" / "run" / "model.pt").write_bytes(bytes(range(256)))
    before = state(server)
    assert len(before[1]) == 3  # type: ignore[arg-type]
    done = backup(server, "save", str(folder), ARTIFACTS=str(artifacts))
    assert done.returncode == 0, done.stderr
    assert folder.stat().st_mode & 0o077 == 0, "it holds everything that the databases do"

    refused = backup(server, "restore", str(folder), ARTIFACTS=str(artifacts))
    assert refused.returncode == 2 and "empty database" in refused.stderr
    assert state(server) == before
    for database in server.databases:
        server.sql(f"drop database {database} with (force)")
        server.sql(f"create database {database}")
    refused = backup(server, "restore", str(folder), ARTIFACTS=str(artifacts))
    assert refused.returncode == 2 and "mlartifacts" in refused.stderr
    shutil.rmtree(artifacts)
    done = backup(server, "restore", str(folder), ARTIFACTS=str(artifacts))
    assert done.returncode == 0, done.stderr
    assert state(server) == before
    assert (artifacts / "1" / "run" / "model.pt").read_bytes() == bytes(range(256))


def test_wrong_input_is_one_line_and_changes_nothing(server: Postgres, tmp_path: Path) -> None:
    artifacts, folder = tmp_path / "mlartifacts", tmp_path / "today"
    artifacts.mkdir()
    env = {"ARTIFACTS": str(artifacts)}
    assert backup(server, "save", str(folder), **env).returncode == 0
    (folder / "mlflow.dump").write_bytes(b"no")
    cases = (
        ((), "save or restore"),
        (("save", str(folder)), "is there already"),
        (("restore", str(tmp_path)), "no backup"),
        (("restore", str(folder)), "damaged"),
    )
    for arguments, why in cases:
        done = backup(server, *arguments, **env)
        assert done.returncode == 2, arguments
        assert why in done.stderr.splitlines()[-1]
    new = str(tmp_path / "new")
    for variables, field in (({"ARTIFACTS": "/nowhere"}, "ARTIFACTS"), ({"PGPORT": "1"}, "PGHOST")):
        done = backup(server, "save", new, **env | variables)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {field}: ")
        assert done.stderr.count("\n") == 1
    (tmp_path / "new.part").mkdir()
    assert backup(server, "save", new, **env).returncode == 2
    (tmp_path / "new.part").rmdir()  # it is still there: it may be somebody's own
    failed = backup(server, "save", str(tmp_path / "new"), **env, DATABASES="mlflow nosuch")
    assert failed.returncode != 0 and "nosuch" in failed.stderr
    assert not list(tmp_path.glob("new*")), "no half of a backup"
    assert backup(server, "save", f"{new}/", **env).returncode == 0
    assert (tmp_path / "new" / "SHA256SUMS").is_file()
