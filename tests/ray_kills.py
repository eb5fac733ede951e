"""Kill every part of a Ray cluster at random moments, and check what is left.

    python tests/ray_kills.py [--kills N] [--only KIND] [--seed S]

A head and a node run on this machine, each with a disk of its own, and `harness run` trains a tiny
grid there, with and without shared files. In every run something is killed, or a disk is emptied or
filled; what is gone is started again, and so is the command until it succeeds. Then models and
predictions are those of a run without kills, bit by bit, MLflow's rows are the journals' one for
one, nothing is locked or left over, and every message was in order. Disks need root (tmpfs).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers import (
    changed,
    environment,
    mlflow_client,
    runs_in,
    start,
    wait_until,
    write_experiment,
)
from test_mlflow_kills import journal_rows, mlflow_rows

from harness.execute.ray.cluster import check_speaks_ray
from harness.store import Store

MEMORY, DISK = 80 * 2**20, "400m"
MOST_CALLS = 4  # until the command succeeds
LIMITS = {  # those of Ray's parts that start on a busy machine
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def processes() -> Iterator[tuple[int, int, str]]:
    """Yield the id, the session and the command line of each live process."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.name), int(session), (path / "cmdline").read_text(errors="replace")


class Node:
    """A Ray node: `ray start --block` with a disk of its own."""

    def __init__(self, disk: Path, *options: str) -> None:
        self.disk, self.options = disk, options
        self.start()

    def start(self) -> None:
        """Start all its processes."""
        shutil.rmtree(self.disk / "ray", ignore_errors=True)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--block", *self.options,
             f"--temp-dir={self.disk / 'ray'}", f"--object-store-memory={MEMORY}"],
            env=environment(**LIMITS, TMPDIR=str(self.disk), RAY_TMPDIR=str(self.disk)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def ids(self, *words: str) -> list[int]:
        """Return its processes with one of these words in their command line."""
        mine = [(pid, line) for pid, session, line in processes() if session == self.process.pid]
        return [pid for pid, line in mine if any(word in line for word in words)]

    def kill(self) -> None:
        """Kill all that belongs to it, and wait for the end."""
        while found := self.ids(""):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()

    @property
    def is_whole(self) -> bool:
        """Whether it runs, or is about to."""
        starting = time.monotonic() < self.started + 60
        return self.process.poll() is None and (starting or bool(self.ids("/raylet/raylet")))


class Cluster:
    """A head without cores, where the command runs, and a node with two."""

    def __init__(self, place: Path) -> None:
        self.place, self.nodes = place, {}
        for name in ("head", "node", "store"):
            disk = place / name
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", disk], check=True)

    def mend(self) -> None:
        """Start whatever is not there; without its head, all of it."""
        head = self.nodes.get("head")
        for filled in self.place.glob("*/filled"):
            filled.unlink()
        if head is None or not head.is_whole or not self.answers():
            self.end()
            port = free_port()
            self.address = f"127.0.0.1:{port}"
            head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
            local = "--node-ip-address=127.0.0.1"
            self.nodes["head"] = Node(self.place / "head", local, *head)
            assert wait_until(self.answers), "the head does not start"
            joining = (local, f"--address={self.address}", "--num-cpus=2")
            self.nodes["node"] = Node(self.place / "node", *joining)
        self.tend()

    def tend(self) -> None:
        """Start the node again if it has ended: Ray has 15 s for its agents, not always enough."""
        node = self.nodes["node"]
        if not node.is_whole:
            node.kill()
            node.start()

    def answers(self) -> bool:
        try:
            check_speaks_ray(self.address)
        except OSError:
            return False
        return True

    def end(self) -> None:
        for node in self.nodes.values():
            node.kill()
        self.nodes.clear()

    def fill(self, disk: str) -> None:
        with contextlib.suppress(OSError), open(self.place / disk / "filled", "wb") as file:
            while True:
                file.write(bytes(2**20))
                file.flush()

    def empty(self, disk: str) -> None:
        for path in (self.place / disk).iterdir():
            shutil.rmtree(path, ignore_errors=True)


def victims(cluster: Cluster, driver: int, shared: bool) -> dict[str, Callable[[], list[int]]]:
    """Return kind -> what finds the processes to kill, or does the harm itself."""
    head, node = cluster.nodes["head"], cluster.nodes["node"]

    def harm(deed: Callable[[str], None], disk: str) -> Callable[[], list[int]]:
        return lambda: deed(disk) or []

    return {
        "worker": lambda: node.ids("ray::train_on_node")[:1],
        "idle worker": lambda: node.ids("ray::IDLE", "ray::import_training")[:1],
        "raylet": lambda: node.ids("/raylet/raylet"),
        "node": lambda: node.ids(""),
        "head's GCS": lambda: head.ids("gcs_server"),
        "head's raylet": lambda: head.ids("/raylet/raylet"),
        "driver": lambda: [driver],
        "mailbox": lambda: head.ids("ray::Mailbox"),
        "disk emptied": harm(cluster.empty, "node"),
        "disk full": harm(cluster.fill, "store" if shared else "node"),
    }


KINDS = (
    *("worker", "idle worker", "raylet", "node", "head's GCS", "head's raylet", "driver"),
    *("mailbox", "disk emptied", "disk full"),
)


class Called:
    """A call of the command: its status, its output and what was killed meanwhile."""

    def __init__(self, folder: Path, cluster: Cluster, shared: bool) -> None:
        words = ("run", "tiny.yaml", "--no-bar", "--executor", "ray", "--ray-wait", "5m")
        sent = () if shared else ("--no-shared-files",)
        began = time.monotonic()
        self.process = start(folder, *words, *sent, "--ray-address", cluster.address)
        self.began, self.killed = began, False

    def kill(self, kind: str, cluster: Cluster, shared: bool, moment: float) -> None:
        """Wait for the moment, and for what is to be killed, and kill it."""
        find = victims(cluster, self.process.pid, shared)[kind]
        is_over = lambda: self.process.poll() is not None  # noqa: E731
        if wait_until(is_over, moment):
            return
        disk, found = "disk" in kind, []
        wait_until(lambda: is_over() or disk or found.extend(find()) or found)
        if disk:
            find()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed = True
        self.killed |= disk and not is_over()

    def end(self, cluster: Cluster) -> tuple[int, str]:
        """Return status and output; until then the node is started again whenever it ends."""
        while self.process.poll() is None:
            cluster.tend()
            time.sleep(0.5)
        out, err = self.process.communicate()
        self.seconds = time.monotonic() - self.began
        return self.process.wait(), out + err


def message_faults(kind: str, status: int, text: str) -> list[str]:
    """Return what is wrong with the end of a call."""
    faults = []
    if "Traceback" in text or "this is a bug" in text:
        faults.append(f"a traceback: {text[-1500:]}")
    # What is killed while the command has not joined yet leaves it without a cluster.
    has_none = kind.startswith("head") and status == 2 and "--ray-address: no Ray cluster" in text
    if status not in ((0, 1, -9) if kind == "driver" else (0, 1)) and not has_none:
        faults.append(f"status {status}: {text[-500:]}")
    if len(text.splitlines()) > 40:
        faults.append(f"{len(text.splitlines())} lines of output: {text[-3000:]}")
    if status == 1 and not any(w in text for w in ("error: ", "failed")):
        faults.append(f"no word about a failure: {text[-500:]}")
    return faults


def result_of(folder: Path) -> dict[str, bytes]:
    cells = Store(folder / "runs").all()
    names = ("model.pt", "predictions.npz")
    return {f"{c.path.name}/{n}": (c / n).read_bytes() for c in cells for n in names}


def state_faults(folder: Path, expected: dict[str, bytes], cluster: Cluster) -> list[str]:
    """Return what is wrong with all that a finished grid has left."""
    cells, faults = Store(folder / "runs").all(), []
    result = result_of(folder)
    faults += [f"{n} is another" for n in expected | result if expected.get(n) != result.get(n)]
    faults += [f"{cell.path.name} is locked" for cell in cells if cell.is_leased]
    left = [*(folder / "runs").rglob(".*.tmp"), *(folder / "runs").glob("*/checkpoint.*")]
    faults += [f"{path.relative_to(folder)} is left" for path in left]
    if not wait_until(lambda: not cluster.nodes["node"].ids("ray::train_on_node"), 60):
        faults.append("a task is left")
    runs = {r.data.tags.get("fingerprint"): r for r in runs_in(mlflow_client(folder), "tiny")}
    for cell in cells:
        run = runs[cell.cell.fingerprint]
        expected_rows, rows = journal_rows(cell), mlflow_rows(folder / "mlflow.db", run.info.run_id)
        names = {name for name, *_ in expected_rows}
        others = [row for row in rows - expected_rows if row[0] in names]
        if expected_rows - rows or others or run.info.status != "FINISHED":
            faults.append(f"rows of {cell.path.name} in MLflow are not its journal's")
    return faults


def one_kill(
    kind: str, shared: bool, cluster: Cluster, folder: Path, moment: float, expected: dict
) -> tuple[bool, int, float, str, list[str]]:
    """Kill once, resume until all is done, and look at what is left.

    Returns:
        Whether something was killed, the status of that call, its seconds and error, the faults.
    """
    cluster.mend()
    called = Called(folder, cluster, shared)
    called.kill(kind, cluster, shared, moment)
    if kind in ("raylet", "node", "disk emptied"):
        time.sleep(1.0)
        cluster.nodes["node"].kill()
    first, text = called.end(cluster)
    faults = message_faults(kind, first, text)
    said = next((line for line in text.splitlines() if line.startswith("error: ")), "")
    status, calls = first, 0
    while status != 0 and calls < MOST_CALLS:
        cluster.mend()
        again = Called(folder, cluster, shared)
        status, text = again.end(cluster)
        calls += 1
        faults += [f"rerun: {fault}" for fault in message_faults("", status, text)]
    if status:
        faults.append(f"still {status}: {text[-500:]}")
    else:
        faults += state_faults(folder, expected, cluster)
    return called.killed, first, called.seconds, said, faults


def campaign(place: Path, kinds: list[str], n_kills: int, seed: int) -> int:
    """Kill until the number is reached, print a line for each, and return the faults."""
    cluster, rng = Cluster(place), random.Random(seed)
    store = place / "store"
    methods = {"methods": ["plain", "kd", "refilled"], "training": {"epochs": 3}}
    write_experiment(store / "origin/tiny.yaml", changed(**methods))
    mlflow_client(store / "origin").get_experiment_by_name("Default")
    try:
        cluster.mend()
        calm = Path(shutil.copytree(store / "origin", store / "calm"))
        called = Called(calm, cluster, shared=True)
        status, text = called.end(cluster)
        if status:
            raise SystemExit(f"without kills it ends with {status}: {text}")
        expected = result_of(calm)
        n_done = n_faults = n = 0
        usual = called.seconds
        print(f"seed {seed}, {called.seconds:.0f} s without kills, in {place}", flush=True)
        ways = [(k, s) for k in kinds for s in (True, False) if s is False or k != "mailbox"]
        while n_done < n_kills and n < 3 * n_kills:
            kind, shared = ways[n % len(ways)]
            folder = Path(shutil.copytree(store / "origin", store / f"{n}"))
            n += 1
            moment = rng.uniform(0.1, 0.6 * usual)
            killed, status, seconds, said, faults = one_kill(
                kind, shared, cluster, folder, moment, expected
            )
            n_done += killed
            usual = usual if killed else min(usual, seconds)  # the first call takes longer
            n_faults += len(faults)
            way = "shared" if shared else "sent"
            what = f"{kind if killed else 'nothing':15}{way:8}"
            print(f"{n_done:4} {what}at {moment:5.1f} s: status {status:3} after {seconds:4.0f} s, "
                  f"{len(faults)} faults  {said}", *faults, sep="\n     ", flush=True)  # fmt: skip
            shutil.rmtree(folder)
        print(f"{n_done} kills, {n_faults} faults")
        return n_faults + (n_done < n_kills)
    finally:
        cluster.end()
        for name in ("head", "node", "store"):
            subprocess.run(["umount", "-l", place / name], check=False)


def main() -> int:
    """Read the command line, and return the exit status: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=42)
    parser.add_argument("--only", action="append", choices=KINDS, help="repeat for several")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="rk-", dir="/tmp"))  # short, for sockets
    faults = campaign(place, given.only or list(KINDS), given.kills, given.seed)
    shutil.rmtree(place)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
