"""`harness ui`: MLflow's own server, on loopback, and the pages to open first."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.common.errors import UserError, one_line
from harness.common.redaction import without_password
from harness.common.signals import stop_requests
from harness.common.temporary import user_folder
from harness.track.client import locked, make_client
from harness.track.database_file import sqlite_path
from harness.track.environment import (
    LOOPBACK,
    as_user_error,
    check_uri,
    is_server,
    no_proxy,
    prepare_environment,
    tracking_uri,
)
from harness.track.grid_run import curves_of
from harness.track.saved_views import first_views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_OTHERS = 20  # how many other grids are listed


def serve(host: str, port: int, opens: bool = False) -> int:
    """Serve the tracking database until Ctrl-C, and return the exit status.

    If MLFLOW_TRACKING_URI is a server already, print what to open there. If `opens`, the first of
    these pages is shown in a browser.

    Raises:
        UserError: The port is taken, the host is not this machine's, there is no database yet, or
            the server of MLFLOW_TRACKING_URI cannot be used.
    """
    uri = tracking_uri()
    check_uri(uri)
    if is_server(uri):
        return print_pages(uri, opens)
    file = sqlite_path(uri)
    if file is not None and not file.exists():
        raise UserError(f"{file}: nothing logged in this folder yet; `make reproduce` first")
    check_database(uri)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port: cannot listen on {host}:{port} ({error.strerror}); choose another"
            ) from None
    address = f"http://{host}:{port}"
    print(f"MLflow: {address} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Nothing here uses MLflow's jobs, which would start eight more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # A line per request would scroll the addresses away; warnings are not for users.
        "UVICORN_LOG_LEVEL": "warning",
        "PYTHONWARNINGS": "ignore",
    }
    # In the environment: everybody on this machine can read the arguments of a command.
    stores = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    no_proxy((*LOOPBACK, host))
    environment = defaults | os.environ | stores
    for number in stop_requests():
        signal.signal(number, signal.default_int_handler)
    # The server gets its own session, so that its workers end with it, whatever ends this process.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        _print_pages_once_it_answers(server, host, port, opens)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)


def check_database(uri: str) -> None:
    """Check the database before MLflow's server does, which would print a hundred lines.

    Raises:
        UserError: The database cannot be used.
    """
    with (
        as_user_error(without_password(uri), "or move a broken file away"),
        locked(uri, user_folder()),
    ):
        make_client(uri)


def print_pages(uri: str, opens: bool) -> int:
    """Print what to open at a server that runs already, and return the exit status."""
    address = without_password(uri)
    with as_user_error(address):
        lines = what_to_open(_client(uri), address)
    print("\n".join([f"MLflow: {address} (it runs already)", *lines]))
    if opens:
        _open_first(lines)
    return 0


def _print_pages_once_it_answers(
    server: subprocess.Popen[bytes], host: str, port: int, opens: bool
) -> None:
    """Print what to open as soon as a click works; whatever goes wrong, the server goes on."""
    address = f"http://{host}:{port}"
    client = _client(address)  # takes as long as the server's start, so it comes first
    while server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
            break
        time.sleep(0.1)
    else:
        return
    try:
        lines = what_to_open(client, address)
    except Exception as error:
        lines = [f"It does not list its runs ({one_line(error)})"]
    print("\n".join(lines), flush=True)
    if opens:
        _open_first(lines)


def _open_first(lines: Sequence[str]) -> None:
    """Show the first page that the lines name in a browser."""
    pages = [word for line in lines for word in line.split() if word.startswith("http")]
    if pages and not webbrowser.open(pages[0]):
        print("--open: no browser here; open the page above by hand", file=sys.stderr)


def what_to_open(client: MlflowClient, address: str) -> list[str]:
    """Return lines that list the views of the latest grid and the names of others."""
    runs = grid_runs(client)
    if not runs:
        return ["No grid is logged there yet"]
    last, *others = runs
    views = _views(last, address)
    lines = [f"Open first, of {last.info.run_name}:", *_aligned(views)]
    if others:
        cells = [
            (run.info.run_name or run.info.run_id, _views(run, address)[0][1])
            for run in others[:MAX_OTHERS]
        ]
        more = f" ({len(others) - MAX_OTHERS} more)" if len(others) > MAX_OTHERS else ""
        lines += [f"Also there{more}:", *_aligned(cells)]
    return lines


def _views(run: Run, address: str) -> list[tuple[str, str]]:
    info = run.info
    return first_views(address, info.experiment_id, info.run_id, curves_of(run))


def _aligned(pages: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(title) for title, _ in pages)
    return [f"  {title:{width}}  {url}" for title, url in pages]


def grid_runs(client: MlflowClient) -> list[Run]:
    """Return the runs of all grids, the one worked on last first."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.kind = 'grid'") if experiments else []
    return sorted(runs, key=lambda r: max(r.info.start_time, r.info.end_time or 0), reverse=True)


def _client(uri: str) -> MlflowClient:
    prepare_environment(uri)
    from mlflow import MlflowClient

    return MlflowClient(uri)
