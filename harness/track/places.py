"""Places of a grid's runs in MLflow's lists and charts, which load a hundred runs at first."""

from __future__ import annotations

from dataclasses import dataclass

from harness.experiment.tasks import Task
from harness.methods import get_method
from harness.plan import TEACHER, Plan, TableEntry
from harness.track.saved_views import PAGES, PLACE

MOST_RUNS = 100  # that a page of MLflow 3.17 loads by itself


@dataclass(frozen=True)
class CurvesPage:
    """One page of curves.

    Attributes:
        title: What it shows, as "overlap all, shots 5"; "" if it shows the whole grid.
        cells: The fingerprints of its cells.
    """

    title: str
    cells: frozenset[str]


def places(plan: Plan) -> dict[str, str]:
    """Return each cell's place in a list of runs, as text by which MLflow can sort.

    Tasks stay together, with the teacher and other baselines first, and so do a number's seeds. A
    seed that is added at the end of the list moves no other run.
    """
    tasks: dict[Task, int] = {}  # in the order of their first entries, as the others
    methods: dict[str, int] = {}
    numbers: dict[tuple[str, str, str], int] = {}
    seeds = {seed: i for i, seed in enumerate(plan.experiment.seeds)}

    def place(fingerprint: str) -> str:
        entry = plan.entries_of(fingerprint)[0]
        number = entry.method, entry.stage, entry.networks
        ranks = (
            0 if entry.task is None else tasks.setdefault(entry.task, len(tasks) + 1),
            not is_baseline(entry.method),
            methods.setdefault(entry.method, len(methods)),
            numbers.setdefault(number, len(numbers)),
            seeds.get(entry.seed, 0),  # an imported teacher may have another seed
        )
        return " ".join(f"{rank:05d}" for rank in ranks)

    return {fingerprint: place(fingerprint) for fingerprint in plan.cells}


def list_tags(plan: Plan) -> dict[str, dict[str, str]]:
    """Return the tags of each cell's run by which MLflow's lists are sorted and chosen."""
    pages = pages_of_curves(plan)
    return {
        fingerprint: {
            PLACE: place,
            PAGES: "".join(f",{i}," for i, page in enumerate(pages) if fingerprint in page.cells),
        }
        for fingerprint, place in places(plan).items()
    }


def is_baseline(method: str) -> bool:
    """Return whether a method trains no student with a teacher, as the teacher itself."""
    return method == TEACHER or not (get_method(method).needs and takes_steps(method))


def takes_steps(method: str) -> bool:
    """Return whether anything of a method has a curve."""
    return method == TEACHER or any(stage.schedule for stage in get_method(method).stages)


def pages_of_curves(plan: Plan) -> list[CurvesPage]:
    """Return the pages of curves: one per task, or per task and network if those are too many runs.

    If even those are too many, a page has the first seeds alone, and its title says so.
    """
    groups: dict[tuple[str, ...], list[TableEntry]] = {}
    entries = [entry for entry in plan.entries if takes_steps(entry.method)]
    for task in dict.fromkeys(entry.task for entry in entries if entry.task) or [None]:
        of_task = [entry for entry in entries if entry.task in (task, None)]
        words = tuple(task.words) if task else ()
        if len({entry.fingerprint for entry in of_task}) <= MOST_RUNS:
            groups[words] = of_task
            continue
        teachers = [entry for entry in of_task if entry.method == TEACHER]
        students = [entry for entry in of_task if entry.method != TEACHER]
        for network in dict.fromkeys(entry.networks for entry in students):
            groups[(*words, network)] = teachers + [e for e in students if e.networks == network]
    return [_page(list(words), of_page, plan) for words, of_page in groups.items()]


def _page(words: list[str], entries: list[TableEntry], plan: Plan) -> CurvesPage:
    cells = {entry.fingerprint for entry in entries}
    seeds = list(plan.experiment.seeds)
    while len(cells) > MOST_RUNS and len(seeds) > 1:
        seeds.pop()
        cells = {entry.fingerprint for entry in entries if entry.seed in seeds}
    if len(seeds) < len(plan.experiment.seeds):
        words = [*words, f"{len(seeds)} of {len(plan.experiment.seeds)} seeds"]
    return CurvesPage(", ".join(words), frozenset(cells))
