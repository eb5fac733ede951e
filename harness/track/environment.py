"""Which tracking server is meant, and how MLflow's client behaves."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit

from harness.common.errors import UserError, one_line
from harness.common.redaction import without_password
from harness.track.database_file import sqlite_path

DEFAULT_URI = "sqlite:///mlflow.db"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
START = "start the server, or unset it for a local database"
EXPECTED = "write http://HOST:PORT, postgresql://USER@HOST/NAME or sqlite:///FILE"


def require_package(package: str, field: str, extra: str = "", otherwise: str = "") -> None:
    """Raise unless an optional package is installed; do not import it.

    Args:
        package: The package that is imported.
        field: What the message begins with.
        extra: The extra of this project that installs it; by default called like the package.
        otherwise: What else the user may do.

    Raises:
        UserError: The package is not installed.
    """
    if find_spec(package) is None:
        remedy = f"`pip install 'refilled-harness[{extra or package}]'`{otherwise}"
        raise UserError(f"{field}: {package} is not installed; {remedy}")


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI: a server's address or a database's URL, by default a file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def is_server(uri: str) -> bool:
    """Return whether it is a server, not a database that this process opens itself."""
    return uri.startswith(("http://", "https://"))


@contextlib.contextmanager
def as_user_error(address: str, remedy: str = START) -> Iterator[None]:
    """Turn whatever MLflow raises within the block into one line.

    Raises:
        UserError: The server does not answer, or cannot be used.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLFLOW_TRACKING_URI: cannot use {address} ({one_line(error)}); correct it, {remedy}"
        ) from None


def check_uri(uri: str) -> None:
    """Check the address alone, without asking any server; create the folder of a database file.

    Raises:
        UserError: No tracking server can be there.
    """
    scheme, separator, rest = uri.partition("://")
    where = f"MLFLOW_TRACKING_URI: cannot use {without_password(uri)!r}"
    if is_server(uri):
        try:
            host, _ = urlsplit(uri).hostname, urlsplit(uri).port
        except ValueError as error:
            raise UserError(f"{where} ({one_line(error)}); {EXPECTED}") from None
        if not host:
            raise UserError(f"{where} (no host); {EXPECTED}")
    elif not separator:
        raise UserError(f"{where} (no http:// or another scheme); {EXPECTED}")
    elif scheme.partition("+")[0] in DATABASES:
        _check_database(uri, rest, where)
    elif scheme not in _plugins():
        raise UserError(f"{where} (unknown scheme {scheme!r}); {EXPECTED}")


def _check_database(uri: str, rest: str, where: str) -> None:
    from sqlalchemy import make_url

    try:
        make_url(uri).get_dialect()
    except Exception as error:
        raise UserError(f"{where} ({one_line(error)}); {EXPECTED}") from None
    if uri.startswith("sqlite") and not rest.startswith("/"):
        raise UserError(f"{where} (three slashes are needed); {EXPECTED}")
    file = sqlite_path(uri)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{where} (no such folder, and {one_line(error)}); {EXPECTED}") from None


def _plugins() -> set[str]:
    """Return the schemes that installed packages add to MLflow."""
    return {entry.name for entry in importlib.metadata.entry_points(group="mlflow.tracking_store")}


def prepare_environment(uri: str = DEFAULT_URI) -> None:
    """Set MLflow's environment variables and loggers; call it before MLflow is imported.

    There is no telemetry, there are few retries (a dead server must not stop training for minutes),
    and nothing is printed between the lines of the display. What the user set stays, except what
    would change what is sent. A server on this machine is reached without a proxy.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # An error in another thread would be lost, and the cell would be recorded as sent.
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
    host = urlsplit(uri).hostname if is_server(uri) else None
    no_proxy((*LOOPBACK, host) if host and host.startswith("127.") else LOOPBACK)
    for name in ("alembic", "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # These print a traceback, or the address with its password, although the error is raised, too.
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def no_proxy(hosts: tuple[str, ...]) -> None:
    """Add hosts that are reached without a proxy.

    Libraries read either spelling of the variable, the small one first.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if "*" not in names:
        names += [host for host in hosts if host not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)
