"""The frame of all benchmarks: steps that take turns, ratios with their spread, result files.

A benchmark compares steps, which are callables with names. They take turns in one process, so that
a slow minute of the machine slows all of them; what counts is the ratio of two steps in one round.
Nothing here imports torch, so that checking the page is quick.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness.common.files import write_user_file

RESULTS = Path(__file__).resolve().parent / "results"
DIGITS = 4  # significant digits of a saved number

Step = Callable[[], object]
Seconds = dict[str, list[float]]  # name of a step -> one value per round
Record = dict[str, Any]  # a file of benchmarks/results


class Spread(NamedTuple):
    """A median with its quartiles."""

    low: float
    median: float
    high: float


def alternate(
    steps: Mapping[str, Step],
    rounds: int,
    settle: Callable[[], object] = lambda: None,
    warm_up: int = 1,
) -> Seconds:
    """Measure the wall-clock seconds of each step in each round.

    Every second round is reversed, so that no step always follows the same other one. `settle`
    waits until the device is idle; it is called before each reading of the clock. The `warm_up`
    rounds do not count.
    """
    seconds: Seconds = {name: [] for name in steps}
    for number in range(-warm_up, rounds):
        for name in steps if number % 2 == 0 else reversed(list(steps)):
            settle()
            started = time.perf_counter()
            steps[name]()
            settle()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of values.

    Raises:
        statistics.StatisticsError: There are none.
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the spread of the ratios of two steps in each round, not the ratio of medians."""
    return spread([s / b for s, b in zip(seconds, base, strict=True)])


def comparison(what: str, seconds: Seconds, base: str, **more: Any) -> dict[str, Any]:
    """Return the saved form of steps that took turns.

    These are the seconds of every round, their median, and the ratio to the step `base` as [lower
    quartile, median, upper quartile].
    """
    rows = {
        name: {
            "seconds": rounded(statistics.median(values)),
            "ratio": [rounded(r) for r in ratio(values, seconds[base])],
            "rounds": [rounded(v) for v in values],
        }
        for name, values in seconds.items()
    }
    return {"what": what, "base": base, "rows": rows, **more}


def rounded(value: float) -> float:
    """Round a value to the digits that are saved."""
    return float(f"{value:.{DIGITS}g}")


def table(compared: Mapping[str, Any]) -> str:
    """Return a `comparison` as text for the terminal."""
    lines = [f"{compared['what']} (ratio to {compared['base']}; quartiles)"]
    for name, row in compared["rows"].items():
        low, median, high = row["ratio"]
        lines.append(
            f"  {name:<26}{1000 * row['seconds']:>10.1f} ms{median:>9.3f}x  {low:.3f} to {high:.3f}"
        )
    return "\n".join(lines)


def record(
    benchmark: str, machine: dict[str, Any], setting: dict[str, Any], **results: Any
) -> Record:
    """Return the saved form of a benchmark.

    Args:
        benchmark: Its name.
        machine: The description of code and machine (arguments.machine).
        setting: What it was called with, as plain data: batch, networks, rounds, ..
        results: `comparisons`, a list of `comparison`, and whatever else was measured.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {
        "benchmark": benchmark,
        "date": date,
        "machine": machine,
        "setting": setting,
        **results,
    }


def save(kept: Record, folder: Path | None = None) -> Path:
    """Write a record to BENCHMARK-KIND.json, where KIND is that of the device."""
    folder = folder or RESULTS
    path = folder / f"{kept['benchmark']}-{kept['machine']['kind']}.json"
    write_user_file(path, json.dumps(kept, indent=1, sort_keys=False, allow_nan=False) + "\n")
    return path


def read(benchmark: str, folder: Path | None = None) -> list[Record]:
    """Return the saved records of a benchmark, one per kind of device."""
    paths = sorted((folder or RESULTS).glob(f"{benchmark}-*.json"))
    return [json.loads(path.read_text()) for path in paths]
