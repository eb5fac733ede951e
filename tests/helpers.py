"""Helpers of tests that start real processes: a tiny experiment, and ways to run and inspect it."""

import contextlib
import copy
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import HANG, Forking, Process

from harness.cli import main
from harness.common.errors import UserError
from harness.store import CellDir, Store
from harness.store.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent
Output, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch  # short names for signatures

# Ray clusters take minutes to start, kill and stop, so they run only where CI requires them.
WITH_RAY = "ray" in os.environ.get("HARNESS_TESTS_REQUIRE", "")
needs_ray = pytest.mark.skipif(not WITH_RAY, reason="takes minutes; HARNESS_TESTS_REQUIRE=ray")

# Four cells of two epochs on 297 images; the teacher is also the plain student.
TINY = yaml.safe_load("""
name: tiny
dataset: {name: digits, validation: 100, test: 1400}
network: {network: wide_resnet, dropout: 0.0}
teacher: {depth: 10, width: 1}
students: [{depth: 10, width: 1}]
methods: [plain, kd, refilled]
optimizer: {batch_size: 64}
training: {epochs: 2}
stage1: {epochs: 2}
stage2: {epochs: 2}
seeds: [0]
""")

# A tuning file for tiny.yaml in the folder above it: two trials of one method.
TUNING: dict[str, Any] = {
    "name": "tiny",
    "experiment": "../tiny.yaml",
    "methods": {"plain": {"training.lr": {"low": 0.01, "high": 0.5, "log": True}}},
    "trials": 2,
    "batch": 1,
    "startup_trials": 1,
    "pruning": None,
    "top_k": 1,
    "fresh_seeds": [7],
}

# `slow` can be stopped in the middle: its teacher takes some seconds.
SLOW = TINY | {"name": "slow", "training": {"epochs": 12}}


def some_manifest(**fields: Any) -> Manifest:
    """A cell's manifest, with what is not given made up."""
    made_up = {
        "results": {},
        "selected_epoch": 1,
        "epochs": 1,
        "seconds": 1.0,
        "model_sha256": "",
        "data": {},
        "device": "cpu",
        "commits": [],
        "dirty": False,
        "torch": "2",
    }
    return Manifest.model_validate(made_up | fields)


def write_experiment(path: Path, raw: dict[str, Any] = TINY, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(changed(raw, **changes)))
    return path


def changed(raw: dict[str, Any] = TINY, **changes: Any) -> dict[str, Any]:
    """Return the changed experiment, without the sections of methods that it no longer has."""
    merged = copy.deepcopy(raw) | changes
    if any(str(method).startswith("refilled") for method in merged["methods"]):
        return merged
    return {k: v for k, v in merged.items() if k in changes or k not in ("stage1", "stage2")}


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, made fit for `python -m harness` in any folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HARNESS_"))}
    fixed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | fixed | more


def start(folder: Path, *arguments: str, first: str = "", **env: str) -> Process:
    """Start `harness ARGUMENTS` in `folder`, in a session of its own; `first` is Python code."""
    return _forking().start(folder, arguments, environment(**env), first)


