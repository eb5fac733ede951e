"""MLflow's database where it is a file (SQLite): created whole or not at all.

MLflow creates its tables one after another, which takes seconds. Killed meanwhile, it leaves a file
that it cannot open again. So they are created in a file aside, which is renamed when it is whole. A
file that exists is checked first: MLflow would migrate an older one without being asked. Everything
here is called under the lock of `harness.track.client`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from urllib.parse import unquote

from harness.common.errors import UserError
from harness.common.temporary import remove_temporary, temporary_path
from harness.track.mlflow_private import create_tables, migrations, required_tables

BUSY_SECONDS = 3.0  # how long another process may hold the file
ARTIFACTS = "mlartifacts"  # beside the database
OWN_TABLES = {"alembic_version", "experiments", "runs"}  # tell a database of MLflow from others
# Table -> which of its rows MLflow writes by itself; of other tables, none.
OWN_ROWS = {
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
    """Return the file of sqlite:///PATH; None for any other database, also one in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = uri.partition(":///")[2].partition("?")[0]
    return None if name in ("", ":memory:") or name.startswith("file:") else Path(name)


def artifacts_of(path: Path, experiment: str) -> str:
    """Return the address of an experiment's artifacts: beside its database."""
    return (path.resolve().parent / ARTIFACTS / experiment).as_uri()


def prepare(path: Path, uri: str) -> None:
    """Create the database if there is none; check the one that is there.

    One that is half made and holds nothing is renamed and created anew. Where a project was moved
    or copied, the addresses of its artifacts follow.

    Raises:
        UserError: It is not MLflow's, or of another version of MLflow.
        OSError, sqlite3.Error: The disk is full; it is locked, read-only, or no database.
    """
    path = path.resolve()  # behind a link, the file aside must lie in the folder of the real one
    if path.exists() and not (path.is_file() and path.stat().st_size == 0):
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            is_whole = _is_whole(connection, path.name, uri)
            if is_whole:
                _follow_move(connection, path.parent)
        if is_whole:
            return
        _set_aside(path)
    _create(path)


def _create(path: Path) -> None:
    aside = temporary_path(path)
    aside.mkdir()
    try:
        create_tables(aside / path.name)
        with open(aside / path.name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside / path.name, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    remove_temporary(path)


def _set_aside(path: Path) -> None:
    ends = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    names = (path.with_name(f"{path.name}.half-made{end}") for end in ends)
    kept = next(name for name in names if not name.exists())
    path.rename(kept)
    print(
        f"note: {path.name} was half made and held no run; it is created anew, and the old file is "
        f"now {kept.name}",
        file=sys.stderr,
    )


def _is_whole(connection: sqlite3.Connection, name: str, uri: str) -> bool:
    """Return whether MLflow can use the database, or False if it is half made and holds nothing.

    Raises:
        UserError: It is not MLflow's, or of another version of MLflow.
    """
    query = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
    tables = {table for (table,) in connection.execute(query)}
    if not tables:
        return False
    if not tables & OWN_TABLES:
        raise UserError(f"MLFLOW_TRACKING_URI: {name} is not MLflow's; choose another file")
    version, newest = _version(connection, tables), migrations().get_current_head()
    is_older = version is None or (version != newest and _is_known(version))
    is_half_made = is_older or (version == newest and not required_tables() <= tables)
    if is_half_made and not _holds_anything(connection, tables):
        return False
    if version == newest:
        return True
    remedy = f"`mlflow db upgrade {uri}` on a copy of it" if is_older else "use that version"
    raise UserError(
        f"MLFLOW_TRACKING_URI: {name} is of {'an older' if is_older else 'another'} version of "
        f"MLflow ({version or 'none'}, not {newest}); {remedy}, or move it away"
    )


def _version(connection: sqlite3.Connection, tables: set[str]) -> str | None:
    if "alembic_version" not in tables:
        return None
    row = connection.execute("select version_num from alembic_version").fetchone()
    return row and str(row[0])


def _is_known(version: str) -> bool:
    from alembic.util import CommandError

    try:
        return migrations().get_revision(version) is not None
    except CommandError:
        return False


def _holds_anything(connection: sqlite3.Connection, tables: set[str]) -> bool:
    """Return whether a table holds a row that MLflow did not write by itself."""
    queries = (
        f'select 1 from "{table}" where not ({OWN_ROWS.get(table, "false")}) limit 1'
        for table in tables
    )
    return any(connection.execute(query).fetchone() for query in queries)


def _follow_move(connection: sqlite3.Connection, folder: Path) -> None:
    """Let the addresses of artifacts follow a folder that was moved or copied with its database.

    MLflow keeps whole paths, so that a moved project would write to its old place.
    """
    query = "select artifact_location from experiments where artifact_location like 'file:%'"
    with connection:
        for (old,) in connection.execute(query).fetchall():
            before, _, name = old.rpartition(f"/{ARTIFACTS}/")
            new = f"{folder.as_uri()}/{ARTIFACTS}/{name}"
            if not before or old == new or (_path(old).exists() and not _path(new).exists()):
                continue
            for table, column in ADDRESSES:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "
                    f"where {column} = ? or substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


def _path(address: str) -> Path:
    return Path(unquote(address.removeprefix("file://")))
