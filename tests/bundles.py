"""Bundles made up from a real one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.bundle import Bundle, export, read_bundle
from harness.run.grid import plan_of
from harness.spec.file import read

FILE = "experiments/tiny.yaml"
BUNDLE = Path("experiments/results/tiny.jsonl")

Line = dict[str, Any]
Change = Callable[[Line, list[Line]], None]


def exported(folder: Path) -> str:
    """The bundle of the tiny experiment that has finished in `folder`."""
    file = folder / FILE
    return export(plan_of(read(file)), folder / "runs", file, [])


def changed_bundle(text: str, change: Change) -> Bundle:
    """The bundle after `change(header, cells)`."""
    header, *lines = (json.loads(line) for line in text.splitlines())
    change(header, lines)
    return read_bundle(BUNDLE, as_text([header, *lines]))


def as_text(lines: list[Line]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def with_seeds(values: list[float]) -> Change:
    """One seed a value, which is every cell's accuracy."""

    def change(header: Line, lines: list[Line]) -> None:
        originals, lines[:] = list(lines), []
        header["experiment"]["seeds"] = list(range(len(values)))
        for seed, value in enumerate(values):
            for line in json.loads(json.dumps(originals)):
                line["fingerprint"] = f"{seed:04d}" + line["fingerprint"][4:]
                for entry in line["entries"]:
                    entry["seed"] = seed
                for forms in line["manifest"]["results"].values():
                    forms.update(last=value - 0.1, selected=value, best_on_test=value + 0.1)
                lines.append(line)

    return change
