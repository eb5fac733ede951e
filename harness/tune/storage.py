"""Storage of studies: a journal beside the cells, or a database. One orchestrator per tuning."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.common import database
from harness.common.errors import UserError, one_line
from harness.common.locks import Busy, try_lock
from harness.common.reading import read_file
from harness.common.redaction import remember_password

AWAY = (
    optuna.exceptions.StorageInternalError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
)
TUNING = "tuning"  # the folder of a store with journals and bundles of studies
Function = TypeVar("Function", bound=Callable[..., Any])


def place_of(storage: str | None, root: Path, name: str) -> str:
    """Return `storage`, else OPTUNA_STORAGE (which Optuna's own command reads), else a journal."""
    given = storage or os.environ.get("OPTUNA_STORAGE")
    return remember_password(given) if given else str(root / TUNING / f"{name}.journal")


@contextlib.contextmanager
def only_orchestrator(name: str, root: Path, place: str) -> Iterator[Callable[[], None]]:
    """Let this process alone ask and tell. The lock ends with the process, so none is ever stale.

    Yields:
        A function that raises a UserError if another process owns the tuning by now.

    Raises:
        UserError: another process holds it.
    """
    if database.is_postgres(place):
        lock = database.Lock(place, f"harness tune {name}", "--storage")

        def check() -> None:
            if not lock.still_held():
                raise UserError(
                    f"{name}: the database was restarted and another process tunes it now; wait "
                    "for it, or stop it"
                )

        try:
            if not lock.acquire(wait=False):
                raise UserError(
                    f"{name}: another process tunes it already at "
                    f"{database.without_password(place)}; wait for it, or stop it"
                )
            yield check
        finally:
            lock.release()
        return
    path = root / "tuning" / f"{name}.owner" if "://" in place else Path(f"{place}.owner")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(try_lock(path, holder=str(os.getpid())))
        except Busy as busy:
            raise UserError(
                f"{name}: process {busy.holder or '?'} tunes it already; wait for it, or stop it"
            ) from None
        yield lambda: None  # a lock on a file cannot be lost


def retried(function: Function) -> Function:
    """Repeat a function a few times while the database is away; decorate repeatable ones only.

    Raises:
        UserError: the database stays away.
    """

    @functools.wraps(function)
    def repeating(*arguments: Any, **keywords: Any) -> Any:
        for pause in (*database.RESTART_PAUSES, None):
            try:
                return function(*arguments, **keywords)
            except AWAY as error:
                if pause is None:
                    raise UserError(
                        f"--storage: the database does not answer ({one_line(error)}); start it "
                        "and rerun the command to resume"
                    ) from None
                time.sleep(pause)
        raise AssertionError("unreachable")

    return repeating  # type: ignore[return-value]


def repair_journal(path: Path) -> None:
    """Cut an incomplete last line, as a power cut leaves it, and say so on stderr.

    Optuna would append to such a line and never be able to read the file again. The lock file of a
    process that was killed while it wrote is deleted, too. Call this only as the study's owner.
    """
    with contextlib.suppress(OSError):
        path.with_name(f"{path.name}.lock").unlink()
    if not path.exists():
        return
    data = read_file(path)
    whole = data.rfind(b"\n") + 1
    last = data[data.rfind(b"\n", 0, whole - 1) + 1 : whole]
    if whole == len(data) and last:
        try:
            json.loads(last)
        except ValueError:
            whole -= len(last)
    if whole != len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        print(
            f"repaired: the last line of {path} was incomplete ({len(data) - whole} bytes cut); "
            "its step is repeated",
            file=sys.stderr,
        )


def open_storage(place: str, tracking_uri: str) -> BaseStorage:
    """Open the storage of studies.

    Args:
        place: the path of a journal, or a URL that Optuna understands (sqlite:///, postgresql://).
        tracking_uri: of MLflow, which cannot use the same database.

    Raises:
        UserError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if "://" not in place:
            path = Path(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            repair_journal(path)
            return JournalStorage(JournalFileBackend(str(path)))
        if database.same_database(place, tracking_uri):
            raise UserError(
                "--storage: MLflow's database; Optuna's tables need one of their own (same server, "
                "another database name)"
            )
        if not database.is_postgres(place):
            return optuna.storages.RDBStorage(place)
        # A restarted server has closed the pool's connections: test each one before using it.
        options = {"pool_pre_ping": True}
        return optuna.storages.RDBStorage(database.with_timeouts(place), engine_kwargs=options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--storage: cannot open {database.without_password(place)} ({one_line(error)}); "
            "correct it, or leave it out for a journal in the store"
        ) from None
