"""Run `harness ARGUMENTS` in a process of its own without importing torch and MLflow each time.

One process has imported them, and forks for every command.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HANG = 300.0  # seconds: what takes longer hangs, on a machine however loaded

# Reads one job per line; prints the process id of its child, then the exit status of the child.
FORKING = """
import atexit, gc, json, os, sys, threading
import mlflow.pytorch, optuna, sklearn.datasets, torch._dynamo
import mlflow.store.db.utils, mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store, sqlalchemy.orm
import harness.analysis.generated_files, harness.analysis.mlflow_summary
import harness.__main__, harness.cli, harness.run.grid, harness.tune.search
import harness.track.mlflow_model, harness.track.sync
sqlalchemy.orm.configure_mappers()
gc.freeze()  # a collection in a child would copy all memory
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["env"])
        for number, path in enumerate(("/dev/null", job["out"], job["err"])):
            os.dup2(os.open(path, os.O_RDWR), number)
        sys.argv = ["harness", *job["arguments"]]
        harness.__main__._exit_now = lambda statuses: None  # too early
        status = harness.__main__.command()
        # What Python does at its end, then what `_exit_now` does.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forking:
    """The process that forks."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.process.kill)
        assert self._line(HANG) == "ready"

    def run(
        self, folder: Path, arguments: tuple[str, ...], env: dict[str, str], limit: float
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, in a session of its own.

        Raises:
            subprocess.TimeoutExpired: It took longer than `limit` seconds and was killed.
        """
        with tempfile.TemporaryDirectory() as place:
            out, err = Path(place, "out"), Path(place, "err")
            out.touch()
            err.touch()
            job = {
                "folder": str(folder),
                "arguments": arguments,
                "env": env,
                "out": str(out),
                "err": str(err),
            }
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            child = int(self._line(HANG))
            try:
                status = int(self._line(limit))
            except subprocess.TimeoutExpired:
                os.killpg(child, signal.SIGKILL)
                self._line(HANG)
                raise
            return subprocess.CompletedProcess(
                ["harness", *arguments], status, out.read_text(), err.read_text()
            )

    def _line(self, limit: float) -> str:
        assert self.process.stdout is not None
        pipe, line, deadline = self.process.stdout.fileno(), b"", time.monotonic() + limit
        while not line.endswith(b"\n"):  # byte by byte, as `select` does not see buffered data
            if not select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise subprocess.TimeoutExpired("harness", limit)
            byte = os.read(pipe, 1)
            assert byte, "the process that forks has ended"
            line += byte
        return line.decode().strip()
