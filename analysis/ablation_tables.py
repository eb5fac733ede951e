"""The worth of each switch from `protocol: legacy` to `strict`: the tables of `harness ablate`."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from harness.analysis.bundle import RESULTS, Bundle, check_unmixed, export, read_bundle
from harness.analysis.bundle_fields import Number, Part
from harness.analysis.print_results import print_blocks
from harness.analysis.readme import DOCS, README, has_markers, replace_between_markers
from harness.analysis.statistics import Estimate, estimate
from harness.analysis.tables.caption import describe_commits, describe_data, made_with
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.result_table import (
    DASH,
    Block,
    Cell,
    Command,
    ResultTable,
    captioned,
)
from harness.analysis.tables.rows import (
    Row,
    columns_of,
    main_metric,
    rows_of,
    select,
)
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
    """The step in the first line of its bundle, beside the fields of any bundle."""

    switch: str
    before: str
    after: str
    command: str


@dataclass(frozen=True)
class MeasuredStep:
    """A step with its numbers."""

    step: StepPart
    bundle: Bundle

    @property
    def label(self) -> Cell:
        """The switch that the step turned; the first step has turned none."""
        s = self.step
        note = f": {s.before} → {s.after}" if s.switch else ""
        return Cell(s.switch or FIRST, code=True, note=note)

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """Each stage's number under the metric by which the step's protocol judges it."""
        mains = {main_metric(self.bundle, stage.metric) for stage in STAGES.values()}
        return {(r.method, r.stage): r for r in rows_of(self.bundle) if r.result in mains}

    def by_seed(self, key: Key) -> dict[int, float]:
        """Return seed -> the reported accuracy, averaged over students and tasks."""
        values: dict[int, list[float]] = {}
        for number in self._numbers(key):
            values.setdefault(number.seed, []).append(number.accuracy(self.bundle.reported))
        return {seed: math.fsum(v) / len(v) for seed, v in values.items()}

    def cells(self, key: Key) -> set[str]:
        """Return the fingerprints of the cells behind a stage's number."""
        return {number.cell.fingerprint for number in self._numbers(key)}

    def _numbers(self, key: Key) -> Iterator[Number]:
        for column in columns_of(self.bundle):
            yield from select(self.bundle, self.rows[key], column)


def bundles_text(
    steps: Sequence[Step], experiments: Sequence[Experiment], store: Path, file: Path
) -> str:
    """Return one bundle per step, one after the other, without what the tables do not need.

    Raises:
        UserError: Cells are not finished.
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
    """Return the command without the steps' own assignments: name and protocol, the last two."""
    given = [word for a in first.assignments[:-2] for word in ("--set", a)]
    return shlex.join(["harness", "ablate", file.as_posix(), *given])


def read_ablation(path: Path, text: str | None = None) -> list[MeasuredStep]:
    """Return the steps in a file, or in `text` that is about to become that file.

    Raises:
        UserError: It is no ablation.
    """
    try:
        lines = (path.read_text(encoding="utf-8") if text is None else text).splitlines()
        starts = [n for n, line in enumerate(lines) if "bundle" in json.loads(line)]
        sections = [
            lines[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)
        ]
        measured = [
            MeasuredStep(
                StepPart.model_validate(json.loads(section[0])["step"]),
                read_bundle(path, "\n".join(section) + "\n"),
            )
            for section in sections
        ]
        if len(measured) < 2 or starts[0] != 0:
            raise ValueError("has no steps")
    except (ValueError, KeyError, TypeError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not an ablation of this version ({problem}); write it again with "
            "`harness ablate FILE`"
        ) from None
    return measured


