"""A whole grid by `harness run`, or with --tuning three studies of 30 trials by `harness tune`.

    python benchmarks/grid.py [--tuning] [--set seeds=[0]] [--jobs N] [--asking] [--against COMMIT]

Each run starts with an empty store. With --asking, this code also trains the grid without cached
teacher outputs. With --against, another commit trains it (in a git worktree in a temporary folder).
All take turns. Saved are the ratios of wall times, the share of training, and whether cells of one
fingerprint have the same numbers to the last digit in both commits. Each run has its own folder
with an MLflow database that is made in advance, which takes seconds once per project.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arguments import chosen_device, keep, machine, parser_of
from frame import Record, Spread, Step, alternate, comparison, record, rounded, spread, table

from harness.common.metrics import EVALUATION_SECONDS
from harness.execute.local import threads_for
from harness.run.options import default_jobs
from harness.store import CellDir, Store

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT, TUNING = "experiments/digits_all_images.yaml", "experiments/tuning/digits.yaml"
VARYING = {
    "event",
    "time",
    "seconds",
    "images_per_second",
    EVALUATION_SECONDS,
}
HERE, ASKING, THERE = "this code", "this code, --teacher-cache 0", "the other commit"
QUICK = ["seeds=[0]", "methods=[plain]", "students=[{depth: 10, width: 1}]",
         "teacher={depth: 10, width: 1}", "training.epochs=1"]  # fmt: skip
QUICK_TUNING = ["methods={plain: {training.lr: [0.1, 0.2]}}", "trials=2", "batch=1", "top_k=1",
                "startup_trials=1", "fresh_seeds=[101]", "set.training.epochs=1",
                "pruning=null"]  # fmt: skip


class Runner:
    """A command that runs with the code of a folder.

    Each run gets a new folder below `place` with this project's experiment files.

    Attributes:
        stores: The stores of the runs so far.
    """

    def __init__(self, code: Path, place: Path, database: Path, command: list[str]) -> None:
        self.code, self.place, self.database = code, place, database
        self.command, self.stores = command, list[Store]()

    def __call__(self) -> None:
        """Run the command.

        Raises:
            RuntimeError: It failed; the message is its stderr.
        """
        folder = self.place / str(len(self.stores))
        folder.mkdir(parents=True)
        shutil.copy(self.database, folder)
        results = shutil.ignore_patterns("results")
        shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=results)
        done = harness(self.command, self.code, folder)
        if done.returncode:
            command = f"harness {' '.join(self.command)}"
            raise RuntimeError(f"{self.code}: {command}: {done.stderr.strip()}")
        self.stores.append(Store(folder / "runs"))


def harness(arguments: list[str], code: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `harness ARGUMENTS` of the checkout `code` in `folder`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HARNESS_"))}
    changes = {"PYTHONPATH": str(code), "MLFLOW_DISABLE_TELEMETRY": "true"}
    changes["PYTHONDONTWRITEBYTECODE"] = ""  # otherwise only code compiled before has bytecode
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(
        command, cwd=folder, env=inherited | changes, capture_output=True, text=True
    )


def empty_database(folder: Path) -> Path:
    """Make an mlflow.db without runs."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    folder.mkdir()
    path = folder / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").get_experiment_by_name("Default")
    return path


@contextlib.contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a git worktree of a commit, and remove it afterwards."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)

    git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def shares(store: Store, wall: float, jobs: int) -> dict[str, float]:
    """Return the shares of training and of evaluation in a run's wall time.

    They follow from the manifests of finished cells; a share that old code does not record is left
    out. `wall` is in seconds, `jobs` is the number of processes.
    """
    manifests = [directory.manifest for directory in store.all() if directory.is_done]
    fields = {"training": "seconds", "evaluation": EVALUATION_SECONDS}
    return {
        part: sum(getattr(m, name) for m in manifests) / (wall * jobs)
        for part, name in fields.items()
        if all(getattr(m, name) is not None for m in manifests)
    }


def same_numbers(ours: Store, theirs: Store) -> dict[str, int]:
    """Count the finished cells of two stores.

    Those in both stores are `equal` or `different`, those in one only are `alone`. A number that
    only one of two commits measures is no difference.
    """
    a, b = ({d.path.name: d for d in store.all() if d.is_done} for store in (ours, theirs))
    equal = sum(_agree(numbers(a[name]), numbers(b[name])) for name in a.keys() & b.keys())
    shared = len(a.keys() & b.keys())
    return {"equal": equal, "different": shared - equal, "alone": len(a.keys() ^ b.keys())}


