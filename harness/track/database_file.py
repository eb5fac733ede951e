"""MLflow's database where it is a file (SQLite): made whole or not at all, checked before MLflow
opens it, and its artifacts kept beside it when the project moves.

MLflow makes its 65 tables one after another, which takes seconds. Stopped meanwhile, it leaves a
file that it cannot open again. So they are made in another file of the same folder, which gets the
name when it is whole. Everything here is called under the lock of `harness.track.client`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

from harness.common.errors import UserError

BUSY_SECONDS = 3.0  # how long another process may hold the file
NEW = ".new"  # end of the name while it is being made
ASIDE = ".half-made"
ARTIFACTS = "mlartifacts"  # beside the database
# Rows that MLflow writes into a new database by itself.
ITS_OWN = {
    "alembic_version": "true",
    "workspaces": "name = 'default'",
    "experiments": "name = 'Default'",
}
# (table, column) of MLflow that hold addresses of artifacts.
ADDRESSES = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]


def sqlite_path(uri: str) -> Path | None:
    """The file of sqlite:///PATH; None for any other database, also one in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = uri.partition(":///")[2].partition("?")[0]
    return None if name in ("", ":memory:") or name.startswith("file:") else Path(name)


def prepare(path: Path, uri: str) -> None:
    """Make the database, if there is none, and look whether MLflow can use the one that is there.

    Raises:
        UserError: it is of another version of MLflow.
        OSError, sqlite3.Error: the disk is full, it is locked, read-only, or no database.
    """
    path = path.resolve()  # behind a link, the new file must lie in the folder of the old one
    _remove_litter(path)
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        _make(path)
        return
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        tables = _tables(connection)
        half_made = not tables or _is_half_made(connection, tables)
        if not half_made:
            _check_version(connection, path, uri)
            _follow_move(connection, path.parent)
    if half_made:
        _set_aside(path)
        _make(path)


def artifacts_of(path: Path, experiment: str) -> str:
    """The address of an experiment's artifacts: beside its database."""
    return (path.resolve().parent / ARTIFACTS / experiment).as_uri()


def _make(path: Path) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    new = path.with_name(f"{path.name}{NEW}")
    try:
        # Not as text: a folder's name may hold what means something in an address.
        engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(new)))
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        _remove_litter(path)


def _remove_litter(path: Path) -> None:
    """What a process that was killed while it made the database has left: it held the lock."""
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(f"{path.name}{NEW}{end}").unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    n, kept = 1, path.with_name(f"{path.name}{ASIDE}")
    while kept.exists():
        n, kept = n + 1, path.with_name(f"{path.name}{ASIDE}-{n + 1}")
    for end in ("-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(f"{kept}{end}")
    path.rename(kept)
    print(
        f"note: {path.name} was half made and held no run; it is made anew, the old file is "
        f"{kept.name}",
        file=sys.stderr,
    )


def _tables(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("select name from sqlite_master where type = 'table'")
    return {name for (name,) in found if not name.startswith("sqlite_")}


def _is_half_made(connection: sqlite3.Connection, tables: set[str]) -> bool:
    """Of MLflow, without anything that somebody has written, and not at the end of its making."""
    if not tables & {"alembic_version", "runs", "experiments"}:
        return False
    for table in tables:
        own = ITS_OWN.get(table, "false")
        query = f'select 1 from "{table}" where not ({own}) limit 1'
        if connection.execute(query).fetchone():
            return False
    found = _version(connection, tables)
    return found is None or (found != _newest() and _is_known(found)) or not _needed() <= tables


def _check_version(connection: sqlite3.Connection, path: Path, uri: str) -> None:
    """MLflow would change an older database by itself, and half of it if it were stopped."""
    tables = _tables(connection)
    found = _version(connection, tables)
    if found == _newest() or not tables & {"alembic_version", "runs"}:
        return
    older = found is None or _is_known(found)
    remedy = f"`mlflow db upgrade {uri}` on a copy of it" if older else "use that version"
    raise UserError(
        f"MLFLOW_TRACKING_URI: {path.name} is of {'an older' if older else 'another'} version of "
        f"MLflow ({found or 'none'}, not {_newest()}); {remedy}, or move it away"
    )


def _version(connection: sqlite3.Connection, tables: set[str]) -> str | None:
    if "alembic_version" not in tables:
        return None
    found = connection.execute("select version_num from alembic_version").fetchone()
    return None if found is None else str(found[0])


def _newest() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _is_known(version: str) -> bool:
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        return (
            ScriptDirectory.from_config(_get_alembic_config("")).get_revision(version) is not None
        )
    except CommandError:
        return False


def _needed() -> set[str]:
    from mlflow.store.db.utils import Base

    return set(Base.metadata.tables)


def _follow_move(connection: sqlite3.Connection, folder: Path) -> None:
    """MLflow keeps whole paths of artifacts. Where a folder of them moved with its database, or was
    copied with it, the addresses follow: else a moved project would write to its old place."""
    query = "select artifact_location from experiments where artifact_location like 'file:%'"
    moved = set()
    for (address,) in connection.execute(query).fetchall():
        old, middle, name = address.rpartition(f"/{ARTIFACTS}/")
        is_here = (folder / ARTIFACTS / _path(name)).exists()
        if middle and old != folder.as_uri() and (is_here or not _path(address).exists()):
            moved.add(f"{old}{middle}{name}")
    for address in sorted(moved):
        name = address.rpartition("/")[2]
        new = f"{folder.as_uri()}/{ARTIFACTS}/{name}"
        for table, column in ADDRESSES:
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) "
                f"where {column} = ? or substr({column}, 1, ?) = ?",
                (new, len(address) + 1, address, len(address) + 1, f"{address}/"),
            )
    connection.commit()


def _path(address: str) -> Path:
    from urllib.parse import unquote

    return Path(unquote(address.removeprefix("file://")))
