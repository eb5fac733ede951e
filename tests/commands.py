"""Start `harness ARGUMENTS` in a process of its own without importing torch and MLflow each time.

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
import threading
import time
from pathlib import Path
from typing import IO

HANG = 300.0  # seconds: what takes longer hangs, on a machine however loaded

# Reads one job per line and prints the process id of its child; the exit status goes to a file.
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

def wait(child, path):
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(path + ".new", "w") as file:
        file.write(str(status))
    os.rename(path + ".new", path)

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    files = [os.open("/dev/null", os.O_RDONLY)]
    files += [os.open(job["pipes"] + name, os.O_WRONLY) for name in ("/out", "/err")]
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["env"])
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.argv = ["harness", *job["arguments"]]
        exec(job["first"])
        harness.__main__._exit_now = lambda statuses: None  # too early
        status = harness.__main__.command()
        # What Python does at its end, then what `_exit_now` does.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    for file in files:
        os.close(file)
    threading.Thread(target=wait, args=(child, job["pipes"] + "/status"), daemon=True).start()
    print(child, flush=True)
"""


class Process:
    """A command that was forked, as `subprocess.Popen` with pipes describes one."""

    def __init__(self, pid: int, folder: Path, pipes: tuple[int, int]) -> None:
        self.pid, self.returncode = pid, None
        self.stdout, self.stderr = (os.fdopen(pipe, encoding="utf-8") for pipe in pipes)
        self._status = folder / "status"

    def poll(self) -> int | None:
        if self.returncode is None and self._status.exists():
            self.returncode = int(self._status.read_text())
        return self.returncode

    def wait(self, timeout: float = HANG) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("harness", timeout)
            time.sleep(0.01)
        return status

    def communicate(self, timeout: float = HANG) -> tuple[str, str]:
        texts = ["", ""]

        def read(i: int, file: IO[str]) -> None:
            texts[i] = file.read()

        readers = [
            threading.Thread(target=read, args=pair, daemon=True)
            for pair in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
        self.wait(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


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
        self.folder = tempfile.TemporaryDirectory()
        assert self._line() == "ready"

    def start(
        self, folder: Path, arguments: tuple[str, ...], env: dict[str, str], first: str = ""
    ) -> Process:
        """Start a command in a session of its own, after the code `first` in its process."""
        place = Path(tempfile.mkdtemp(dir=self.folder.name))
        pipes = []
        for name in ("out", "err"):
            os.mkfifo(place / name)
            pipes.append(os.open(place / name, os.O_RDONLY | os.O_NONBLOCK))
        job = {"folder": str(folder), "arguments": arguments, "env": env, "pipes": str(place)}
        job["first"] = first
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        pid = int(self._line())
        for pipe in pipes:  # it has a writer now
            os.set_blocking(pipe, True)
        return Process(pid, place, (pipes[0], pipes[1]))

    def run(
        self, folder: Path, arguments: tuple[str, ...], env: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: It hangs, and was killed.
        """
        process = self.start(folder, arguments, env)
        try:
            out, err = process.communicate()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(["harness", *arguments], process.wait(), out, err)

    def _line(self) -> str:
        if not select.select([self.process.stdout], [], [], HANG)[0]:
            raise subprocess.TimeoutExpired("harness", HANG)
        return self.process.stdout.readline().strip()