def _agree(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    pairs = list(zip(ours["epochs"], theirs["epochs"], strict=False))
    return (
        ours["results"] == theirs["results"]
        and len(ours["epochs"]) == len(theirs["epochs"])
        and all(x[key] == y[key] for x, y in pairs for key in x.keys() & y.keys())
    )


def numbers(directory: CellDir) -> dict[str, Any]:
    """Return a finished cell's results, and the losses and accuracies of each epoch."""
    lines = [{k: v for k, v in x.items() if k not in VARYING} for x in directory.epochs()]
    return {"results": directory.manifest.results, "epochs": lines}


def measure(what: str, runners: dict[str, Runner], rounds: int, jobs: int) -> dict[str, Any]:
    """Compare the wall times with those of the last runner; add the shares of training."""
    steps: dict[str, Step] = dict(runners)
    seconds = alternate(steps, rounds, warm_up=0)
    by_round = {
        name: [shares(s, w, jobs) for s, w in zip(runner.stores, seconds[name], strict=True)]
        for name, runner in runners.items()
    }
    quartiles = {
        name: {
            part: [rounded(x) for x in spread([share[part] for share in each])] for part in each[0]
        }
        for name, each in by_round.items()
    }
    return comparison(f"wall time of a {what}", seconds, list(runners)[-1], shares=quartiles)


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=2)
    parser.add_argument("--tuning", action="store_true", help="a tuning in place of a grid")
    parser.add_argument("--set", dest="set_", action="append", metavar="FIELD=VALUE")
    parser.add_argument("--jobs", type=int, help="by default as `harness run`")
    parser.add_argument("--asking", action="store_true", help="also with --teacher-cache 0")
    parser.add_argument("--against", metavar="COMMIT", help="another commit of this repository")
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    usual, quick = ([], QUICK_TUNING) if arguments.tuning else (["seeds=[0]"], QUICK)
    chosen = [*(arguments.set_ or usual), *(quick if arguments.quick else ())]
    jobs = arguments.jobs or default_jobs(device.type)
    options = ["--device", str(device), "--jobs", str(jobs)]
    options += [word for assignment in chosen for word in ("--set", assignment)]
    kept = measured(arguments, device, jobs, options, chosen)
    keep(kept, arguments)
    return kept


def measured(
    arguments: argparse.Namespace, device: Any, jobs: int, options: list[str], chosen: list[str]
) -> Record:
    """Run the grid or the tuning with each code, and return the record."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = empty_database(place / "database")
        file = TUNING if arguments.tuning else EXPERIMENT
        command = ["tune" if arguments.tuning else "run", file, "--no-bar", *options]
        runners = {HERE: Runner(ROOT, place / "here", database, command)}
        if arguments.asking:
            asking = [*command, "--teacher-cache", "0"]
            runners[ASKING] = Runner(ROOT, place / "asking", database, asking)
        if arguments.against:
            code = stack.enter_context(checkout(arguments.against, place / "code"))
            runners[THERE] = Runner(code, place / "there", database, command)
        what = "tuning" if arguments.tuning else "grid"
        result = measure(what, runners, arguments.rounds, jobs)
        first = runners[HERE].stores[0]
        cells = first.all()
        setting: dict[str, Any] = {
            "experiment": file,
            "set": chosen,
            "cells": len(cells),
            "jobs": jobs,
            "rounds": arguments.rounds,
        }
        if arguments.against:
            setting["against"] = arguments.against
            result["numbers"] = same_numbers(first, runners[THERE].stores[0])
    print(table(result))
    for name, share in result["shares"].items():
        parts = ", ".join(f"{part} {100 * Spread(*s).median:.0f} %" for part, s in share.items())
        print(f"  of {jobs} jobs of {name}: {parts}")
    if "numbers" in result:
        print(f"  cells: {json.dumps(result['numbers'])}")
    # Cells have so many threads, whatever this process has.
    on = machine(device) | {"threads": threads_for(jobs)}
    return record(what, on, setting, comparisons=[result])


if __name__ == "__main__":
    main()
