"""The leak, and the worth of each switch between two protocols: the tables of `harness ablate`."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from harness.analysis.bundle import RESULTS, Bundle, check_unmixed, read_bundle
from harness.analysis.bundle_fields import Number, Part
from harness.analysis.export import export
from harness.analysis.print_results import print_blocks
from harness.analysis.readme import DOCS, README, has_markers, replace_between_markers
from harness.analysis.statistics import Estimate, estimate
from harness.analysis.tables.caption import describe_commits, describe_data, made_with
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.result_table import DASH, Block, Cell, Command, ResultTable, captioned
from harness.analysis.tables.rows import Row, columns_of, main_metric, rows_of, select
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.common.files import write_user_file
from harness.common.reading import read_user_text
from harness.experiment.ablation import FIRST, FIXED, LAST, Step
from harness.experiment.experiment import Experiment
from harness.experiment.protocol import PRESETS
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
        if s.switch in ("", FIXED):
            return Cell(FIRST, code=True)
        return Cell(s.switch, code=True, note=f": {s.before} → {s.after}")

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """Each stage's number under the metric by which the step's protocol judges it."""
        mains = {main_metric(self.bundle, stage.metric) for stage in STAGES.values()}
        return {(r.method, r.stage): r for r in rows_of(self.bundle) if r.result in mains}

    def by_seed(self, key: Key, of: Callable[[Number], float] | None = None) -> dict[int, float]:
        """Return seed -> the mean over students and tasks of the reported accuracy, or of `of`."""
        values: dict[int, list[float]] = {}
        for number in self._numbers(key):
            value = of(number) if of else number.accuracy(self.bundle.reported)
            values.setdefault(number.seed, []).append(value)
        return {seed: math.fsum(v) / len(v) for seed, v in values.items()}

    def leak(self, key: Key) -> Estimate | None:
        """Return the leak of the step's trainings (`Number.leak`); None if it is 0 in each."""
        return _if_any(self.by_seed(key, Number.leak).values())

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
        lines = (read_user_text(path) if text is None else text).splitlines()
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
        if len(measured) > 1 and measured[1].step.switch == FIXED:
            del measured[0]  # of an older version: it trained on other images
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

    A seed's difference is the mean over its students; None if no seed has one.
    """
    if before.cells(key) == after.cells(key):
        return None
    first, second = before.by_seed(key), after.by_seed(key)
    return _if_any(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys()))


def _if_any(values: Iterable[float]) -> Estimate | None:
    """Return the estimate; None if every value is exactly 0, so that there is nothing to report."""
    values = [*values]
    return estimate(values) if any(values) else None


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
    """Return the accuracies after each step, the worth of each switch, and the leak."""
    labels = labels_of(measured[-1])
    keys, tables = list(labels), list[ResultTable]()
    pairs = [*itertools.pairwise(measured)]
    telling = [(b, a) for b, a in pairs if any(worth(b, a, key) for key in keys)]
    for start in range(0, len(keys), MOST_METHODS):
        part = keys[start : start + MOST_METHODS]
        reported = [
            [step.label, *(Cell.percent(estimate([*step.by_seed(key).values()])) for key in part)]
            for step in (measured[0], *(after for _, after in telling))
        ]
        worths = [
            [after.label, *(Cell.points(worth(before, after, key)) for key in part)]
            for before, after in telling
        ]
        leaks = [
            [Cell(name, code=True), *(Cell.points(step.leak(key)) for key in part)]
            for name, step in ((FIRST, measured[0]), (LAST, measured[-1]))
        ]
        heads = ("reported, in %, after", "worth, in points, of", "leak, in points, under")
        for head, rows in zip(heads, (reported, worths, leaks), strict=True):
            tables.append(ResultTable([head, *(labels[key] for key in part)], rows))
    silent = [after.step.switch for before, after in pairs if (before, after) not in telling]
    return captioned(tables, _caption(measured, silent))


def _caption(measured: Sequence[MeasuredStep], silent: Sequence[str]) -> list[str]:
    whole, experiment = merged(measured), measured[-1].bundle.experiment
    made = made_with(whole)
    machine = [", ".join(made["device"]), *made["processor"]]
    students = ", ".join(
        dict.fromkeys(column.networks for column in columns_of(measured[-1].bundle))
    )
    over = "students" if whole.tasks is None else "students and tasks"
    unlisted = ", ".join(f"`{switch}`" for switch in silent)
    return [
        "Switches are turned one after the other, each on top of those above it. Reported: test "
        "accuracy under the step's protocol, averaged over the "
        f"{over} of a seed ({students}), then over seeds, ± half-width of the 95 % t-interval "
        "(number of seeds); until `selection` is turned, it is the best epoch on the test set. "
        "Worth: what the setting before the arrow adds to the reported accuracy, paired by seed "
        "and student; the interval is over seeds, as the students of a seed share its teacher. "
        "Leak: the best epoch on the test set minus the last epoch of the same trainings, which is "
        f"never negative. {DASH}: exactly 0 for every seed. All steps train on the same images "
        f"(`{FIXED}: {PRESETS[LAST][FIXED]}`). After stage 1: the NCM accuracy of the step's "
        "protocol."
        + (f" Not listed, as they change no number here: {unlisted}." if silent else ""),
        f"Data: {describe_data(measured[-1].bundle)}. "
        f"Seeds: {', '.join(map(str, experiment['seeds']))}. Device: {', '.join(machine)}. "
        f"torch {', '.join(made['torch'])}. Commit: {describe_commits(whole)}.",
        Command(f"Command: `{measured[-1].step.command}`"),
    ]


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
    write_user_file(path, text)
    homes = [p for p in (README, *sorted(DOCS.glob("*.md"))) if p.exists()]
    pages = {p: p.read_text(encoding="utf-8") for p in homes}
    changed = {**refresh_pages(pages), **pages}
    for target, content in changed.items():
        if not target.exists() or target.read_text(encoding="utf-8") != content:
            write_user_file(target, content)
            print(f"written: {target}")
