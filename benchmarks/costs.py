"""How costs grow: steps with batch and classes, evaluation with images, planning with cells.

    python benchmarks/costs.py [--device auto|cpu|cuda] [--quick] [--save] [--draw]

A step is one of stage 1 in the harness's loop; its loss is also timed alone, from embeddings that
are ready. The sizes of a sweep take turns. `--draw` measures nothing: it draws
docs/figures/performance/costs.png from what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import frame
from frame import Record, Seconds, Step

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "performance" / "costs.png"
LOSS, STEP, EVALUATION, PLAN = "loss of stage 1", "step of stage 1", "evaluation", "planning"


@dataclass(frozen=True)
class Axis:
    """The quantity over which a sweep goes, and its sizes."""

    name: str
    words: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


AXES = (
    Axis("batch", "images a batch", (32, 64, 128, 256), (4, 8)),
    Axis("classes", "classes", (10, 100, 1000), (2, 4)),
    Axis("images", "images that are evaluated", (250, 500, 1000, 2000), (8, 16)),
    Axis("cells", "cells that are planned", (24, 240, 2400), (24, 48)),
)


def sweep(axis: str, seconds: dict[str, Seconds]) -> dict[str, Any]:
    """Return the saved form of a sweep.

    Its lines consist of [size, lower quartile, median, upper quartile of the seconds].

    Args:
        axis: The name of the axis.
        seconds: what was done -> size as text -> one value per round.
    """
    lines = {
        name: [[int(size), *map(frame.rounded, frame.spread(v))] for size, v in by_size.items()]
        for name, by_size in seconds.items()
    }
    return {"axis": axis, "lines": lines}


def steps_of(axis: str, sizes: tuple[int, ...], case: Any) -> dict[str, dict[str, Step]]:
    """Return the steps of an axis: what is done -> size as text -> a step."""
    if axis == "cells":
        return {PLAN: planning(sizes)}
    if axis == "images":
        return {EVALUATION: {str(n): evaluation(case, n) for n in sizes}}
    cases = {n: replace(case, **{axis: n}) for n in sizes}
    return {
        LOSS: {str(n): loss(c) for n, c in cases.items()},
        STEP: {str(n): training_step(replace(c, images=c.batch)) for n, c in cases.items()},
    }


def loss(case: Any) -> Step:
    """Return the loss of stage 1 alone."""
    from stage1_loss import batch_of, dense, forward_backward

    return partial(
        forward_backward, dense("tuple"), *batch_of(case.classes, case.batch, case.device)
    )


def training_step(case: Any) -> Step:
    """Return a training step of stage 1."""
    from bare_bound import harness_side

    return harness_side(case, "stage1", case.noise())


def evaluation(case: Any, n: int) -> Step:
    """Return an evaluation of n images."""
    from case import images_of

    from harness.train.evaluate import embed_and_classify

    model, images = case.network(case.student), images_of(n, case.classes, case.device)
    return lambda: embed_and_classify(model, images)


def planning(sizes: tuple[int, ...]) -> dict[str, Step]:
    """Return plans of the digits' grid with at least so many cells, by their number as text."""
    from planning import many

    from harness.plan import make_plan

    grids = [many(n) for n in sizes]
    return {str(len(make_plan(*grid).cells)): partial(make_plan, *grid) for grid in grids}


