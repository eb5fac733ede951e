"""What all benchmarks share: steps that take turns, ratios with their spread, and the file they are
kept in. Without torch, so that the page can be checked at once.

A benchmark compares steps, callables by name. They take turns in one process, so that a slower
minute of the machine slows all of them, and what counts is the ratio of two steps of one round.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"
DIGITS = 4  # significant ones of a kept number

Step = Callable[[], object]
Seconds = dict[str, list[float]]  # name of a step -> one value a round
Record = dict[str, Any]  # a file of benchmarks/results


class Spread(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float


def alternate(
    steps: Mapping[str, Step],
    rounds: int,
    settle: Callable[[], object] = lambda: None,
    warm_up: int = 1,
) -> Seconds:
    """Wall-clock seconds of each step in each round.

    Every second round goes backwards, so that none always follows the same other one.

    Args:
        settle: waits until the device has done what it was given; called before each look at the
            clock.
        warm_up: rounds before, which do not count.
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
    """
    Raises:
        statistics.StatisticsError: no value.
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Spread:
    """Of two steps: the spread of the ratios of each round, not the ratio of two medians."""
    return spread([s / b for s, b in zip(seconds, base, strict=True)])


def comparison(what: str, seconds: Seconds, base: str, **more: Any) -> dict[str, Any]:
    """What is kept of steps that took turns: seconds of every round, their median, and the ratio
    to `base` as [lower quartile, median, upper quartile].

    more: what else is to be said of it, as plain data.
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
    return float(f"{value:.{DIGITS}g}")


def table(compared: Mapping[str, Any]) -> str:
    """A `comparison`, for the terminal."""
    lines = [f"{compared['what']} (ratio to {compared['base']}; quartiles)"]
    for name, row in compared["rows"].items():
        low, median, high = row["ratio"]
        lines.append(
            f"  {name:<26}{1000 * row['seconds']:>10.1f} ms{median:>9.3f}x  {low:.3f} to {high:.3f}"
        )
    return "\n".join(lines)


def record(
    benchmark: str, machine: dict[str, Any], setting: dict[str, Any], **found: Any
) -> Record:
    """What is kept of a benchmark.

    Args:
        machine: arguments.machine.
        setting: what it was called with, as plain data: batch, networks, rounds, ..
        found: `comparisons`, a list of `comparison`, and what else was measured.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {
        "benchmark": benchmark,
        "date": date,
        "machine": machine,
        "setting": setting,
        **found,
    }


def save(kept: Record, folder: Path | None = None) -> Path:
    """Write it as BENCHMARK-KIND.json, KIND that of the device."""
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{kept['benchmark']}-{kept['machine']['kind']}.json"
    path.write_text(json.dumps(kept, indent=1, sort_keys=False, allow_nan=False) + "\n")
    return path


def read(benchmark: str, folder: Path | None = None) -> list[Record]:
    """What is kept of a benchmark, one of each kind of device."""
    paths = sorted((folder or RESULTS).glob(f"{benchmark}-*.json"))
    return [json.loads(path.read_text()) for path in paths]
