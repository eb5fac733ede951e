"""The caption of a table: everything a reader needs to get its numbers again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.analysis.bundle import Bundle
from harness.analysis.bundle_fields import Number, TunedPart
from harness.analysis.statistics import FEWEST_SHOWN, sampling_error
from harness.analysis.tables.result_table import Command
from harness.analysis.tables.rows import (
    cell_estimate,
    columns_of,
    is_ncm_before,
    methods_of,
    part_sizes,
    rows_of,
    select,
)
from harness.common.metrics import SELECTION_RULE_TEXTS, selection_rule_text
from harness.common.provenance import UNKNOWN
from harness.experiment.optimizer import Optimizer
from harness.experiment.tasks import ALL, Tasks
from harness.methods import SECTIONS
from harness.methods.base import Section
from harness.plan import TEACHER


def caption(bundle: Bundle) -> list[str]:
    """Return the lines below the whole table; code stands between backticks."""
    settings, made = bundle.settings, made_with(bundle)
    processors = f", {', '.join(made['processor'])}" if made["processor"] else ""
    return [
        *how_to_read(bundle),
        f"Data: {describe_data(bundle)}. "
        f"Protocol: {describe_protocol(bundle)}"
        f"Seeds: {', '.join(map(str, settings.seeds))}. "
        f"Device: {', '.join(made['device'])}{processors}. "
        f"torch {', '.join(made['torch'])}. "
        f"Commit: {describe_commits(bundle)}.",
        *tuning_budget(settings.methods, settings.tuned),
        Command(f"Command: `{bundle.command}`"),
    ]


def short_caption(bundle: Bundle) -> str:
    """Return the line below the final accuracies: what they are, and by which protocol."""
    n = len(bundle.settings.seeds)
    protocol = f"Protocol: {bundle.protocol}, {SELECTION_RULE_TEXTS[bundle.reported]}."
    recipe = describe_recipe(bundle)
    notes = [
        recipe and f"Recipe: {recipe}.",
        describe_upper_bounds(bundle),
        describe_floors(bundle),
    ]
    return " ".join([f"Test accuracy in %, {describe_spread(n)}. {protocol}", *filter(None, notes)])


def describe_spread(n_seeds: int, counted: str = "") -> str:
    """Return a description of a table's numbers: one seed, a mean, or a mean with its interval.

    Args:
        n_seeds: How many seeds a number has.
        counted: Words for the seeds where their number differs between cells, as "seeds".
    """
    over = counted or f"{n_seeds} seeds"
    if n_seeds == 1:
        return "of one seed"
    if n_seeds < FEWEST_SHOWN:
        return f"mean over {over}; an interval needs {FEWEST_SHOWN} seeds"
    return f"mean ± half-width of the 95 % t-interval over {over}"


def describe_bold(claims_follow: bool) -> str:
    """Return the note on bold numbers, which says that they alone decide nothing."""
    return (
        "Bold: the highest mean among the students of a column; "
        + ("the claims below say" if claims_follow else "it does not say")
        + " whether the difference is decided."
    )


def describe_upper_bounds(bundle: Bundle) -> str:
    """Return the note on upper bounds; "" if the bundle has none."""
    if not any(method.is_upper_bound for method in methods_of(bundle)):
        return ""
    return "Upper bound: trained on the teacher's images, too, so it is no student and never bold."


def describe_floors(bundle: Bundle) -> str:
    """Return where NCM accuracies after stage 1 are below those of pixels or initial weights.

    Returns:
        One sentence per floor; "" if nothing is below one.
    """
    rows, columns = rows_of(bundle), columns_of(bundle)
    labels = {m.name: m.label_in(bundle.experiment) for m in methods_of(bundle)}
    floors = {method.name for method in methods_of(bundle) if method.is_floor}
    sentences = []
    for floor in (row for row in rows if row.method in floors):
        below = []
        for row in (row for row in rows if is_ncm_before(bundle, row)):
            pairs = [
                (ours.mean, theirs.mean)
                for column in columns
                if (ours := cell_estimate(bundle, row, column))
                and (theirs := cell_estimate(bundle, floor, column))
            ]
            if n := sum(ours < theirs for ours, theirs in pairs):
                label = f"{labels[row.method]} after stage {row.number}"
                below.append(f"{label} in {n} of {len(pairs)} columns")
        if below:
            sentences.append(f"Below {floor.label}: {', '.join(below)}.")
    return " ".join(sentences)


def how_to_read(bundle: Bundle) -> list[str]:
    """Return the lines that explain a number of the table and its interval."""
    bold, n = describe_bold(bool(bundle.experiment.get("claims"))), len(bundle.settings.seeds)
    at_once = "" if all(row.takes_steps for row in rows_of(bundle)) else ", 0: fitted at once"
    return [
        f"Test accuracy in %, {describe_spread(n, 'seeds (number of seeds)')}; each number links "
        f"to its runs. {bold} "
        f"Epochs: of all stages that lead to a row{at_once}.",
        *filter(None, [describe_upper_bounds(bundle), describe_floors(bundle)]),
        *filter(None, [describe_sampling_error(bundle)]),
        *([f"{describe_tasks(bundle.tasks)} {describe_networks(bundle)}"] if bundle.tasks else []),
    ]


def describe_protocol(bundle: Bundle) -> str:
    """Return the protocol, the reported epoch, and how often classifiers were measured."""
    rule = selection_rule_text(bundle.reported, bundle.settings.protocol.select_by)
    recipe = describe_recipe(bundle)
    texts = f"Recipe: {recipe}. " if recipe else "", describe_determinism(bundle)
    return f"{bundle.protocol}, {rule}. {''.join(texts)}{describe_evaluation(bundle)}"


def describe_recipe(bundle: Bundle) -> str:
    """Return what the common settings add to SGD with milestones, as "training.schedule cosine".

    Then what the students of pairs have of their own, as "training.lr 0.01 for resnet8". Settings
    of single methods stand in their labels and on the pages of their runs.
    """
    texts: list[str] = []
    models: dict[str, type[Section]] = {"optimizer": Optimizer, **SECTIONS}
    for section, model in models.items():
        given, usual = bundle.experiment.get(section, {}), model.model_validate({}).model_dump()
        fields = [f for f in given if f in model.model_fields and f not in usual]
        texts += [f"{section}.{field} {given[field]}" for field in fields if field != "determinism"]
    pairs = zip(bundle.experiment.get("pairs", ()), bundle.pairs, strict=False)
    own = [
        f"{section}.{field} {value} for {student}"
        for pair, (_, student) in pairs
        for section, values in pair.get("settings", {}).items()
        for field, value in values.items()
    ]
    return ", ".join([*texts, *dict.fromkeys(own)])


def made_with(bundle: Bundle) -> dict[str, list[str]]:
    """Return each value of device, processor, threads and torch among the cells.

    Imported cells have neither processor nor threads, and older bundles have none at all.
    """
    cells = [cell.manifest for cell in bundle.cells]
    trained = [cell for cell in cells if cell.epochs > 0]
    return {
        "device": sorted({cell.device for cell in cells}),
        "processor": sorted({name for cell in trained for name in cell.processor}),
        "threads": sorted({n for cell in trained for n in cell.threads}),
        "torch": sorted({cell.torch for cell in cells}),
    }


def describe_commits(bundle: Bundle) -> str:
    """Return the commits that trained the cells, and whether some had uncommitted changes."""
    cells = [cell.manifest for cell in bundle.cells]
    commits = sorted({UNKNOWN if c == "None" else c for cell in cells for c in cell.commits})
    dirty = " with uncommitted changes" if any(cell.dirty for cell in cells) else ""
    return f"{', '.join(f'`{c[:12]}`' for c in commits)}{dirty}"


def describe_sampling_error(bundle: Bundle) -> str:
    """Return the note on what intervals over seeds leave out: the test images and the processor.

    The choice of images is given for the number where it matters most.
    """
    errors = []
    for row in rows_of(bundle):
        for column in columns_of(bundle):
            mean, numbers = cell_estimate(bundle, row, column), select(bundle, row, column)
            if row.is_final and mean:
                n_images = numbers[0].cell.manifest.data.test
                errors.append((sampling_error(mean.mean, n_images), mean.mean, n_images))
    if not errors:
        return ""
    error, accuracy, n_images = max(errors)
    return (
        "An interval says how seeds vary on one processor and these test images: the choice of "
        f"{n_images:,} test images leaves ± {100 * error:.2f} points to {100 * accuracy:.1f} % "
        "(the images are the same for all methods), and another processor or version of torch is "
        "a new draw of each seed."
    )


def describe_tasks(tasks: Tasks) -> str:
    """Return the note on the classes and images of teacher and students in each column."""
    order = {
        "labels": "in the order of their labels",
        "random": f"in a random order (seed {tasks.order_seed})",
    }.get(str(tasks.order), "in the order that the experiment lists")
    n = "all" if tasks.classes is None else str(tasks.classes)
    drawn = "drawn anew for each seed"
    if tasks.shots_seed is not None:
        drawn = f"the same for every seed (drawn by {tasks.shots_seed})"
    drawn = f", {drawn}" if tasks.shots != (ALL,) else ""
    if tasks.new is not None:
        return (
            f"Tasks: the teacher has {n} classes (old), a student these and {tasks.new} more "
            f"(new), {order}. Shots: training images of each old class{drawn}; of the new ones "
            "all. Old and new classes: accuracy on their test images, classified among all classes."
        )
    overlap = ""
    if tasks.overlap != (ALL,):
        overlap = f" Overlap: how many of a student's classes are the teacher's, too (all: {n})."
    return (
        f"Tasks: {n} classes for the teacher and for each student, {order}.{overlap} "
        f"Shots: training images of each class{drawn}; the teacher has all."
    )


def describe_networks(bundle: Bundle) -> str:
    """Return the labels of teacher and students, which columns of tasks need not name."""
    columns = columns_of(bundle)
    students = list(dict.fromkeys(column.networks for column in columns))
    if columns[0].teacher:
        return f"Networks (teacher>student): {', '.join(students)}."
    has_teacher = any(number.stage == TEACHER for number in bundle.numbers)
    teacher = f"teacher {bundle.teacher}, " if has_teacher else ""
    return f"Networks: {teacher}student{'s' * (len(students) > 1)} {', '.join(students)}."


def describe_data(bundle: Bundle) -> str:
    """Return name, number of images and digest of the data; with tasks, of the whole data set."""
    numbers = bundle.numbers
    data = numbers[0].cell.manifest.data
    if bundle.tasks is None:
        return f"{data.name} ({_sizes(numbers)} images, digest `{data.digest[:12]}`)"
    digests = {d for cell in bundle.cells if (d := cell.spec.data.digest) is not None}
    whole = f" (digest `{digests.pop()[:12]}`)" if len(digests) == 1 else ""
    teacher = [number for number in numbers if number.stage == TEACHER]
    students = [number for number in numbers if number.task is not None]
    parts = [f"teacher {_sizes(teacher)}"] if teacher else []
    parts.append(f"students {_sizes(students)}")
    return f"{data.name}{whole}; images: {'; '.join(parts)}"


def _sizes(numbers: list[Number]) -> str:
    return ", ".join(f"{size} {part}" for part, size in part_sizes(numbers).items())


def describe_determinism(bundle: Bundle) -> str:
    """Return a warning if equal seeds need not give equal bits, otherwise nothing."""
    if all(cell.spec.optimizer.get("determinism", "bits") == "bits" for cell in bundle.cells):
        return ""
    return (
        "Trained with `optimizer.determinism: fast`: on a GPU, the same seed gives other last "
        "digits each time. "
    )


def describe_evaluation(bundle: Bundle) -> str:
    """Return how often classifiers were measured, and the share of the time that it took.

    Nothing is said of an evaluation after every epoch, and of times that no cell knows.
    """
    every = bundle.settings.protocol.evaluate_every
    text = ""
    if every > 1:
        text = (
            f"Classifiers were measured every {every} epochs and after the last one: `selected` "
            "and `best_on_test` are chosen among these. "
        )
    cells = [cell.manifest for cell in bundle.cells]
    known = [(c.seconds, c.evaluation_seconds) for c in cells if c.evaluation_seconds is not None]
    training, evaluation = (
        (math.fsum(seconds) for seconds in zip(*known, strict=True)) if known else (0.0, 0.0)
    )
    if training > 0 and evaluation > 0:
        share = f"{100 * training / (training + evaluation):.0f} %"
        of = "" if len(known) == len(cells) else f" (known of {len(known)} of {len(cells)})"
        text += f"Training took {share} of the cells' time{of}, evaluation the rest. "
    return text


def tuning_budget(methods: Sequence[str], tuned: Mapping[str, TunedPart] | None) -> list[str]:
    """Return the number of tuning trials per method; nothing for an untuned experiment."""
    if not tuned:
        return []
    budget = [f"{name} {_trials(part)}" for name, part in tuned.items()]
    budget += [f"{name} none" for name in methods if name not in tuned]
    return [f"Each method with its own settings, tuned on validation; trials: {', '.join(budget)}."]


def _trials(tuned: TunedPart) -> str:
    numbers = sorted({task.trials or 0 for task in tuned.tasks} or {tuned.trials or 0})
    words = " to ".join(str(n or "by hand") for n in dict.fromkeys((numbers[0], numbers[-1])))
    if n := next((part.parameters for part in (tuned, *tuned.tasks) if part.parameters), None):
        words = f"{words} for {n} parameter{'s' * (n > 1)}"
    if not tuned.tasks:
        return words
    n_tasks = len(tuned.tasks)
    joined = " and" if n else " for"
    return f"{words}{joined} {f'each of {n_tasks} tasks' if n_tasks > 1 else 'one task'}"
