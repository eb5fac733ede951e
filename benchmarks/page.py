"""docs/performance.md and docs/scaling.md from what is kept of the benchmarks.

    python benchmarks/page.py [--check]

What stands between the lines `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is written from
benchmarks/results; the text around it is by hand. `--check` writes nothing and fails if a page
says something else.
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

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
FIGURE = "figures/performance/costs.png"  # of costs.py, from the page
MISSING = "Not measured yet: `make bench`."
NO_GPU = "No GPU result is kept: never measured on one here."
WORDS = {
    "supervised": "`supervised`: a teacher, a plain student",
    "kd": "`kd`",
    "stage1": "`stage1` of ReFilled",
    "stage2": "`stage2` of ReFilled",
}


def interval(low: float, median: float, high: float) -> str:
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def percent(low: float, median: float, high: float) -> str:
    return f"{100 * median:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def measured_on(kept: Record) -> str:
    """Which machine, code and setting, as a line under a table."""
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
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, aligned, *rows)]


def bare_bound(kept: Record) -> list[str]:
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
    return table(["kind of step", "a step", "ratio to the bare networks"], rows)


def stage1_loss(kept: Record) -> list[str]:
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


def method_steps(kept: Record) -> list[str]:
    (c,) = kept["comparisons"]
    rows = [[f"`{name}`", interval(*row["ratio"])] for name, row in c["rows"].items()]
    return table(["method", f"a step, ratio to `{c['base']}`"], rows)


def grid(kept: Record) -> list[str]:
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
    head = ["code", "wall time", "of it training", "of it evaluation", f"ratio to {c['base']}"]
    lines = table(head, rows)
    if numbers := c.get("numbers"):
        lines += ["", compared_numbers(numbers)]
    return lines


def compared_numbers(numbers: dict[str, int]) -> str:
    alone = f"; {numbers['alone']} cells are of one of them alone" if numbers["alone"] else ""
    shared = numbers["equal"] + numbers["different"]
    if not numbers["different"]:
        return (
            f"All {shared} cells that both have, by fingerprint, have the same results, losses and "
            f"accuracies to the last digit{alone}."
        )
    return f"**{numbers['different']} of the {shared} cells of both differ in a number**{alone}."


def costs(kept: Record) -> list[str]:
    rows = [
        [f"{name}, by {sweep['axis']}", *(f"{int(n):,}: {duration(m)}" for n, _, m, _ in line)]
        for sweep in kept["sweeps"]
        for name, line in sweep["lines"].items()
    ]
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    head = ["cost", "size: seconds", *[""] * (width - 2)]
    return [
        f"![What costs grow with]({FIGURE})",
        "",
        *table(head, rows),
        *(line for c in kept["comparisons"] for line in ("", *chunks(c))),
    ]


def chunks(compared: dict[str, Any]) -> list[str]:
    rows = [
        [name, duration(row["seconds"]), interval(*row["ratio"])]
        for name, row in compared["rows"].items()
    ]
    return table([compared["what"], "takes", f"ratio to {compared['base']}"], rows)


def planning(kept: Record) -> list[str]:
    rows = [[name, duration(v)] for name, v in kept["seconds"].items()]
    rows += [[name, f"{v / 1e6:.0f} MB"] for name, v in kept.get("bytes", {}).items()]
    return table(["what", "takes"], rows)


def executors(kept: Record) -> list[str]:
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
    return table(["executor", "wall time", f"ratio to {c['base']}", "overhead a cell"], rows)


def gpu(folder: Path) -> str:
    found = sorted(path.stem.rpartition("-")[0] for path in folder.glob("*-cuda.json"))
    if not found:
        return NO_GPU
    return f"Measured on a GPU too, as the tables say: {', '.join(found)}."


def of_each_device(name: str, write: Callable[[Record], list[str]], folder: Path) -> str:
    """A table of each kind of device that something is kept of."""
    parts = ["\n".join([*write(kept), "", measured_on(kept)]) for kept in read(name, folder)]
    return "\n\n".join(parts) or MISSING


BLOCKS: dict[str, Callable[[Path], str]] = {
    "tuning": partial(of_each_device, "tuning", grid),
    **{
        write.__name__: partial(of_each_device, write.__name__, write)
        for write in (grid, bare_bound, stage1_loss, method_steps, costs, planning)
    },
    "gpu": gpu,
}
SCALING: dict[str, Callable[[Path], str]] = {
    "executors": partial(of_each_device, "executors", executors)
}
PAGES = {PAGE: BLOCKS, PAGE.with_name("scaling.md"): SCALING}


def filled(text: str, blocks: dict[str, str], where: str) -> str:
    """The page with each block between its markers.

    Raises:
        UserError: a block's two markers do not stand there once, in order; or those of one that
            is not known do.
    """
    known = set(re.findall(r"^<!-- bench:(\w+) -->$", text, re.MULTILINE))
    if unknown := known - blocks.keys():
        raise UserError(f"{where}: no benchmark is called {', '.join(sorted(unknown))}; drop it")
    for name, block in blocks.items():
        text = replace_between_markers(text, name, block, where, kind="bench")
    return text


def main(argv: list[str] | None = None, page: Path | None = None, folder: Path = RESULTS) -> int:
    """1 if `--check` found a difference, 2 for a page without its markers, else 0.

    page: one with the blocks of docs/performance.md, in place of all pages.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    check = parser.parse_args(argv).check
    pages = PAGES if page is None else {page: BLOCKS}
    return max(update(path, blocks, folder, check) for path, blocks in pages.items())


def update(page: Path, writers: dict[str, Callable[[Path], str]], folder: Path, check: bool) -> int:
    """One page; as `main`."""
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
    page.write_text(new, encoding="utf-8")
    print(f"changed: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
