"""The services of docker/compose.yaml as plain processes, without Docker.

They run on loopback with their own commands, environment, secrets and health checks. Only what a
container provides is replaced: host names, ports, paths of volumes and secrets, and PostgreSQL.

    python tests/compose.py up          # start them, print what to export; Ctrl-C ends them
    python tests/compose.py reproduce   # also train the digits grid (minutes), compare its table
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import yaml
from commands import HANG
from postgres import PASSWORD, Postgres, free_port

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
FILES = (DOCKER / "compose.yaml",)
POSTGRES_PORT, RAY_PORT = 5432, 6379  # which no service publishes


def defaults() -> dict[str, str]:
    """Return the variables of docker/.env."""
    lines = (DOCKER / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    """Replace `${NAME:-default}` and `$$` in every string, as compose does."""
    if isinstance(value, dict):
        return {k: interpolated(v, variables) for k, v in value.items()}
    if isinstance(value, list):
        return [interpolated(v, variables) for v in value]
    if not isinstance(value, str):
        return value
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: variables.get(m[1]) or m[2], value)
    return filled.replace("$$", "$")


def merged(base: Any, override: Any) -> Any:
    """Merge an override file as compose does: mappings by key, lists by concatenation."""
    if isinstance(base, dict) and isinstance(override, dict):
        common = {k: merged(base[k], override[k]) for k in base.keys() & override.keys()}
        return base | override | common
    if isinstance(base, list) and isinstance(override, list):
        return base + override
    return override


def read(*files: Path, **variables: str) -> dict[str, Any]:
    """Return the merged compose files with docker/.env and `variables` filled in."""
    model: Any = {}
    for file in files or FILES:
        model = merged(model, yaml.safe_load(file.read_text()))
    return interpolated(model, defaults() | variables)


def seconds(duration: str) -> float:
    """Convert '20s' or '2m' to seconds."""
    return float(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def entrypoint() -> list[str]:
    """Return the ENTRYPOINT of our images, as a path in the checkout."""
    text = (DOCKER / "Dockerfile").read_text()
    (name,) = re.findall(r'^ENTRYPOINT \["([^"]+)"\]$', text, re.M)
    return [str(DOCKER / name)]


class Stack:
    """The services of the compose file: `with Stack(folder) as stack: stack.up("postgres")`.

    The folder gets logs, secrets, volumes, and `work`, where the command of the trainer runs.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.model = folder, read(**variables)
        self.services: dict[str, Any] = self.model["services"]
        self.postgres = Postgres(databases=())
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {POSTGRES_PORT: self.postgres.port, RAY_PORT: free_port()}
        for service in self.services.values():
            for port in service.get("ports", []):
                self.ports.setdefault(int(port.rsplit(":", 1)[1]), free_port())
        for name in ("home", "logs", "secrets", "volumes", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "secrets" / "postgres_password").write_text(PASSWORD)
        self.ray = tempfile.mkdtemp(prefix="ray-")  # names of its sockets may not be long

    def port(self, service: str) -> int:
        return self.ports[int(self.services[service]["ports"][0].rsplit(":", 1)[1])]

    def here(self, service: str, text: str) -> str:
        """Translate a string of the service's definition to the world outside a container."""
        names = "|".join([*self.services, r"0\.0\.0\.0"])
        text = re.sub(rf"(//|@|--host=|--address=)(?:{names})(?=[:/]|$)", r"\g<1>127.0.0.1", text)
        for inside, port in self.ports.items():
            text = re.sub(rf"\b{inside}\b", str(port), text)
        for volume in self.services[service].get("volumes", []):
            if isinstance(volume, str) and not volume.startswith("."):
                name, target = volume.split(":")[:2]
                text = text.replace(target, str(self.folder / "volumes" / name))
        return text.replace("/run/secrets", str(self.folder / "secrets"))

    def environment(self, service: str) -> dict[str, str]:
        """Return the service's own variables and, as in a container, none of this process."""
        given = self.services[service].get("environment", {})
        path = [sysconfig.get_path("scripts"), str(self.postgres.bin), os.environ["PATH"]]
        return {
            "PATH": os.pathsep.join(path),
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # two cells on two cores
            "RAY_TMPDIR": self.ray,  # a container's own /tmp
            "RAY_worker_niceness": "0",  # trainings beside these processes would get all of a core
        } | {k: self.here(service, v) for k, v in given.items()}

    def command(self, service: str, *given: str) -> list[str]:
        """Return the service's command, or `given`, preceded by the entrypoint of our images."""
        first, *rest = [self.here(service, a) for a in given or self.services[service]["command"]]
        python = [sys.executable, *(["-m", first] if first in ("harness", "mlflow") else [])]
        program = python if first in ("harness", "mlflow", "python") else [first]
        ours = entrypoint() if "build" in self.services[service] else []
        return [*ours, *program, *rest]

    def popen(self, service: str, *command: str, **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.command(service, *command),
            cwd=self.folder / "work",
            env=self.environment(service),
            start_new_session=True,
            **options,
        )

    def init_postgres(self) -> None:
        """Initialise PostgreSQL as its image does in an empty volume."""
        mounts = [m.split(":") for m in self.services["postgres"]["volumes"]]
        (script,) = [m[0] for m in mounts if m[1].startswith("/docker-entrypoint-initdb.d/")]
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port)} | self.postgres.env
        environment = self.environment("postgres") | where
        subprocess.run([DOCKER / script], env=environment, check=True)

    def up(self, *services: str) -> None:
        """Start the services, each once the one before it is healthy.

        Raises:
            AssertionError: A service ended or does not become healthy.
        """
        for service in services:
            if service == "postgres":
                self.init_postgres()
            else:
                with open(self.folder / "logs" / service, "ab") as log:
                    output = {"stdout": log, "stderr": subprocess.STDOUT}
                    self.processes[service] = self.popen(service, **output)
            check = self.services[service]["healthcheck"]
            wait = seconds(check["interval"]) * check["retries"] + seconds(check["start_period"])
            deadline = time.monotonic() + max(wait, HANG)
            while not self.healthy(service):
                ended = service in self.processes and self.processes[service].poll() is not None
                assert not ended and time.monotonic() < deadline, f"{service}: {self.log(service)}"
                time.sleep(0.3)

    def healthy(self, service: str) -> bool:
        """Return whether the service's own health check passes."""
        how, *command = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return self.popen(service, *command, **quiet).wait() == 0

    def run(self, service: str, *command: str, output: TextIO | int | None = None) -> int:
        """Do what `docker compose run --rm SERVICE COMMAND` does; return the exit status."""
        process = self.popen(service, *command, stdout=output, stderr=output)
        try:
            return process.wait()
        finally:
            _kill(process)

    def log(self, service: str) -> str:
        file = self.folder / "logs" / service
        return file.read_text() if file.exists() else ""

    def stop(self, service: str) -> None:
        """Send the stop signal, as Docker does, and wait for the end.

        Raises:
            subprocess.TimeoutExpired: It does not end.
        """
        process = self.processes.pop(service)
        try:
            process.send_signal(signal.SIGTERM)
            process.wait(HANG)
        finally:
            _kill(process)

    def __enter__(self) -> "Stack":
        self.postgres.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            _kill(process)
        self.postgres.__exit__()
        shutil.rmtree(self.ray, ignore_errors=True)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and what it left behind, as the end of a container does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def local_stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="harness-compose-") as folder, Stack(Path(folder)) as s:
        s.up("postgres", "mlflow", "optuna-dashboard")
        print(f"MLflow            http://127.0.0.1:{s.port('mlflow')}")
        print(f"optuna-dashboard  http://127.0.0.1:{s.port('optuna-dashboard')}", flush=True)
        yield s


def up() -> int:
    with local_stack() as stack:
        exported = stack.environment("trainer") | stack.postgres.env
        for name in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE", "PGPASSWORD"):
            print(f"export {name}={exported[name]}")
        print("Ctrl-C ends them and removes what they hold", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


def reproduce() -> int:
    """Run the trainer's command and `harness verdicts` in a copy of what compose.yaml mounts."""
    with local_stack() as stack:
        work = stack.folder / "work"
        for volume in stack.services["trainer"]["volumes"]:
            if isinstance(volume, dict):
                source, target = DOCKER / volume["source"], work / volume["target"][len("/work/") :]
                target.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, target)
        started = time.monotonic()
        command = stack.services["trainer"]["command"]
        status = stack.run("trainer", *command, "--no-bar", "--device", "cpu")
        status = status or stack.run("trainer", "harness", "verdicts", command[-1])
        print(f"status {status}, {time.monotonic() - started:.0f} s")
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["up", "reproduce"])
    # Ended by `kill` as by Ctrl-C: nothing may be left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit({"up": up, "reproduce": reproduce}[parser.parse_args().what]())
