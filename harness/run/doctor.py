"""`harness doctor`: what this machine has, and what would prevent a run here."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from harness.common import database
from harness.common.columns import print_columns
from harness.common.errors import UserError, one_line
from harness.common.names import command_name
from harness.common.provenance import n_cores, processor, version_text
from harness.common.redaction import without_password
from harness.data import DATASETS, data_root
from harness.data.options import PublishedOptions
from harness.store import Store
from harness.track.database_file import sqlite_path
from harness.track.environment import as_user_error, check_uri, tracking_uri

PACKAGES = ("torch", "torchvision", "mlflow", "optuna")
MATRIX_SIZE = 1024  # of the timed product
LEAST_FREE = 1e9  # bytes: a small grid and its MLflow database


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        subject: What was examined.
        state: How it is.
        problem: What to do about it; "" if all is well.
    """

    subject: str
    state: str
    problem: str = ""


def findings(root: Path) -> Iterator[Finding]:
    """Yield the findings, the quick ones first."""
    yield Finding("Python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    yield Finding("code", version_text())
    yield _disk(root)
    yield from _data()
    yield _try("MLflow", _mlflow)
    if os.environ.get("OPTUNA_STORAGE"):
        yield _try("Optuna", _optuna)
    yield from _devices()


def _disk(root: Path) -> Finding:
    folder = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    store = Store(root)
    n = sum(d.is_done for d in store.all()) if root.exists() else 0
    problem = "" if os.access(folder, os.W_OK) else f"{folder} cannot be written to; allow it"
    if free < LEAST_FREE:
        problem = "little free disk: make room, or choose another --store"
    return Finding("store", f"{root}: {n} cells done, {free / 1e9:.1f} GB free", problem)


def _data() -> Iterator[Finding]:
    yield Finding("data root", str(data_root()))
    for name, options in DATASETS.items():
        if issubclass(options, PublishedOptions):
            path = options.find()
            yield Finding(f"  {name}", str(path) if path else "not here; fetched when it is needed")


def _try(subject: str, examine: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, examine())
    except UserError as error:
        return Finding(subject, "cannot be used", one_line(error))


def _mlflow() -> str:
    uri = tracking_uri()
    check_uri(uri)
    file = sqlite_path(uri)
    if file is not None and not file.exists():
        return f"{file}: made by the first run"
    from harness.track.client import make_client

    with as_user_error(without_password(uri)):
        started = time.perf_counter()
        make_client(uri).search_experiments(max_results=1)
        return f"{without_password(uri)} answers in {time.perf_counter() - started:.1f} s"


def _optuna() -> str:
    address = os.environ["OPTUNA_STORAGE"]
    if database.is_postgres(address):
        database.connect(address, "OPTUNA_STORAGE", pauses=()).close()
        return f"{without_password(address)} answers"
    return without_password(address)


def _devices() -> Iterator[Finding]:
    """Yield each device with a timed matrix product: one that is listed may still not work."""
    import torch

    names = {"cpu": f"{processor()}, {n_cores()} cores, {torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        names[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {memory}"
    if torch.backends.mps.is_available():
        names["mps"] = "Apple GPU"
    for name, about in names.items():
        try:
            speed = f"{_flops(name) / 1e9:,.0f} GFLOP/s in float32"
            yield Finding(f"device {name}", f"{about}: {speed}")
        except RuntimeError as error:
            yield Finding(f"device {name}", about, f"cannot compute ({one_line(error)})")
    if len(names) == 1:
        yield Finding("GPU", "none: the digits and Fashion-MNIST grids need none")


def _flops(device: str) -> float:
    """Return the floating-point operations per second of the fastest of some matrix products."""
    import torch

    a = torch.ones(MATRIX_SIZE, MATRIX_SIZE, device=device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (a @ a).sum().item()  # `item` waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * MATRIX_SIZE**3 / min(seconds)


def print_findings(root: Path) -> int:
    """Print the findings.

    Returns:
        1 if something would prevent a run here, else 0.
    """
    found = list(findings(root))
    print_columns([(finding.subject, finding.state) for finding in found])
    problems = [f"{f.subject.strip()}: {f.problem}" for f in found if f.problem]
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        print(f"ready: `make reproduce`, or `{command_name()} run FILE`")
    return 1 if problems else 0
