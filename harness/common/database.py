"""PostgreSQL by URL, for MLflow and for Optuna: connections, and a lock that every host sees.

URLs are SQLAlchemy's (postgresql://user@host:port/name). The password may be in the URL, in
PGPASSWORD or in libpq's password file.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

from harness.common.errors import UserError, one_line
from harness.common.redaction import without_password

# Seconds between attempts: at the start of a command, and after a server has gone away.
START_PAUSES, RESTART_PAUSES = (1, 2), (1, 2, 4, 8, 15)
LOCK_SECONDS = 60
NOT_YOURS = ("password", "does not exist", "pg_hba")  # the server answers: the URL is wrong
NO_USE_WAITING = (*NOT_YOURS, "resolve host", "Name or service")
# libpq's options, with which a call to a host that went away fails instead of hanging.
TIMEOUTS = {"connect_timeout": "5", "tcp_user_timeout": "30000"}


class Refused(UserError):
    """The URL itself is wrong, so that waiting does not help and nothing should be started."""


def is_postgres(url: str) -> bool:
    """Return whether the URL names a PostgreSQL database, with any driver."""
    return url.startswith(("postgresql://", "postgresql+"))


def same_database(a: str, b: str) -> bool:
    """Return whether two URLs lead to one database, whatever driver, user and options they name."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        first, second = make_url(a), make_url(b)
    except ArgumentError:
        return a == b
    return all(
        getattr(first, part) == getattr(second, part) for part in ("host", "port", "database")
    ) and (first.get_backend_name() == second.get_backend_name())


def with_timeouts(url: str) -> str:
    """Return the URL with those of `TIMEOUTS` that it does not set itself."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    missing = {k: v for k, v in TIMEOUTS.items() if k not in parsed.query}
    return parsed.update_query_dict(missing).render_as_string(hide_password=False)


def connect(url: str, field: str, pauses: tuple[float, ...] = START_PAUSES) -> Any:
    """Return a connection in autocommit mode, after a few attempts.

    Args:
        url: The database.
        field: Where the URL was given, for messages.
        pauses: Seconds between the attempts.

    Raises:
        Refused: The URL is wrong, or the server refuses it.
        UserError: No server answers.
    """
    try:
        import psycopg
        from sqlalchemy import make_url

        plain = make_url(with_timeouts(url)).set(drivername="postgresql")
    except ImportError:
        raise Refused(
            f"{field}: PostgreSQL needs the package psycopg; `pip install 'psycopg[binary]'`"
        ) from None
    except Exception as error:
        raise Refused(
            f"{field}: not a URL ({one_line(error)}); write postgresql://user@host:5432/name"
        ) from None
    # psycopg logs what it ignores while it raises the error that is reported anyway.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    text = plain.render_as_string(hide_password=False)
    for pause in (*pauses, None):
        try:
            return psycopg.connect(text, autocommit=True)
        except psycopg.OperationalError as error:
            if pause is None or any(reason in str(error) for reason in NO_USE_WAITING):
                kind = Refused if any(reason in str(error) for reason in NOT_YOURS) else UserError
                raise kind(
                    f"{field}: cannot use {without_password(url)} ({one_line(error)}); correct it, "
                    "start the server, or unset it"
                ) from None
            time.sleep(pause)
    raise AssertionError("unreachable")


class Lock:
    """A lock with one holder among all hosts: an advisory lock of the database.

    It ends with the connection, so that no lock is ever stale.
    """

    def __init__(self, url: str, name: str, field: str) -> None:
        """Keep what to lock (`name`, in words), and connect to nothing."""
        self.url, self.field = url, field
        self.key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self._connection: Any = None

    def acquire(self, wait: bool, pauses: tuple[float, ...] = START_PAUSES) -> bool:
        """Acquire the lock, and return whether it is held now.

        Args:
            wait: Wait for another holder; otherwise return False.
            pauses: Seconds between attempts to connect.

        Raises:
            UserError: The database does not answer.
            psycopg.errors.LockNotAvailable: Another holder does not release it.
        """
        self._connection = connect(self.url, self.field, pauses)
        if wait:
            self._connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'")
            self._connection.execute("select pg_advisory_lock(%s)", (self.key,))
            return True
        query = "select pg_try_advisory_lock(%s)"
        return bool(self._connection.execute(query, (self.key,)).fetchone()[0])

    def still_held(self) -> bool:
        """Return whether the lock is held, and acquire it again if the server was restarted.

        Another host may have been faster since.

        Raises:
            UserError: The database does not answer.
        """
        import psycopg

        try:
            self._connection.execute("select 1")
            return True
        except psycopg.OperationalError:
            return self.acquire(wait=False, pauses=RESTART_PAUSES)

    def release(self) -> None:
        """Release the lock and close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
