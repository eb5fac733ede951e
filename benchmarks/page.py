"""The blocks of pages in docs/ that show the saved results of the benchmarks.

    python benchmarks/page.py [--check]

The text between the lines `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is written from
benchmarks/results; the text around it is written by hand. `--check` writes nothing and fails if a
page differs.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from frame import RESULTS, Record, read

from harness.analysis.readme import replace_between_markers
from harness.common.errors import UserError
from harness.common.files import write_user_file

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
FIGURE = "figures/performance/costs.png"  # drawn by costs.py; relative to the page
MISSING = "Not measured yet: `make bench`."
NO_GPU = "There are no GPU results: never measured on one here."
WORDS = {
    "supervised": "`supervised`: a teacher, a plain student",
    "kd": "`kd`",
    "stage1": "`stage1` of ReFilled",
    "stage2": "`stage2` of ReFilled",
}


def interval(low: float, median: float, high: float) -> str:
    """Return a median with its quartiles as text."""
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def duration(seconds: float) -> str:
    """Return seconds as text."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def percent(low: float, median: float, high: float) -> str:
    """Return a share with its quartiles as text."""
    return f"{100 * median:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def measured_on(kept: Record) -> str:
    """Return the line under a table: machine, code and setting."""
    m = kept["machine"]
    commit = m["commit"][:7] if m["commit"] else "unknown"
    changed = " and changes that were not committed" if m["dirty"] else ""
    setting = ", ".join(
        f"{k} {' '.join(v) if isinstance(v, list) else v}"
        for k, v in kept["setting"].items()
        if v != []
    )
    return (
        f"{kept['date']}, {m['device']}, {m['processor']}, {m['threads']} threads, "
        f"torch {m['torch']}, commit {commit}{changed}; {setting}."
    )


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, aligned, *rows)]


def bare_bound(kept: Record) -> list[str]:
    """Return the table of bare_bound.py."""
    rows = [
        [
            WORDS.get(c["what"], c["what"]) if len(c["rows"]) == 2 else f"{c['what']}, {name}",
            duration(row["seconds"] / kept["setting"]["steps"]),
            interval(*row["ratio"]),
        ]
        for c in kept["comparisons"]
        for name, row in c["rows"].items()
        if name != c["base"]
    ]
    return table(["kind of step", "per step", "ratio to the bare networks"], rows)


def stage1_loss(kept: Record) -> list[str]:
    """Return the table of stage1_loss.py."""
    rows = [
        [
            c["what"],
            f"{c['mined']:,}",
            *(duration(row["seconds"]) for row in c["rows"].values()),
            interval(*next(r["ratio"] for n, r in c["rows"].items() if n != c["base"])),
        ]
        for c in kept["comparisons"]
    ]
    names = list(kept["comparisons"][0]["rows"])
    return table(["relation", "mined", *names, "ratio"], rows)


def peers(kept: Record) -> list[str]:
    """Return the table of peers.py."""
    rows = [
        [c["what"], name, duration(row["seconds"]), interval(*row["ratio"])]
        for c in kept["comparisons"]
        for name, row in c["rows"].items()
    ]
    return table(["method", "code", "per epoch", "ratio to a cell"], rows)


def method_steps(kept: Record) -> list[str]:
    """Return the table of method_steps.py."""
    (c,) = kept["comparisons"]
    rows = [[f"`{name}`", interval(*row["ratio"])] for name, row in c["rows"].items()]
    return table(["method", f"step, ratio to `{c['base']}`"], rows)


def grid(kept: Record) -> list[str]:
    """Return the table of grid.py."""
    (c,) = kept["comparisons"]
    rows = [
        [
            name,
            duration(row["seconds"]),
            *(
                percent(*c["shares"][name][part]) if part in c["shares"][name] else "–"
                for part in ("training", "evaluation")
            ),
            interval(*row["ratio"]),
        ]
        for name, row in c["rows"].items()
    ]
    head = ["code", "wall time", "training", "evaluation", f"ratio to {c['base']}"]
    lines = table(head, rows)
    if numbers := c.get("numbers"):
        lines += ["", compared_numbers(numbers)]
    return lines


def compared_numbers(numbers: dict[str, int]) -> str:
    """Return the sentence that compares the cells of two commits."""
    alone = f"; {numbers['alone']} cells are in one of them only" if numbers["alone"] else ""
    shared = numbers["equal"] + numbers["different"]
    if not numbers["different"]:
        return (
            f"All {shared} cells that both have, by fingerprint, have the same results, losses and "
            f"accuracies to the last digit{alone}."
        )
    return f"**{numbers['different']} of the {shared} cells of both differ in a number**{alone}."


