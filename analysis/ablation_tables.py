"""What each switch from `protocol: legacy` to `strict` is worth: the tables of `harness ablate`."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.analysis.bundle import RESULTS, Bundle, export, read_bundle
from harness.analysis.bundle_fields import Part
from harness.analysis.readme import DOCS, README, has_markers, replace_between_markers
from harness.analysis.statistics import Estimate, estimate
from harness.analysis.tables.caption import data_said
from harness.analysis.tables.markdown import check_unmixed
from harness.analysis.tables.rows import (
    DASH,
    Row,
    columns_of,
    main_metric,
    percent,
    points,
    rows_of,
    select,
)
from harness.analysis.tables.text import for_terminal, terminal_width
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.experiment.ablation import FIRST, LAST, Step
from harness.experiment.experiment import Experiment
from harness.methods import STAGES
from harness.plan import TEACHER
from harness.run.grid import plan_of

FOLDER = RESULTS / "ablation"
MARKER = "ablation"  # its kind, on a page that shows the tables
SLIM = ("curves", "confusion")  # that the tables do not need
MOST_METHODS = 7  # of one table; more are split
Key = tuple[str, str]  # method, stage


class StepPart(Part):
    """What the first line of a step's bundle says beside a bundle's own fields."""

    switch: str
    before: str
    after: str
    command: str


@dataclass(frozen=True)
class Measured:
    """A step with its numbers."""

    step: StepPart
    bundle: Bundle

    @property
    def label(self) -> str:
        s = self.step
        return f"`{s.switch}`: {s.before} → {s.after}" if s.switch else f"`{FIRST}`"

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """Of each stage the number that the step's protocol goes by."""
        mains = {main_metric(self.bundle, stage.metric) for stage in STAGES.values()}
        return {(r.method, r.stage): r for r in rows_of(self.bundle) if r.result in mains}

    def by_seed(self, key: Key) -> dict[int, float]:
        """Seed -> the reported accuracy, its mean over students and tasks."""
        values: dict[int, list[float]] = {}
        for number in self._numbers(key):
            values.setdefault(number["seed"], []).append(number[self.bundle.reported])
        return {seed: math.fsum(v) / len(v) for seed, v in values.items()}

    def cells(self, key: Key) -> set[str]:
        return {number["fingerprint"] for number in self._numbers(key)}

    def _numbers(self, key: Key) -> Iterator[dict[str, Any]]:
        for column in columns_of(self.bundle):
            yield from select(self.bundle, self.rows[key], column)


def text_of(
    steps: Sequence[Step], experiments: Sequence[Experiment], store: Path, file: Path
) -> str:
    """A bundle a step, one after the other, without what the tables do not need.

    Raises:
        UserError: cells are not finished.
    """
    lines = []
    command = _command(steps[0], file)
    for step, experiment in zip(steps, experiments, strict=True):
        text = export(plan_of(experiment), store, file, step.assignments)
        header, *cells = (json.loads(line) for line in text.splitlines())
        names = ("switch", "before", "after")
        header["step"] = {name: getattr(step, name) for name in names} | {"command": command}
        slim = [{k: v for k, v in cell.items() if k not in SLIM} for cell in cells]
        lines += [canonical(line) for line in (header, *slim)]
    return "\n".join(lines) + "\n"


def _command(first: Step, file: Path) -> str:
    """The steps' own assignments are the command's business: name and protocol, the last two."""
    given = [word for a in first.assignments[:-2] for word in ("--set", a)]
    return shlex.join(["harness", "ablate", file.as_posix(), *given])


def read_ablation(path: Path, text: str | None = None) -> list[Measured]:
    """The steps in a file, or in `text` that is about to become that file.

    Raises:
        UserError: it is no ablation.
    """
    try:
        lines = (path.read_text(encoding="utf-8") if text is None else text).splitlines()
        starts = [n for n, line in enumerate(lines) if "bundle" in json.loads(line)]
        sections = [
            lines[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)
        ]
        found = [
            Measured(
                StepPart.model_validate(json.loads(section[0])["step"]),
                read_bundle(path, "\n".join(section) + "\n"),
            )
            for section in sections
        ]
        if len(found) < 2 or starts[0] != 0:
            raise ValueError("has no steps")
    except (ValueError, KeyError, TypeError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not an ablation of this version ({problem}); write it again with "
            "`harness ablate FILE`"
        ) from None
    return found


