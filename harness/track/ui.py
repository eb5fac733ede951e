"""`harness ui`: MLflow's own server, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from harness.errors import UserError
from harness.track.mlflow_sync import DEFAULT_URI, tracking_uri


def serve(host: str, port: int) -> int:
    """Serve the tracking database until Ctrl-C.

    Raises:
        UserError: the port is taken, the host is not this machine's, the tracking URI is a server
            of its own, or there is no database yet.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI: {uri} is a server already; open it in a browser")
    if uri == DEFAULT_URI and not Path("mlflow.db").exists():
        raise UserError("mlflow.db: nothing logged in this folder yet; `make reproduce` first")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port: cannot listen on {host}:{port} ({error.strerror}); choose another"
            ) from None
    print(f"MLflow: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # Nothing here uses MLflow's jobs, which would start eight more processes.
    defaults = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = defaults | os.environ
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # A session of its own, so that the server's workers end with it, whatever ends this process.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
