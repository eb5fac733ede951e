"""The time that commands take when there is nothing to train, and the memory of a large plan.

    python benchmarks/planning.py [--rounds N] [--save]

Measured are planning 10,000 cells, a decision of the scheduler among them, the tables of a bundle
with 2,000 runs, and whole commands on a finished grid of 72 cells. Each number is the best of a few
tries, because other processes only add to it. Devices play no part.
"""

import contextlib
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from arguments import chosen_device, keep, machine, parser_of
from frame import Record, record, rounded
from grid import ROOT, harness

from harness.analysis.bundle import read_bundle
from harness.analysis.tables.pages import results_page
from harness.cell import Cell
from harness.data import Dataset, load
from harness.execute.scheduler import Progress, run
from harness.experiment.experiment import Experiment
from harness.experiment.file import read
from harness.plan import Plan, make_plan
from harness.run.grid import plan_of
from harness.store import CellDir, Store
from harness.store.manifest import CellOptions
from harness.train.exit_status import STOPPED

sys.path.append(str(ROOT / "tests"))  # which makes finished cells without training
from bundles import mark_as_sent, without_training

EXPERIMENT = ROOT / "experiments" / "digits_all_images.yaml"
BUNDLE = ROOT / "experiments" / "results" / "digits.jsonl"
CELLS, RUNS, DECISIONS = 10_000, 2_000, 200


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def many(n_cells: int) -> tuple[Experiment, Dataset]:
    """Return the digits' experiment with so many seeds that it has at least `n_cells`."""
    experiment = read(EXPERIMENT)
    dataset = load(experiment.dataset)
    n_per_seed = len(make_plan(experiment.model_copy(update={"seeds": (0,)}), dataset).cells)
    seeds = tuple(range(-(-n_cells // n_per_seed)))
    return experiment.model_copy(update={"seeds": seeds}), dataset


class _Enough(Exception):
    pass


class _Bare(Store):
    """A store that writes nothing, so that only the scheduler is timed."""

    def __init__(self, root: Path, plan: Plan) -> None:
        super().__init__(root)
        self._names = {id(cell): fingerprint for fingerprint, cell in plan.cells.items()}

    def prepare(self, cell: Cell, options: CellOptions | None = None) -> CellDir:
        return self.directory(self._names[id(cell)])


class _Stopping:
    """An executor that stops every cell at once, so that it waits for its turn again."""

    capacity = 2

    def __init__(self, n: int) -> None:
        self.n, self.running, self.times = n, list[Path](), list[float]()

    def warm_up(self, n: int) -> None: ...

    def submit(self, directory: Path) -> None:
        self.running.append(directory)

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        self.times.append(time.perf_counter())
        if len(self.times) > self.n:
            raise _Enough
        return [(self.running.pop(0), STOPPED)]

    def cancel(self, grace: float = 15.0) -> None:
        self.running.clear()

    def close(self) -> None: ...


def decision_seconds(plan: Plan, n_decisions: int = DECISIONS) -> float:
    """Return the scheduler's seconds between the end of a cell and the start of the next."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(plan, _Bare(Path(folder), plan), dict.fromkeys(plan.cells, "waiting"))
        executor = _Stopping(n_decisions)
        with contextlib.suppress(_Enough):
            run(progress, executor, interval=0)
    return (executor.times[-1] - executor.times[0]) / n_decisions


def memory_bytes(n_cells: int = CELLS) -> int:
    """Return the most memory that Python allocates for planning and one scheduler decision."""
    grid = many(n_cells)
    tracemalloc.start()
    try:
        decision_seconds(make_plan(*grid), 1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bundle_text(n_runs: int = RUNS) -> str:
    """Return the digits' bundle with so many seeds that it has at least `n_runs` cells."""
    header, *lines = (json.loads(line) for line in BUNDLE.read_text().splitlines())
    first_seed = [x for x in lines if x["entries"][0]["seed"] == lines[0]["entries"][0]["seed"]]
    header["experiment"]["seeds"] = list(range(-(-n_runs // len(first_seed))))
    bundle = [header]
    for seed in header["experiment"]["seeds"]:
        for line in first_seed:
            entries = [entry | {"seed": seed} for entry in line["entries"]]
            name = f"{seed:04d}{line['fingerprint'][4:]}"
            bundle.append(line | {"fingerprint": name, "entries": entries})
    return "".join(json.dumps(line) + "\n" for line in bundle)


def tables_seconds(text: str) -> float:
    """Return the seconds from a bundle's text to its results page."""

    def make() -> None:
        bundle = read_bundle(BUNDLE, text)
        results_page(bundle)

    return timed(make)


def finish(folder: Path) -> int:
    """Make a store in `folder` with all cells of EXPERIMENT done; return their number."""
    plan = plan_of(read(EXPERIMENT))
    without_training(plan, folder / "runs")
    (folder / "mlflow.db").touch()
    mark_as_sent(plan, folder / "runs")
    return len(plan.cells)


def command_seconds(folder: Path, *arguments: str) -> float:
    """Return the seconds of `harness ARGUMENTS` in `folder`, with the start of Python."""
    return timed(lambda: harness([*arguments], ROOT, folder).check_returncode())


def measured(tries: int) -> dict[str, float]:
    """Return what was done -> seconds of the fastest try."""

    def best_of(call: Callable[[], float]) -> float:
        return min(call() for _ in range(tries))

    grid, text = many(CELLS), bundle_text()
    plan = make_plan(*grid)
    seconds = {
        f"planning {len(plan.cells):,} cells": best_of(lambda: timed(lambda: make_plan(*grid))),
        f"a decision among {len(plan.cells):,} cells": best_of(lambda: decision_seconds(plan)),
        f"tables of {text.count(chr(10)) - 1:,} runs": best_of(lambda: tables_seconds(text)),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        n = finish(folder)
        for command in (
            ("status", str(EXPERIMENT)),
            ("plan", str(EXPERIMENT), "--no-estimate"),
            ("run", str(EXPERIMENT)),
        ):
            name = f"harness {command[0]}, {n} cells done"
            seconds[name] = best_of(partial(command_seconds, folder, *command))
    seconds["harness tables --check"] = best_of(lambda: command_seconds(ROOT, "tables", "--check"))
    return seconds


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=3)
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    seconds = measured(arguments.rounds)
    for name, value in seconds.items():
        print(f"{name:<40}{1000 * value:>10.2f} ms")
    memory = {f"memory of about {CELLS:,} cells, planned and scheduled": memory_bytes()}
    for name, n_bytes in memory.items():
        print(f"{name:<40}{n_bytes / 1e6:>10.1f} MB")
    shown = {name: rounded(value) for name, value in seconds.items()}
    setting = {"rounds": arguments.rounds, "shown": "the fastest"}
    kept = record("planning", machine(device), setting, seconds=shown, bytes=memory)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