def worth(before: Measured, after: Measured, key: Key) -> Estimate | None:
    """How much more accuracy `before` reports than `after`: of each seed, the mean difference of
    its students; None where both are the very same cells."""
    if before.cells(key) == after.cells(key):
        return None
    first, second = before.by_seed(key), after.by_seed(key)
    return estimate([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def labels_of(measured: Measured) -> dict[Key, str]:
    """What each column is called; a method's result by its name alone."""
    finals = {row.method: row.label for row in measured.rows.values() if row.is_final}
    return {
        key: row.label
        if row.is_final or row.stage == TEACHER
        else f"{finals[row.method]} after stage {row.number}"
        for key, row in measured.rows.items()
    }


def tables(found: Sequence[Measured]) -> str:
    """Both tables in Markdown, with what stands under them."""
    labels = labels_of(found[-1])
    keys, parts = list(labels), []
    for start in range(0, len(keys), MOST_METHODS):
        shown = keys[start : start + MOST_METHODS]
        parts += [_means(found, shown, labels), _worths(found, shown, labels)]
    return "\n\n".join(["\n\n".join(parts), "\n".join(_caption(found)), _answer(found, labels)])


def _means(found: Sequence[Measured], keys: list[Key], labels: dict[Key, str]) -> str:
    lines = [_head("reported, in %, after", keys, labels)]
    for measured in found:
        means = [estimate([*measured.by_seed(key).values()]) for key in keys]
        cells = map(percent, means)
        lines.append(f"| {measured.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _worths(found: Sequence[Measured], keys: list[Key], labels: dict[Key, str]) -> str:
    lines = [_head("worth, in points, of", keys, labels)]
    for before, after in itertools.pairwise(found):
        cells = [points(worth(before, after, key)) for key in keys]
        lines.append(f"| {after.label} | {' | '.join(cells)} |")
    cells = [points(worth(found[0], found[-1], key)) for key in keys]
    lines.append(f"| **{FIRST} - {LAST}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(first: str, keys: list[Key], labels: dict[Key, str]) -> str:
    names = " | ".join(labels[key] for key in keys)
    return f"| {first} | {names} |\n|---|{'---:|' * len(keys)}"


def _caption(found: Sequence[Measured]) -> list[str]:
    whole, experiment = together(found), found[-1].bundle.experiment
    cells = whole.cells
    commits = sorted({commit for cell in cells for commit in cell["commits"]})
    dirty = " with uncommitted changes" if any(cell["dirty"] for cell in cells) else ""
    machine = [
        ", ".join(sorted({cell["device"] for cell in cells})),
        *sorted({name for cell in cells for name in cell["processor"]}),
    ]
    students = ", ".join(dict.fromkeys(column.student for column in columns_of(found[-1].bundle)))
    over = "students" if whole.tasks is None else "students and tasks"
    return [
        "Switches are turned one after the other, each on top of those above it. Reported: test "
        f"accuracy as the step's protocol reports it, mean of a seed's {over} ({students}), then "
        "over seeds, ± half-width of the 95 % t-interval (number of seeds); until `selection` is "
        "turned it is the best epoch on the test set. Worth: what the setting before the arrow "
        "adds to the reported accuracy, paired by seed and student; the interval is over seeds, as "
        f"the students of a seed share its teacher. {DASH}: the switch touches no cell of the "
        "method. After stage 1: the NCM accuracy that the step goes by.",
        f"Data: {data_said(found[-1].bundle)}. "
        f"Seeds: {', '.join(map(str, experiment['seeds']))}. Device: {', '.join(machine)}. "
        f"torch {', '.join(sorted({cell['torch'] for cell in cells}))}. "
        f"Commit: {', '.join(f'`{commit[:12]}`' for commit in commits)}{dirty}.",
        f"Command: `{found[-1].step.command}`",
    ]


def _answer(found: Sequence[Measured], labels: dict[Key, str]) -> str:
    """The last line: what is the leak worth?"""
    finals = [key for key, row in found[-1].rows.items() if row.is_final]
    parts = [f"{labels[key]} {points(worth(found[0], found[-1], key))}" for key in finals]
    return f"What the leak is worth, {FIRST} minus {LAST}, in points: {'; '.join(parts)}."


def together(found: Sequence[Measured]) -> Bundle:
    """The cells of all steps."""
    last = found[-1].bundle
    return replace(last, rows=[row for measured in found for row in measured.bundle.rows])


def page(path: Path, found: Sequence[Measured]) -> str:
    """The page of a stored ablation."""
    title = f"# {path.stem}: from {FIRST} to {LAST}"
    made = f"Made by `harness ablate` and `harness tables` from [{path.name}]({path.name})."
    return "\n\n".join([title, made, tables(found)]) + "\n"


def refreshed(pages: dict[Path, str]) -> dict[Path, str]:
    """The pages of all stored ablations; and where one of `pages` has markers for it, its tables
    are put between them."""
    outputs = {}
    for path in sorted(FOLDER.glob("*.jsonl")):
        found = read_ablation(path)
        outputs[path.with_suffix(".md")] = page(path, found)
        for home, text in pages.items():
            if has_markers(text, path.stem, MARKER):
                pages[home] = replace_between_markers(
                    text, path.stem, tables(found), str(home), MARKER
                )
    return outputs


def report(
    name: str,
    steps: Sequence[Step],
    experiments: Sequence[Experiment],
    store: Path,
    file: Path,
    print_only: bool,
    allow_mixed: bool,
) -> None:
    """Print the tables of an ablation that has been trained and, unless told not to, keep its
    numbers and write its page.

    Raises:
        UserError: the cells come from several devices or commits.
    """
    path = FOLDER / f"{name}.jsonl"
    text = text_of(steps, experiments, store, file)
    found = read_ablation(path, text)
    check_unmixed(together(found), allow_mixed)
    print(for_terminal(tables(found), terminal_width()))
    if print_only:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    homes = [p for p in (README, *sorted(DOCS.glob("*.md"))) if p.exists()]
    pages = {p: p.read_text(encoding="utf-8") for p in homes}
    changed = {**refreshed(pages), **pages}
    for target, content in changed.items():
        if not target.exists() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")
            print(f"written: {target}")
