"""A real PostgreSQL server for tests: in a temporary folder, on loopback, gone afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

USER = "harness"  # the role that owns the databases
PASSWORD = "only-for-tests"


def binaries() -> Path | None:
    """Return the folder of initdb and pg_ctl: on the PATH, or where Debian puts them."""
    initdb = shutil.which("initdb")
    places = [Path(initdb).parent] if initdb else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in places if (p / "initdb").exists() and (p / "pg_ctl").exists()), None)


def require() -> Path:
    """Return that folder; without it, skip the test, or fail it if CI requires PostgreSQL."""
    place = binaries()
    if place is None:
        missing = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
        if "postgres" in os.environ.get("HARNESS_TESTS_REQUIRE", ""):
            pytest.fail(missing)
        pytest.skip(missing)
    return place


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A server: `with Postgres() as server: server.url("mlflow")`.

    URLs have no password: give child processes `server.env`, as the compose file's entrypoint does.
    """

    def __init__(self, databases: tuple[str, ...] = ("mlflow", "optuna")) -> None:
        self.bin, self.databases, self.port = require(), databases, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="harness-pg-"))
        # PostgreSQL refuses to run as root; Debian's package brings the user `postgres`.
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.as_user:
            shutil.chown(self.folder, "postgres")

    @property
    def env(self) -> dict[str, str]:
        return {"PGPASSWORD": PASSWORD}

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self.as_user, str(self.bin / program), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PGPASSWORD": PASSWORD},
        )
        log = self.folder / "log"
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")

    def __enter__(self) -> "Postgres":
        try:
            secret = self.folder / "password"
            secret.write_text(PASSWORD)
            secret.chmod(0o644)
            self._call(
                *("initdb", "--pgdata", "data", "--username", USER, "--auth", "scram-sha-256"),
                *("--pwfile", "password", "--encoding", "UTF8", "--no-sync"),
            )
            self.start()
            for name in self.databases:
                self.sql(f'create database "{name}"')
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        # Default durability, so that tests of restarts hold for a real server.
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._call(
            "pg_ctl", "--pgdata=data", "--log=log", "--wait", f"--options={options}", "start"
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "fast" ends the sessions of clients, "immediate" is like a crash."""
        self._call("pg_ctl", "--pgdata=data", f"--mode={mode}", "--wait", "stop")

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url(database), password=PASSWORD, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            [*self.as_user, str(self.bin / "pg_ctl"), "--pgdata=data", "-m", "immediate", "stop"],
            cwd=self.folder,
            capture_output=True,
        )
        shutil.rmtree(self.folder, ignore_errors=True)