def worth(before: MeasuredStep, after: MeasuredStep, key: Key) -> Estimate | None:
    """Return how much more accuracy `before` reports than `after`, paired by seed.

    A seed's difference is the mean over its students; None if both are the same cells.
    """
    if before.cells(key) == after.cells(key):
        return None
    first, second = before.by_seed(key), after.by_seed(key)
    return estimate([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def labels_of(measured: MeasuredStep) -> dict[Key, str]:
    """Return the columns' headings; a method's result has the method's name alone."""
    finals = {row.method: row.label for row in measured.rows.values() if row.is_final}
    return {
        key: row.label
        if row.is_final or row.stage == TEACHER
        else f"{finals[row.method]} after stage {row.number}"
        for key, row in measured.rows.items()
    }


def ablation_blocks(measured: Sequence[MeasuredStep]) -> list[Block]:
    """Return the accuracies after each step, the worth of each switch, and that of the leak."""
    labels = labels_of(measured[-1])
    keys, tables = list(labels), list[ResultTable]()
    for start in range(0, len(keys), MOST_METHODS):
        part = {key: labels[key] for key in keys[start : start + MOST_METHODS]}
        tables += [_accuracy_table(measured, part), _worth_table(measured, part)]
    return [*captioned(tables, _caption(measured)), _answer(measured, labels)]


def _accuracy_table(measured: Sequence[MeasuredStep], labels: dict[Key, str]) -> ResultTable:
    rows = [
        [step.label, *(Cell.percent(estimate([*step.by_seed(key).values()])) for key in labels)]
        for step in measured
    ]
    return ResultTable(["reported, in %, after", *labels.values()], rows)


def _worth_table(measured: Sequence[MeasuredStep], labels: dict[Key, str]) -> ResultTable:
    rows = [
        [after.label, *(Cell.points(worth(before, after, key)) for key in labels)]
        for before, after in itertools.pairwise(measured)
    ]
    whole = (Cell.points(worth(measured[0], measured[-1], key)) for key in labels)
    rows.append([Cell(f"{FIRST} - {LAST}", bold=True), *whole])
    return ResultTable(["worth, in points, of", *labels.values()], rows)


def _caption(measured: Sequence[MeasuredStep]) -> list[str]:
    whole, experiment = merged(measured), measured[-1].bundle.experiment
    made = made_with(whole)
    machine = [", ".join(made["device"]), *made["processor"]]
    students = ", ".join(
        dict.fromkeys(column.student for column in columns_of(measured[-1].bundle))
    )
    over = "students" if whole.tasks is None else "students and tasks"
    return [
        "Switches are turned one after the other, each on top of those above it. Reported: test "
        "accuracy under the step's protocol, averaged over the "
        f"{over} of a seed ({students}), then over seeds, ± half-width of the 95 % t-interval "
        "(number of seeds); until `selection` is turned, it is the best epoch on the test set. "
        "Worth: what the setting before the arrow adds to the reported accuracy, paired by seed "
        "and student; the interval is over seeds, as the students of a seed share its teacher. "
        f"{DASH}: the switch touches no cell of the method. After stage 1: the NCM accuracy of the "
        "step's protocol.",
        f"Data: {describe_data(measured[-1].bundle)}. "
        f"Seeds: {', '.join(map(str, experiment['seeds']))}. Device: {', '.join(machine)}. "
        f"torch {', '.join(made['torch'])}. Commit: {describe_commits(whole)}.",
        Command(f"Command: `{measured[-1].step.command}`"),
    ]


def _answer(measured: Sequence[MeasuredStep], labels: dict[Key, str]) -> str:
    finals = [key for key, row in measured[-1].rows.items() if row.is_final]
    parts = [
        f"{labels[key]} {Cell.points(worth(measured[0], measured[-1], key)).text}" for key in finals
    ]
    return f"What the leak is worth, {FIRST} minus {LAST}, in points: {'; '.join(parts)}."


def merged(measured: Sequence[MeasuredStep]) -> Bundle:
    """Return one bundle with the cells of all steps."""
    last = measured[-1].bundle
    return replace(last, numbers=[number for step in measured for number in step.bundle.numbers])


def ablation_page(path: Path, measured: Sequence[MeasuredStep]) -> str:
    """Return the page of a stored ablation, as Markdown."""
    title = f"# {path.stem}: from {FIRST} to {LAST}"
    made = f"Made by `harness ablate` and `harness tables` from [{path.name}]({path.name})."
    return markdown([title, made, *ablation_blocks(measured)])


def refresh_pages(pages: dict[Path, str]) -> dict[Path, str]:
    """Return the pages of all stored ablations, and fill their markers in `pages`."""
    outputs = {}
    for path in sorted(FOLDER.glob("*.jsonl")):
        measured = read_ablation(path)
        outputs[path.with_suffix(".md")] = ablation_page(path, measured)
        for home, text in pages.items():
            if has_markers(text, path.stem, MARKER):
                tables = markdown(ablation_blocks(measured))
                pages[home] = replace_between_markers(text, path.stem, tables, str(home), MARKER)
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
    """Print the tables of a trained ablation; unless `print_only`, store its numbers and its page.

    Raises:
        UserError: The cells come from several devices or commits.
    """
    path = FOLDER / f"{name}.jsonl"
    text = bundles_text(steps, experiments, store, file)
    measured = read_ablation(path, text)
    check_unmixed(merged(measured), allow_mixed)
    print_blocks(ablation_blocks(measured))
    if print_only:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    homes = [p for p in (README, *sorted(DOCS.glob("*.md"))) if p.exists()]
    pages = {p: p.read_text(encoding="utf-8") for p in homes}
    changed = {**refresh_pages(pages), **pages}
    for target, content in changed.items():
        if not target.exists() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")
            print(f"written: {target}")
