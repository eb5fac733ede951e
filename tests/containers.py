"""docker/ on a real Docker Engine: build both images, start the services, train, find the data.

    make docker-check    # as root; CONTAINERS_CACHE=FOLDER keeps the Engine there, not in ~/.cache

The Engine, its compose plugin and both base images are made of Debian's packages (tests/engine.py).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compose import ROOT
from engine import PACKAGES, SPACE, Engine, Missing, output, require
from helpers import changed, write_experiment

from harness.store import Store

OWNER = 1234  # of the checkout, so of the processes, too; not the Dockerfile's default
TWO_CELLS = changed(name="two", methods=["plain", "kd"])  # the teacher is the plain student
ON_RAY = changed(name="on-ray", methods=["plain"], seeds=[0, 1])
RUN = ("harness", "run", "experiments/two.yaml", "--no-bar", "--device", "cpu")
SERVICES = ("postgres", "mlflow", "optuna-dashboard")
FILES = "compose.yaml:../tests/engine_files/compose.yaml"
PROBE = "grep -hE '^(Uid|CapPrm|CapEff|CapBnd|NoNewPrivs):' /proc/[0-9]*/status; ! touch /probe"
ASK = """
import json, urllib.request
def ask(path, **body):
    url, kind = "http://127.0.0.1:5000/api/2.0/mlflow/" + path, {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), kind)
    return json.load(urllib.request.urlopen(request, timeout=120))