def by_chunk(case: Any, rounds: int, settle: Callable[[], object], n: int) -> dict[str, Any]:
    """Compare evaluations of n images by the number of images per forward pass."""
    import torch
    from case import images_of

    model, images = case.network(case.student).eval(), images_of(n, case.classes, case.device)

    def evaluate(size: int) -> None:
        with torch.no_grad():
            for batch in images.plain(size):
                model.embed_and_classify(batch.x)

    sizes = [n // 2**k for k in range(0, 6, 2)]
    steps: dict[str, Step] = {f"{size} at once": partial(evaluate, size) for size in sizes}
    seconds = frame.alternate(steps, rounds, settle)
    return frame.comparison(f"evaluation of {n} images", seconds, next(iter(steps)))


def measure(
    case: Any, rounds: int, settle: Callable[[], object], quick: bool
) -> list[dict[str, Any]]:
    """Measure every axis."""
    sweeps = []
    for axis in AXES:
        steps = steps_of(axis.name, axis.quick if quick else axis.sizes, case)
        seconds = {name: frame.alternate(s, rounds, settle) for name, s in steps.items()}
        sweeps.append(sweep(axis.name, seconds))
        for name, line in sweeps[-1]["lines"].items():
            points = ", ".join(f"{size}: {1000 * median:.1f} ms" for size, _, median, _ in line)
            print(f"{name} by {axis.words}: {points}", flush=True)
    return sweeps


def draw(kept: list[Record], path: Path) -> None:
    """Draw seconds by size: one panel per axis, one line per task and kind of device."""
    from matplotlib.figure import Figure

    from harness.analysis.figures.base import default_settings, save, write_title
    from harness.analysis.figures.style import SERIES

    names = (LOSS, STEP, EVALUATION, PLAN)
    kinds = [r["machine"]["kind"] for r in kept]
    style = dict(zip([(n, k) for n in names for k in kinds], SERIES, strict=False))
    with default_settings():
        figure = Figure(figsize=(7.2, 6.0), layout="constrained")
        for axes, axis in zip(figure.subplots(2, 2).flat, AXES, strict=True):
            for record in kept:
                kind = record["machine"]["kind"]
                (measured,) = [s for s in record["sweeps"] if s["axis"] == axis.name]
                for name, line in measured["lines"].items():
                    sizes, low, median, high = zip(*line, strict=True)
                    s = style[name, kind]
                    label = f"{name}, {kind}"
                    axes.fill_between(sizes, low, high, color="0.85", linewidth=0)
                    axes.plot(sizes, median, label=label, linestyle=s.line, markersize=5, **s.point)
            axes.set(xscale="log", yscale="log", xlabel=axis.words, ylabel="seconds")
            points = points_of(kept, axis.name)
            ticks = sorted({size for size, *_ in points})
            axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
            axes.set_xticks([], minor=True)
            # Whole powers of ten as plain numbers, so that slopes can be read even with few ticks.
            least = math.floor(math.log10(min(low for _, low, *_ in points)))
            most = math.ceil(math.log10(max(high for *_, high in points)))
            powers = [10.0**n for n in range(least, max(most, least + 1) + 1)]
            axes.set_ylim(powers[0], powers[-1])
            axes.set_yticks(powers, [f"{power:g}" for power in powers])
            axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=1,
                        borderaxespad=0.2)  # fmt: skip
        write_title(figure, "what costs grow with: median and quartiles of seconds")
    save(lambda: figure, path)


def points_of(kept: list[Record], axis: str) -> list[list[float]]:
    """Return the points of all lines of an axis."""
    sweeps = [s for r in kept for s in r["sweeps"] if s["axis"] == axis]
    return [point for s in sweeps for line in s["lines"].values() for point in line]


def main(argv: list[str] | None = None) -> Record | None:
    """Run the benchmark, or draw its figure."""
    from arguments import chosen_device, keep, machine, parser_of, settle_of
    from case import add_case, case_of

    parser = parser_of((__doc__ or "").splitlines()[0], rounds=5)
    parser.add_argument("--draw", action="store_true", help="only draw the saved results")
    add_case(parser)
    arguments = parser.parse_args(argv)
    if arguments.draw:
        if kept := frame.read("costs"):
            draw(kept, FIGURE)
        print(f"drawn: {FIGURE}" if kept else "costs: no results, nothing is drawn")
        return None
    device = chosen_device(arguments)
    case = case_of(arguments, device, steps=1)
    rounds, settle = arguments.rounds, settle_of(device)
    sweeps = measure(case, rounds, settle, arguments.quick)
    chunks = by_chunk(case, rounds, settle, 32 if arguments.quick else 512)
    print(frame.table(chunks))
    setting = {k: v for k, v in case.setting.items() if k != "images"}
    setting["rounds"] = rounds
    result = frame.record("costs", machine(device), setting, sweeps=sweeps, comparisons=[chunks])
    keep(result, arguments)
    return result


if __name__ == "__main__":
    main()