def call(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `harness ARGUMENTS` in `folder` to its end."""
    return _forking().run(folder, arguments, environment(**env))


@functools.cache
def _forking() -> Forking:
    return Forking(environment())


def wait_until(condition: Callable[[], Any], limit: float = HANG) -> bool:
    """Return whether the condition became true within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def processes_in(folder: Path) -> dict[int, str]:
    """Return pid -> command line of the other processes whose working directory is `folder`."""
    processes = {}
    pids = {p.name for p in Path("/proc").iterdir() if p.name.isdigit()} - {str(os.getpid())}
    for pid in pids:
        try:
            if Path(os.readlink(f"/proc/{pid}/cwd")) == folder.resolve():
                processes[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:  # it ended meanwhile
            continue
    return processes


def end_processes_in(folder: Path) -> None:
    """Kill the processes that `start` started in `folder`, also after a failed test."""
    for pid in processes_in(folder):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) != os.getsid(0):  # not this process's own fork server
                os.kill(pid, signal.SIGKILL)


def cells(folder: Path) -> dict[str, CellDir]:
    """Return kind -> directory of the prepared cells, for experiments with one cell per kind."""
    return {d.cell.kind: d for d in Store(folder / "runs").all()}


def epochs_of(cell: CellDir) -> list[int]:
    return [line["epoch"] for line in cell.epochs()]


def has_epochs(folder: Path, n: int = 1) -> bool:
    return any(len(d.epochs()) >= n for d in Store(folder / "runs").all())


def weights(cell: CellDir) -> dict[str, Any]:
    import torch

    return torch.load(cell / "model.pt", weights_only=True)["state_dict"]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the modification time and the size of every file below `folder`."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


def mlflow_client(folder: Path, database: str = "mlflow.db"):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / database}")


def role(run: Any) -> str:
    """Return what an MLflow run shows: the teacher, the stage of a cell, or its kind ("grid")."""
    tags = run.data.tags
    roles = tags.get("roles", "").split(", ")
    return "teacher" if "teacher" in roles else tags.get("stage", tags["kind"])


def runs_in(client: Any, name: str) -> list[Any]:
    """Return all runs of an experiment."""
    return list(client.search_runs([client.get_experiment_by_name(name).experiment_id]))


def content_of(client: Any, name: str) -> dict[str, Any]:
    """Return the content of an experiment in MLflow without run ids, to compare databases."""
    content = {}
    for run in runs_in(client, name):
        history = {
            key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key)]
            for run_id in [run.info.run_id]
            for key in run.data.metrics
        }
        tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
        key = tags.get("fingerprint", "grid")
        assert key not in content, f"two runs for {key}"
        content[key] = {
            "status": run.info.status,
            "name": run.info.run_name,
            "params": run.data.params,
            "tags": tags,
            "metrics": history,
        }
    return content


def one_error_line(text: str) -> str:
    """Return the only line of stderr, an error without a traceback."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ") and "this is a bug" not in text, text
    return lines[0]


def wrong(call: Callable[[], object], *parts: str) -> str:
    """Return the one line of the UserError that `call` ends with; it has all of these parts."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
    return text


def refusal(capsys: Output, *words: str) -> str:
    """Return the one line with which `harness WORDS` in this process ends with exit status 2."""
    assert main([*words]) == 2
    return one_error_line(capsys.readouterr().err)


def captured(command: Sequence[str | Path], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, and keep what it prints."""
    return subprocess.run(command, capture_output=True, text=True, **options)


def run_python(
    code: str, *arguments: str, folder: Path = ROOT, **env: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return captured(command, cwd=folder, env=environment(**env))


@dataclass(frozen=True)
class Interrupted:
    """A `slow` run that was stopped by Ctrl-C in the middle and then run again."""

    folder: Path
    status: int
    left: dict[int, str]
    before: dict[str, list[int]]
    last_events: dict[str, str]
    mlflow_before: dict[str, Any]
    next_status: int


def interrupt_and_resume(folder: Path) -> Interrupted:
    file = write_experiment(folder / "slow.yaml", SLOW)
    process = start(folder, "run", str(file), "--no-bar", "--device", "cpu")
    assert wait_until(lambda: has_epochs(folder)), process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=HANG)
    wait_until(lambda: not processes_in(folder))
    left = processes_in(folder)
    before = {kind: epochs_of(cell) for kind, cell in cells(folder).items()}
    events = {kind: cell.events() for kind, cell in cells(folder).items()}
    last_events = {kind: lines[-1]["event"] for kind, lines in events.items() if lines}
    mlflow_before = content_of(mlflow_client(folder), "slow")
    again = call(folder, "run", str(file), "--no-bar", "--device", "cpu")
    return Interrupted(
        folder, process.returncode, left, before, last_events, mlflow_before, again.returncode
    )
