"""A summary in the form of a published table of other data: ours and the published numbers.

A line is a quantity. Our students have the first columns, the published ones the others; no number
is compared with another one, as everything below the table differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.bundle import Bundle
from harness.analysis.bundle_fields import PaperTablePart
from harness.analysis.tables.accuracy import Link, number_cell
from harness.analysis.tables.caption import (
    describe_bold,
    describe_floors,
    describe_recipe,
    describe_spread,
    describe_upper_bounds,
    made_with,
)
from harness.analysis.tables.result_table import Cell, ResultTable
from harness.analysis.tables.rows import (
    Row,
    best_rows,
    columns_of,
    epochs_of,
    main_metric,
    part_sizes,
    rows_of,
)
from harness.common.metrics import NCM, NCM_METRICS, selection_rule_text
from harness.experiment.claims import Quantity, row_quantity
from harness.experiment.pairs import PAIR
from harness.experiment.published import OF
from harness.experiment.tasks import ALL
from harness.methods import get_method
from harness.methods.base import AT
from harness.networks import FAMILIES
from harness.plan import TEACHER

OURS, THEIRS = "ours", "theirs"  # above a column
UNSTATED = "unstated"


@dataclass(frozen=True)
class _Line:
    """A line of the table: our row and the published one of a quantity, or one of them alone."""

    quantity: Quantity
    ours: Row | None
    published: Mapping[str, str] | None

    def section(self, bundle: Bundle) -> tuple[int, str]:
        """Return the position and the title of the part of the table that the line stands in."""
        stage, metric = self.quantity.stage, self.quantity.metric
        if stage is not None and metric is not None:
            is_main = metric == main_metric(bundle, NCM)
            return (3 * stage if is_main else 3 * stage + 1), (
                f"After stage {stage}: {NCM_METRICS[metric]}"
            )
        if self.ours is not None and not self.ours.takes_steps:
            return 1, "Without training a student"
        method = self.quantity.method
        n = 1 if method == TEACHER else len(get_method(method).stages)
        return (3 * n, f"After stage {n}") if n > 1 else (0, "")

    def label(self, bundle: Bundle) -> str:
        """Return the name of the line."""
        if self.quantity.method == TEACHER:
            return "Teacher"
        return get_method(self.quantity.method).label_in(bundle.experiment)


def paper_form(bundle: Bundle, link: Link) -> ResultTable:
    """Return the table, without its caption.

    Args:
        bundle: Results with published numbers of other data.
        link: Gives the address of the runs behind a number.
    """
    lines, columns = _lines(bundle), columns_of(bundle)
    networks = _networks(bundle, lines)
    corner, heads = _heads(bundle, networks)
    best = {column: best_rows(bundle, column) for column in columns}
    # The teacher of all columns has one network, so it stands once, as in the published table.
    of_teacher = [c for c in columns if c.teacher is None and c.student == bundle.teacher]
    rows: list[list[Cell]] = []
    title = ""
    for line in lines:
        _, section = line.section(bundle)
        if section != title:
            title = section
            rows.append([Cell(title, bold=True), *[Cell("")] * len(heads)])
        row, published = line.ours, line.published or {}
        numbers = []
        for column in columns:
            is_elsewhere = line.quantity.method == TEACHER and column not in of_teacher
            if row is None or (of_teacher and is_elsewhere):
                numbers.append(Cell())
            else:
                numbers.append(number_cell(bundle, row, column, link, row in best[column]))
        theirs = [Cell(published.get(network) or None) for network in networks]
        label = Cell(line.label(bundle), note=_note(bundle, line))
        rows.append([label, *numbers, *theirs])
    return ResultTable([corner, *heads], rows).compact()


def paper_caption(bundle: Bundle, page: str, claims_follow: bool) -> list[str]:
    """Return the one caption of both sides: what a number is, and everything in which they differ.

    Args:
        bundle: Results with published numbers of other data.
        page: The address of the results page.
        claims_follow: Whether claims stand below the table.
    """
    spread = describe_spread(len(bundle.settings.seeds), "seeds")
    pairs = _differences(bundle, _lines(bundle))
    texts = [f"**{name}** {ours} / {theirs}" for name, (ours, theirs) in pairs.items()]
    notes = filter(None, [describe_upper_bounds(bundle), describe_floors(bundle)])
    return [
        f"Test accuracy in %, ours: {spread}; each number of ours links to its runs. Compare the "
        "order of the lines, not the numbers: the two sides differ (ours / theirs). "
        f"{' · '.join(texts)}.",
        " ".join(
            [
                *notes,
                describe_bold(claims_follow),
                f"[All numbers, verdicts and runs]({page}).",
            ]
        ),
    ]


def _paper(bundle: Bundle) -> PaperTablePart:
    """Return the published numbers of a bundle that has them."""
    assert bundle.paper_table is not None
    return bundle.paper_table


def _lines(bundle: Bundle) -> list[_Line]:
    """Return the lines in the order of the table.

    The first source's rows are all shown, those of other sources only beside a row of ours.
    """
    ours: dict[Quantity, Row] = {}
    for row in rows_of(bundle):
        if row.on_teachers:
            continue
        if row.stage == TEACHER or row.is_final:
            ours[_final(bundle, row.method)] = row
        elif row.result in NCM_METRICS:
            ours[Quantity(row.method, row.number, row.result)] = row
    published: dict[Quantity, Mapping[str, str]] = {}
    for values in _paper(bundle).rows:
        quantity = row_quantity(values)
        if quantity is None:
            continue
        if quantity.stage is not None and quantity.metric is None:
            quantity = replace(quantity, metric=main_metric(bundle, NCM))
        if quantity in ours or values["source"] == _paper(bundle).rows[0]["source"]:
            published.setdefault(quantity, values)
    main = main_metric(bundle, NCM)
    lines = [
        _Line(quantity, ours.get(quantity), published.get(quantity))
        for quantity in dict.fromkeys([*ours, *published])
        # The other form of an accuracy after stage 1 is shown only beside a published one.
        if quantity in published or quantity.metric in (None, main)
    ]
    return sorted(lines, key=lambda line: line.section(bundle)[0])


def _final(bundle: Bundle, method: str) -> Quantity:
    """Return the quantity of a method's last accuracy.

    The only form of a method, if it trains for other epochs, stands for the method itself; the
    caption names the epochs.
    """
    base = method.partition(AT)[0]
    forms = [m for m in bundle.settings.methods if m.partition(AT)[0] == base]
    return Quantity(base if len(forms) == 1 else method)


def _networks(bundle: Bundle, lines: Sequence[_Line]) -> list[str]:
    """Return the published networks with a number, in the order of the file."""
    shown = [line.published for line in lines if line.published]
    return [name for name in _paper(bundle).networks if any(row.get(name) for row in shown)]


def _heads(bundle: Bundle, networks: Sequence[str]) -> tuple[str, list[str]]:
    """Return the heading of the lines and of each number: "(depth, width)", "ours (16,2)", ..

    Networks of several families, or without numbers, have their whole label.
    """
    labels = [(OURS, column.networks) for column in columns_of(bundle)]
    labels += [(THEIRS, network) for network in networks]
    families = {label.partition("-")[0] for _, label in labels}
    plain = all("-" in label and PAIR not in label for _, label in labels)
    if len(families) > 1 or not plain:
        return "", [f"{side} {label}" for side, label in labels]
    sizes = [(side, label.split("-")[1:]) for side, label in labels]
    corner = FAMILIES[bundle.experiment["students"][0]["network"]].size
    return corner, [
        f"{side} ({','.join(size)})" if len(size) > 1 else f"{side} {size[0]}"
        for side, size in sizes
    ]


def _note(bundle: Bundle, line: _Line) -> str:
    """Return what a published row is called there, if it has another name or another source."""
    if line.published is None:
        return ""
    name, source = line.published["row"], line.published["source"]
    note = f', "{name}"' if name.casefold() != line.label(bundle).casefold() else ""
    if source != _paper(bundle).rows[0]["source"]:
        note += f", published by {source}"
    return note


def _differences(bundle: Bundle, lines: Sequence[_Line]) -> dict[str, tuple[str, str]]:
    """Return everything in which the two sides may differ: name -> (ours, theirs)."""
    finals = [line for line in lines if line.quantity.stage is None]
    rows = [line.published for line in finals if line.published]

    def theirs(field: str) -> str:
        return _grouped((row.get(field) or UNSTATED, row["row"]) for row in rows)

    settings, tasks, paper = bundle.settings, bundle.tasks, _paper(bundle)
    made = made_with(bundle)
    of_teachers = [row for row in rows if row.get(OF) == TEACHER]
    teachers = [name for row in of_teachers for name in paper.networks if row.get(name)]
    ours = [column.teacher or bundle.teacher for column in columns_of(bundle)]
    epochs = _grouped(
        (epochs_of(bundle, line.ours), line.label(bundle))
        for line in finals
        if line.ours and line.ours.takes_steps
    )
    n_classes = tasks.classes if tasks else None
    return {
        "source": ("this project", theirs("source")),
        "data set": (bundle.numbers[0].cell.manifest.data.name, theirs("dataset")),
        "classes": (str(n_classes or paper.classes), theirs("classes")),
        "image size": ("x".join(map(str, paper.image_size)), theirs("image_size")),
        "training images": (_training_images(bundle), theirs("train")),
        "teacher": (
            ", ".join(dict.fromkeys(ours)),
            ", ".join(dict.fromkeys(name.partition(PAIR)[0] for name in teachers)) or UNSTATED,
        ),
        "epochs": (epochs, theirs("epochs")),
        **({"recipe": (recipe, UNSTATED)} if (recipe := describe_recipe(bundle)) else {}),
        "seeds": (str(len(settings.seeds)), theirs("seeds")),
        "accuracy of": (
            selection_rule_text(bundle.reported, settings.protocol.select_by),
            theirs("protocol"),
        ),
        "device": (", ".join((*made["device"], *made["processor"])), theirs("device")),
    }


def _training_images(bundle: Bundle) -> str:
    """Return how many images the teacher and the students train on."""
    n_teacher, n_students = (
        part_sizes([n for n in bundle.numbers if (n.stage == TEACHER) == is_teacher])["train"]
        for is_teacher in (True, False)
    )
    shots = {task.shots for column in columns_of(bundle) if (task := column.task)} - {ALL}
    per_class = f" ({shots.pop()} per class)" if shots else ""
    if n_teacher == n_students:
        return n_teacher
    return f"{n_teacher} for the teacher, {n_students}{per_class} for students"


def _grouped(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the value that all have, or each value with the names of those that have it."""
    names: dict[str, dict[str, None]] = {}
    for value, name in pairs:
        names.setdefault(value, {})[name] = None
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{_listed([*those])} {value}" for value, those in names.items())


def _listed(names: Sequence[str]) -> str:
    """Return "A", "A and B" or "A, B and C"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
