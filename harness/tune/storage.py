"""Where studies are kept: a journal beside the cells, or a database. One orchestrator a tuning."""

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
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.common import database
from harness.common.errors import UserError, one_line
from harness.common.locks import Busy, try_lock
from harness.common.redaction import remember

AWAY = (
    optuna.exceptions.StorageInternalError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
)
Function = TypeVar("Function", bound=Callable[..., Any])


def place_of(storage: str | None, root: Path, name: str) -> str:
    """--storage, else OPTUNA_STORAGE (as Optuna's own command reads it), else a journal."""
    given = storage or os.environ.get("OPTUNA_STORAGE")
    return remember(given) if given else str(root / "tuning" / f"{name}.journal")


class Owner:
    """Proof that this process alone asks and tells. Files need no second look."""

    def check(self) -> None:
        """
        Raises:
            UserError: somebody else owns the study by now.
        """


class DatabaseOwner(Owner):
    """By an advisory lock, so for all hosts on the database."""

    def __init__(self, lock: database.Lock, name: str) -> None:
        self.lock, self.name = lock, name

    def check(self) -> None:
        if not self.lock.still_held():
            raise UserError(
                f"{self.name}: the database was restarted and another process tunes it now; wait "
                "for it, or stop it"
            )


@contextlib.contextmanager
def only_orchestrator(name: str, root: Path, place: str) -> Iterator[Owner]:
    """Hold a tuning. The lock ends with the process, so there is no stale one.

    Raises:
        UserError: another process holds it.
    """
    if database.is_postgres(place):
        lock = database.Lock(place, f"harness tune {name}", "--storage")
        try:
            if not lock.acquire(wait=False):
                raise UserError(
                    f"{name}: another process tunes it already at "
                    f"{database.without_password(place)}; wait for it, or stop it"
                )
            yield DatabaseOwner(lock, name)
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
        yield Owner()


def retried(function: Function) -> Function:
    """Call again while the database is away, a few times. For functions that may be repeated.

    Raises:
        UserError: it stays away. The cells keep what they have trained.
    """

    @functools.wraps(function)
    def repeating(*arguments: Any, **keywords: Any) -> Any:
        for pause in (*database.RESTART_PAUSES, None):
            try:
                return function(*arguments, **keywords)
            except AWAY as error:
                if pause is None:
                    raise UserError(
                        f"--storage: the database does not answer ({one_line(error)}); nothing is "
                        "lost: start it, and the same command goes on"
                    ) from None
                time.sleep(pause)
        raise AssertionError("unreachable")

    return repeating  # type: ignore[return-value]


def repair_journal(path: Path) -> None:
    """Cut a last line that is not whole, as a power cut leaves it: Optuna would append to it and
    never read the file again. Says so on stderr. Also the lock file of a process that was killed
    while it wrote. Only while holding the study."""
    with contextlib.suppress(OSError):
        path.with_name(f"{path.name}.lock").unlink()
    if not path.exists():
        return
    data = path.read_bytes()
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
            f"repaired: the last line of {path} was not whole ({len(data) - whole} bytes cut); "
            "what it said is done again",
            file=sys.stderr,
        )


def open_storage(place: str, tracking_uri: str) -> Any:
    """
    Args:
        place: the path of a journal, or a URL that Optuna understands (sqlite:///, postgresql://).
        tracking_uri: MLflow's, which cannot be the same database.

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
        # A restarted server has closed the connections of the pool: each is tried before its use.
        options = {"pool_pre_ping": True}
        return optuna.storages.RDBStorage(database.with_timeouts(place), engine_kwargs=options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--storage: cannot open {database.without_password(place)} ({one_line(error)}); "
            "correct it, or leave it out for a journal in the store"
        ) from None