def costs(kept: Record) -> list[str]:
    """Return the figure and the tables of costs.py."""
    rows = [
        [f"{name}, by {sweep['axis']}", *(f"{int(n):,}: {duration(m)}" for n, _, m, _ in line)]
        for sweep in kept["sweeps"]
        for name, line in sweep["lines"].items()
    ]
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    head = ["cost", "size: seconds", *[""] * (width - 2)]
    return [
        f"![{alt_of(kept)}]({FIGURE})",
        "",
        f"*{caption_of(kept)}*",
        "",
        *table(head, rows),
        *(line for c in kept["comparisons"] for line in ("", *chunks(c))),
    ]


def alt_of(kept: Record) -> str:
    """Return a description of the figure for readers who cannot see it."""
    lines = [f"{name} by {sweep['axis']}" for sweep in kept["sweeps"] for name in sweep["lines"]]
    return f"Line charts on logarithmic axes of the seconds that each takes: {', '.join(lines)}"


def caption_of(kept: Record) -> str:
    """Return the figure's caption: its marks, and what does not vary."""
    setting = kept["setting"]
    return (
        f"Lines: medians; grey: quartiles. Batch {setting['batch']} and {setting['classes']} "
        f"classes where they do not vary, {setting['student']} taught by {setting['teacher']}."
    )


def chunks(compared: dict[str, Any]) -> list[str]:
    """Return the table of evaluations by chunk size."""
    rows = [
        [name, duration(row["seconds"]), interval(*row["ratio"])]
        for name, row in compared["rows"].items()
    ]
    return table([compared["what"], "takes", f"ratio to {compared['base']}"], rows)


def planning(kept: Record) -> list[str]:
    """Return the table of planning.py."""
    rows = [[name, duration(v)] for name, v in kept["seconds"].items()]
    rows += [[name, f"{v / 1e6:.0f} MB"] for name, v in kept.get("bytes", {}).items()]
    return table(["what", "takes"], rows)


def scale(kept: Record) -> list[str]:
    """Return the table of scale.py."""
    rows = [[name, duration(seconds)] for name, seconds in kept["seconds"].items()]
    return table(["what", "user time"], rows)


def executors(kept: Record) -> list[str]:
    """Return the table of executors.py."""
    (c,) = kept["comparisons"]
    rows = [
        [
            name,
            duration(row["seconds"]),
            interval(*row["ratio"]),
            " to ".join(duration(v) for v in c["overhead"][name][::2]),
        ]
        for name, row in c["rows"].items()
    ]
    return table(["executor", "wall time", f"ratio to {c['base']}", "overhead per cell"], rows)


def verdict_rule(kept: Record) -> list[str]:
    """Return the table of verdict_rule.py."""
    rules = list(kept["rows"][0]["wrong"])
    rows = [
        [
            f"{n} seeds, {row['comparisons']} comparison{'s' * (row['comparisons'] > 1)}",
            *(f"{row[name]:.2f}" for name in ("spread", "image_error")),
            *(f"{100 * row['wrong'][rule]:.1f} %" for rule in rules),
            *(f"{100 * row[name]:.0f} %" for name in ("found", "expected")),
        ]
        for row, n in ((row, row["seeds"]) for row in kept["rows"])
    ]
    head = ["experiment", "spread over seeds", "of test images", *(f"wrong: {r}" for r in rules)]
    return table([*head, "found", "expected"], rows)


def grid_power(kept: Record) -> list[str]:
    """Return the table of grid_power.py."""
    rows = [
        [
            f"[{row['experiment']}](../experiments/{row['experiment']})",
            *(str(row[name]) for name in ("seeds", "cells")),
            f"{row['images'] / 1e9:.2f}",
            *(str(row[name] or "–") for name in ("claims", "comparisons")),
            *(
                ("–", "–")
                if row["power"] is None
                else (f"{100 * row['power']:.0f} %", str(row["needed"] or "more than 100"))
            ),
        ]
        for row in kept["rows"]
    ]
    head = ["experiment", "seeds", "cells", "images trained on (10^9)", "primary claims"]
    return table([*head, "comparisons", "least power", "seeds for 80 %"], rows)