ids = [e["experiment_id"] for e in ask("experiments/search", max_results=100)["experiments"]]
print(json.dumps(ask("runs/search", experiment_ids=ids).get("runs", [])))
urllib.request.urlopen("http://127.0.0.1:8080/api/studies", timeout=120)
"""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print what is done, and how long it took."""
    print(name, end=": ", flush=True)
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def copy_checkout(target: Path) -> str:
    """Copy the files that git tracks, as they are now, for OWNER; return the commit."""
    git = ["git", "-C", str(ROOT)]
    names = output(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    shutil.rmtree(target, ignore_errors=True)
    for name in filter(None, names.split("\0")):
        if os.path.lexists(ROOT / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    for experiment in (TWO_CELLS, ON_RAY):
        write_experiment(target / "experiments" / f"{experiment['name']}.yaml", experiment)
    output("chown", "--recursive", f"{OWNER}:{OWNER}", target)
    return output(*git, "rev-parse", "HEAD").strip()


class Project:
    """The services of a checkout on an Engine, as docker/compose.sh starts them."""

    def __init__(self, engine: Engine, commit: str) -> None:
        self.engine, self.commit = engine, commit
        self.variables = {"COMPOSE_FILE": FILES, "HARNESS_COMMIT": commit}

    def call(self, *command: str, **environment: str) -> str:
        """Run a command in the checkout, which has to succeed; return what it printed."""
        done = self.engine.call(*command, **self.variables, **environment)
        text = done.stdout + done.stderr
        with open(self.engine.log, "a") as log:
            log.write(f"\n$ {' '.join(command)}\n{text}")
        assert done.returncode == 0, f"status {done.returncode} of {' '.join(command)[:200]}"
        return text

    def compose(self, *arguments: str) -> str:
        """Call docker/compose.sh, which has to succeed; return what it printed."""
        return self.call("docker/compose.sh", "--progress=plain", *arguments)

    def containers(self) -> set[str]:
        """Return the ids of the running containers."""
        return set(self.compose("ps", "--quiet").split())

    def inspect(self, service: str) -> Any:
        """Return what Docker knows of a service's container."""
        container = self.compose("ps", "--quiet", service).strip()
        return json.loads(self.call("docker", "inspect", container))[0]

    def volume(self, name: str) -> Path:
        """Return the folder of a volume, as this machine sees it."""
        return self.engine.cache / "state" / "volumes" / f"refilled-harness_{name}" / "_data"

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs in MLflow, asked at the port that it publishes."""
        return json.loads(self.call("python3", "-c", ASK))


def check_confined(printed: str, uid: int | None = None) -> None:
    """Check PROBE's answer: no root and no capability in any process, and a read-only root."""
    found: dict[str, set[str]] = {}
    for line in printed.splitlines():
        key, _, values = line.partition(":")
        found.setdefault(key, set()).update(values.split())
    users = {int(user) for user in found["Uid"]}
    assert users == {uid} if uid else 0 not in users, printed
    capabilities = found["CapPrm"] | found["CapEff"] | found["CapBnd"]
    assert {int(some, 16) for some in capabilities} == {0}, printed
    assert found["NoNewPrivs"] == {"1"}, printed
    assert "Read-only file system" in printed, printed


def check_services(project: Project) -> None:
    """Check that each service is healthy and confined, and published on loopback alone."""
    for name in SERVICES:
        state = project.inspect(name)
        assert state["State"]["Health"]["Status"] == "healthy", name
        published = [
            to for ports in state["NetworkSettings"]["Ports"].values() for to in ports or []
        ]
        assert {to["HostIp"] for to in published} <= {"127.0.0.1"}, published
        uid = None if name == "postgres" else OWNER
        check_confined(project.compose("exec", "-T", name, "sh", "-c", PROBE), uid)


def check_trainer(project: Project) -> None:
    """Train two cells, and check where they, MLflow's runs and the weights are."""
    servers = project.containers()
    run = ("run", "--rm", "-T", "trainer")
    check_confined(project.compose(*run, "sh", "-c", PROBE), OWNER)
    assert f"commit {project.commit[:12]}" in project.compose(*run, "harness", "--version")
    assert "two: 2 done" in project.compose(*run, *RUN)
    assert project.containers() == servers, "the servers were started again"
    check_stored(project)


def check_stored(project: Project) -> None:
    """Check the volumes, and what MLflow knows of them."""
    cells = Store(project.volume("runs")).all()
    assert [cell.is_done for cell in cells] == [True, True], cells
    weights = list(project.volume("mlartifacts").rglob("model.pt"))
    assert len(weights) == 2 and all(file.stat().st_size > 10**5 for file in weights), weights
    for name in ("runs", "mlartifacts"):
        owners = {file.stat().st_uid for file in project.volume(name).rglob("*")}
        assert owners == {OWNER}, (name, owners)
    runs = project.runs()
    assert [run["info"]["status"] for run in runs] == ["FINISHED"] * 3, runs  # and the grid's
    assert sum(bool(run["data"].get("metrics")) for run in runs) >= 2, runs


def check_backup(project: Project) -> None:
    """Save databases and artifacts as the script's first lines say, lose all, bring them back."""
    where = {"PGUSER": "harness", "ARTIFACTS": "/mlartifacts"}
    where["PG_RUN"] = "docker/compose.sh exec -T postgres"
    where["FILES_RUN"] = "docker/compose.sh run --rm --no-deps -T mlflow"
    project.call("docker/backup.sh", "save", "backup", **where)
    project.compose("down")
    for name in ("postgres", "mlartifacts"):
        project.call("docker", "volume", "rm", f"refilled-harness_{name}")
    project.compose("up", "--detach", "--wait", "postgres")
    project.call("docker/backup.sh", "restore", "backup", **where)
    project.compose("up", "--detach", "--wait")
    check_stored(project)


def check_ray(project: Project) -> None:
    """Train two cells on a head and two workers, as docker/README.md starts them."""
    project.variables |= {"COMPOSE_PROFILES": "local,ray", "RAY_CPUS": "1"}
    project.compose("up", "--detach", "--build", "--wait", "--scale", "ray-worker=2")
    for name in ("ray-head", "ray-worker"):
        check_confined(project.compose("exec", "-T", name, "sh", "-c", PROBE), OWNER)
    run = ("harness", "run", "experiments/on-ray.yaml", "--no-bar", "--executor", "ray")
    printed = project.compose("exec", "-T", "ray-head", "entrypoint.sh", *run)
    assert "on-ray: 2 done" in printed and "with 3 jobs" in printed, printed
    project.compose("stop", "ray-worker", "ray-head")
    assert len(project.runs()) == 6  # three of each grid


def check(cache: Path) -> None:
    """Build, start, train, restart, back up and restore, with all that is kept in a folder."""
    checkout = cache / "checkout"
    engine = Engine(cache, checkout)
    with step("Debian's packages"):
        engine.make_trees()
    with step("wheels of the lock files"):
        engine.fetch_wheels()
    commit = copy_checkout(checkout)
    with step("Docker Engine"):
        engine.__enter__()
    try:
        project = Project(engine, commit)
        project.compose("--profile=*", "down", "--volumes", "--remove-orphans")
        for service in ("mlflow", "trainer"):
            with step(f"build of {service}"):
                project.compose("build", service)
        print(project.call("docker", "image", "ls"))
        with step("start of the services"):
            project.compose("up", "--build", "--detach", "--wait")
            check_services(project)
        with step("training of two cells"):
            check_trainer(project)
        with step("stop and second start"):
            project.compose("down")
            project.compose("up", "--detach", "--wait")
            check_stored(project)
        with step("backup and restore"):
            check_backup(project)
        with step("Ray's head, two workers and a grid"):
            check_ray(project)
        password = (checkout / "docker" / "secrets" / "postgres_password").read_text()
        assert password not in project.compose("logs")
        project.compose("--profile=*", "down", "--volumes")
    finally:
        engine.__exit__()


def main() -> int:
    """Check this machine and then docker/; return the exit status."""
    home = Path.home() / ".cache" / "refilled-harness-containers"
    cache = Path(os.environ.get("CONTAINERS_CACHE") or home).absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        found = {program: shutil.which(program) for program in PACKAGES}
        is_built = (cache / "state").exists()
        require(os.geteuid() == 0, found, SPACE if is_built else shutil.disk_usage(cache).free)
        check(cache)
    except Missing as lacking:
        print(f"error: {lacking}", file=sys.stderr)
        return 2
    except (AssertionError, subprocess.CalledProcessError) as wrong:
        print(f"\nerror: {wrong}\nsee {cache}/log and {cache}/engine.log", file=sys.stderr)
        return 1
    size = output("du", "--summarize", "--human-readable", cache).split()[0]
    print(f"kept for the next time: {cache} ({size})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
