"""Options that several commands have, and how they are read."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from harness.common.errors import UserError
from harness.run.options import RunOptions
from harness.track.mirrors import tracker_names

File = Annotated[Path, typer.Argument(help="experiment file, as experiments/digits.yaml")]
Files = Annotated[Optional[list[Path]], typer.Argument(help="experiment files")]
Set = Annotated[
    Optional[list[str]], typer.Option("--set", help="override a field: stage2.lambd=50")
]
StoreOption = Annotated[Path, typer.Option("--store", help="folder of the trained cells")]
Jobs = Annotated[Optional[int], typer.Option("--jobs", min=1, help="cells at once; default: cores")]
JobsPerDevice = Annotated[
    Optional[int],
    typer.Option("--jobs-per-device", min=1, help="cells at once on each of several devices [1]"),
]
Devices = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps; several: cuda:0,cuda:1")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps")]
MaxTime = Annotated[Optional[str], typer.Option("--max-time", help="stop cleanly after: 90s 9m 2h")]
NoBar = Annotated[bool, typer.Option("--no-bar", help="plain lines instead of the live table")]
Mixed = Annotated[bool, typer.Option("--mixed", help="allow cells of several devices or commits")]
Budget = Annotated[
    Optional[str], typer.Option("--budget", help="drop whole seeds until it fits: 6h")
]
Workers = Annotated[
    int, typer.Option("--n-workers", min=0, help="loader workers per cell (large images)")
]
TeacherCache = Annotated[
    str,
    typer.Option(
        "--teacher-cache", help="disk for cached teacher outputs: 20GB, 500MB; 0 caches none"
    ),
]
Trackers = Annotated[
    Optional[list[str]],
    typer.Option("--tracker", help=f"also send to: {', '.join(tracker_names())}", metavar="NAME"),
]
Storage = Annotated[
    Optional[str],
    typer.Option(
        "--storage",
        help="a journal's path or a database URL; default: OPTUNA_STORAGE, or in the store",
    ),
]
Out = Annotated[
    Optional[Path], typer.Option("--out", help="default: reports/NAME.html", metavar="PATH")
]
Open = Annotated[bool, typer.Option("--open", help="show the page in a browser")]
Host = Annotated[str, typer.Option("--host", help="loopback by default")]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="where cells train: local (this machine) or ray")
]
RayAddress = Annotated[
    Optional[str],
    typer.Option("--ray-address", help="auto (default), HOST:PORT, ray://HOST:PORT or local"),
]
RayWait = Annotated[
    Optional[str],
    typer.Option("--ray-wait", help="wait for a cluster that starts: 90s 5m [3 tries]"),
]
CpusPerCell = Annotated[
    Optional[int],
    typer.Option("--cpus-per-cell", min=1, help="with Ray: cores and threads per cell [1]"),
]
GpusPerCell = Annotated[
    Optional[float],
    typer.Option("--gpus-per-cell", help="with Ray: GPUs per cell: 1, or a fraction: 0.25 [0]"),
]
NoSharedFiles = Annotated[
    bool,
    typer.Option(
        "--no-shared-files", help="with Ray: send cells' files even to nodes that see them"
    ),
]
GraphsOption = Annotated[
    Literal["auto", "on", "off"],
    typer.Option("--graphs", help="CUDA graphs: on, off, or auto: if they keep the bits"),
]
RUNS = RunOptions.store
TEACHER_CACHE = f"{RunOptions.teacher_cache / 1e9:g}GB"


def run_options(context: typer.Context, **changes: Any) -> RunOptions:
    """Return the options of a run from those of a command, with defaults for those that it lacks.

    `changes` are fields that the command sets itself.

    Raises:
        UserError: An option has a value that cannot be read, or options do not go together.
    """
    given = context.params
    fields = {f.name for f in dataclasses.fields(RunOptions)}
    values = {name: value for name, value in given.items() if name in fields}
    values["store"] = Path(given["store"])
    values["teacher_cache"] = n_bytes(given.get("teacher_cache", TEACHER_CACHE))
    values["max_seconds"] = seconds(given.get("max_time"))
    values["budget"] = seconds(given.get("budget"), "--budget")
    values["trackers"] = tuple(given.get("tracker") or ())
    if "executor" in given:
        from harness.execute.executors import cluster_of

        values["cluster"] = cluster_of(
            given["executor"],
            address=given["ray_address"],
            cpus=given["cpus_per_cell"],
            gpus=given["gpus_per_cell"],
            no_shared_files=given["no_shared_files"],
            wait=seconds(given["ray_wait"], "--ray-wait"),
            jobs=given["jobs"],
            device=given["device"],
            jobs_per_device=given["jobs_per_device"],
        )
    return RunOptions(**(values | changes))


def seconds(text: str | None, field: str = "--max-time") -> float | None:
    """Return the seconds of a duration: '90s', '9m', '2h' or '90'.

    Raises:
        UserError: It is written otherwise.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or float(match[1]) <= 0:
        raise UserError(f"{field}: {text!r} is no time; write 90s, 9m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def n_bytes(text: str) -> int:
    """Return the bytes of a size, as --teacher-cache takes it: '20GB', '1.5 TB', '500MB' or '0'.

    Raises:
        UserError: It is written otherwise.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not match or (not match[2] and float(match[1]) > 0):
        raise UserError(f"--teacher-cache: {text!r} is no size; write 20GB, 500MB, or 0 for none")
    return int(float(match[1]) * 1000 ** ("KMGT".index(match[2].upper()) + 1 if match[2] else 0))