def gpu_hours(kept: Record) -> list[str]:
    """Return the table of gpu_hours.py, with single launches and graphs in one row."""
    rows = []
    for single, graphed in zip(kept["rows"][::2], kept["rows"][1::2], strict=True):
        name = single["experiment"]
        rows.append(
            [
                f"[{name}](../experiments/{name}), {single['seeds']} seeds, {single['precision']}",
                *(str(single["kernels"].get(kind, "–")) for kind in WORDS),
                f"{single['hours']:.0f} h",
                f"{graphed['hours']:.0f} h",
                f"{graphed['images_per_hour'] / 1e6:.0f} million",
            ]
        )
    steps = [f"kernels of a step: {kind}" for kind in WORDS]
    head = ["experiment", *steps, "single launches", "graphs", "images an hour"]
    return table(head, rows)


def stage2_crops(kept: Record) -> list[str]:
    """Return the table of stage2_crops.py."""
    rows = []
    for row in kept["rows"]:
        mean, half_width = row["difference"]
        numbers = (f"{row[kind]:.1f}" for kind in kept["kinds"])
        rows.append([row["task"], *numbers, f"{mean:+.2f} ± {half_width:.2f} ({row['seeds']})"])
    return table(["ReFilled (tuple)", *kept["kinds"], "difference in points"], rows)


def gpu(folder: Path) -> str:
    """Return the sentence that names the benchmarks with GPU results."""
    names = sorted(path.stem.rpartition("-")[0] for path in folder.glob("*-cuda.json"))
    if not names:
        return NO_GPU
    return f"Measured on a GPU too, as the tables say: {', '.join(names)}."


def of_each_device(name: str, write: Callable[[Record], list[str]], folder: Path) -> str:
    """Return one table per kind of device with results."""
    parts = ["\n".join([*write(kept), "", measured_on(kept)]) for kept in read(name, folder)]
    return "\n\n".join(parts) or MISSING


BLOCKS: dict[str, Callable[[Path], str]] = {
    "tuning": partial(of_each_device, "tuning", grid),
    **{
        write.__name__: partial(of_each_device, write.__name__, write)
        for write in (
            grid,
            bare_bound,
            stage1_loss,
            peers,
            method_steps,
            costs,
            planning,
            scale,
            verdict_rule,
        )
    },
    "gpu": gpu,
}
SCALING: dict[str, Callable[[Path], str]] = {
    "executors": partial(of_each_device, "executors", executors)
}
DEVIATIONS: dict[str, Callable[[Path], str]] = {
    "stage2_crops": partial(of_each_device, "stage2_crops", stage2_crops)
}
GRIDS: dict[str, Callable[[Path], str]] = {
    "grid_power": partial(of_each_device, "grid_power", grid_power),
    "gpu_hours": partial(of_each_device, "gpu_hours", gpu_hours),
}
PAGES = {
    PAGE.with_name("paper-grids.md"): GRIDS,
    PAGE: BLOCKS,
    PAGE.with_name("scaling.md"): SCALING,
    PAGE.with_name("deviations.md"): DEVIATIONS,
}


def filled(text: str, blocks: dict[str, str], where: str) -> str:
    """Return a page with each block between its markers.

    Raises:
        UserError: The page does not have a block's two markers exactly once and in order, or it
            has markers of an unknown block.
    """
    known = set(re.findall(r"^<!-- bench:(\w+) -->$", text, re.MULTILINE))
    if unknown := known - blocks.keys():
        raise UserError(f"{where}: no benchmark is called {', '.join(sorted(unknown))}; drop it")
    for name, block in blocks.items():
        text = replace_between_markers(text, name, block, where, kind="bench")
    return text


def main(argv: list[str] | None = None, page: Path | None = None, folder: Path = RESULTS) -> int:
    """Write or check the pages.

    Args:
        argv: The arguments; by default those of the process.
        page: A page with the blocks of docs/performance.md, in place of all pages.
        folder: The folder of the results.

    Returns:
        1 if `--check` found a difference, 2 for a page without its markers, else 0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    check = parser.parse_args(argv).check
    pages = PAGES if page is None else {page: BLOCKS}
    return max(update(path, blocks, folder, check) for path, blocks in pages.items())


def update(page: Path, writers: dict[str, Callable[[Path], str]], folder: Path, check: bool) -> int:
    """Write or check one page, and return the status (`main`)."""
    old = page.read_text(encoding="utf-8")
    try:
        blocks = {name: block(folder) for name, block in writers.items()}
        new = filled(old, blocks, str(page))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if new == old:
        print(f"{page.name} matches benchmarks/results")
        return 0
    if check:
        lines = old.splitlines(), new.splitlines()
        diff = difflib.unified_diff(*lines, str(page), "from benchmarks/results", n=0, lineterm="")
        print("\n".join(list(diff)[:40]))
        print(f"{page.name} differs: run `python benchmarks/page.py`")
        return 1
    write_user_file(page, new)
    print(f"changed: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
