"""`harness plan`, `status` and `explain`: the cells' states, and why one is not reused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harness.common.canonical_json import differences
from harness.common.columns import print_columns
from harness.common.durations import duration
from harness.data import Dataset, DatasetOptions
from harness.data.decode import size_of
from harness.data.views import apply, join_validation, without_pixels
from harness.execute.scheduler import begin
from harness.experiment.experiment import Experiment
from harness.plan import Plan, make_plan, task_views, trains_on_validation
from harness.run.devices import loading_note
from harness.run.estimate import estimate, measure_plan, start_seconds
from harness.run.networks import check_networks
from harness.run.options import RunOptions
from harness.store import CellDir, Store
from harness.store.cell_files import Damaged, check_identity, read_description
from harness.store.checked import Whole, read_whole, record_whole, signature
from harness.store.predictions import read_predictions_file

MOST_NAMES = 12  # of classes on one line
HEAD = ("cell", "name", "epochs", "state")


def print_plan(experiment: Experiment, options: RunOptions, measure: bool = True) -> Plan:
    """Print every cell with its epochs and state.

    Unless `measure` is False, also print the time and disk that the cells to train will need,
    estimated from a few steps of each kind.

    Returns:
        The plan.

    Raises:
        UserError: Not even one seed fits into the budget, or fewer cells into the GPU's memory.
    """
    from harness.data import load
    from harness.run.grid import within_budget
    from harness.run.session import print_remarks

    options.check()
    dataset = load(experiment.dataset)
    notes = check_networks(experiment, dataset)
    experiment = within_budget(experiment, dataset, options)
    plan, store = make_plan(experiment, dataset), Store(options.store)
    progress = begin(plan, store)
    rows = [HEAD]
    epochs = {True: 0, False: 0}
    for fingerprint, cell in plan.cells.items():
        done, n = progress.state[fingerprint] == "done", cell.epochs
        epochs[done] += n
        name = " = ".join(e.name for e in plan.entries_of(fingerprint))
        rows.append((fingerprint[:12], name, str(n), "done" if done else "to train"))
    print_columns(rows)
    print_data(dataset)
    print_sizes(experiment.dataset, dataset)
    for note in notes:
        print(f"note: {note}")
    print_tasks(experiment, dataset)
    print_remarks(experiment, dataset)
    n_done = progress.count("done")
    print(
        f"{plan.experiment.name}: {len(plan.cells)} cells, {n_done} done, "
        f"{len(plan.cells) - n_done} to train ({epochs[False]} epochs)"
    )
    if measure and n_done < len(plan.cells):
        print_estimate(plan, store, dataset, options)
    return plan


def print_estimate(plan: Plan, store: Store, dataset: Dataset, options: RunOptions) -> None:
    """Print the time and disk that the cells to train will need.

    Raises:
        UserError: The GPU does not hold as many cells as train on it at once.
    """
    slots = options.slots()
    jobs, speeds = len(slots), measure_plan(plan, store, dataset, slots, options)
    per_device = options.cells_per_device(slots)
    if note := loading_note(dataset, options.n_workers, per_device, speeds.device):
        print(f"note: {note}")
    needs = estimate(plan, store, dataset, speeds, options.teacher_cache)
    seconds = needs.wall_seconds(speeds.lanes(slots))
    seconds += start_seconds(len(needs.seconds), jobs, speeds.startup)
    print(
        f"about {duration(seconds)} with {jobs} jobs on {speeds.description}, "
        f"{needs.finished_bytes / 1e6:.0f} MB of weights, "
        f"{needs.teacher_cache_bytes / 1e6:.0f} MB of cached teacher outputs, and up to "
        f"{jobs * needs.peak_bytes / 1e6:.0f} MB of checkpoints while it runs"
    )


def print_data(dataset: Dataset) -> None:
    """Print the numbers of classes and images."""
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in dataset.parts.items())
    print(f"{dataset.name}: {len(dataset.class_names)} classes; {sizes} images")


MOST_FILES = 500  # whose size is looked at


def print_sizes(options: DatasetOptions, dataset: Dataset) -> None:
    """Print the size of the user's own images in files, and of those that a network gets."""
    sizes = [size_of(encoded) for encoded in options.some_images(MOST_FILES)]
    if not sizes:
        return
    height, width = dataset.image_size
    smallest, largest = min(sizes, key=min), max(sizes, key=min)
    texts = dict.fromkeys(f"{w}x{h}" for w, h in (smallest, largest))
    n_enlarged = sum(min(size) < height for size in sizes)
    line = f"files: {' to '.join(texts)} pixels ({len(sizes)} looked at); networks get "
    line += f"{width}x{height}"
    if n_enlarged:
        short = min(map(min, sizes))
        share = "all" if n_enlarged == len(sizes) else f"{100 * n_enlarged / len(sizes):.0f} %"
        line += (
            f": {share} of them are enlarged, which adds nothing but cost, "
            f"{(height / short) ** 2:.3g} times that of dataset.image_size: {short}"
        )
    print(line)


def print_tasks(experiment: Experiment, dataset: Dataset) -> None:
    """Print the data of the teacher and of the first seed's students; nothing without tasks."""
    if experiment.tasks is None:
        return
    whole = without_pixels(dataset)
    views = task_views(experiment, dataset)
    seen = {"teacher": views.teacher()}
    seen |= {
        " ".join(task.words): views.student(task, experiment.seeds[0])
        for task in experiment.tasks.all
    }
    for name, view in seen.items():
        joined = trains_on_validation(experiment.protocol, view)
        part = apply(join_validation(whole) if joined else whole, view)
        names = ", ".join(part.class_names[:MOST_NAMES])
        more = f", .. ({len(part.class_names)})" if len(part.class_names) > MOST_NAMES else ""
        print(f"{name}: {len(part.train):,} training images of {names}{more}")


def print_status(plan: Plan, root: Path, verify: bool = False) -> None:
    """Print every cell with the epochs it has and its state.

    The files of a finished cell that was found whole are read again only if one of them has been
    written to since (`harness.store.checked`).

    Args:
        plan: The plan of the cells.
        root: The store.
        verify: Whether to read and check every file, predictions included.

    Raises:
        Damaged: One of them is damaged; all are printed first.
    """
    store, known, found = Store(root), {} if verify else read_whole(root), dict[str, Whole]()
    rows, damage, n_unchecked = [HEAD], [], 0
    for fingerprint, cell in plan.cells.items():
        directory = store.directory(fingerprint)
        name, files = fingerprint[:16], signature(directory.path)
        whole = known.get(name) if files else None
        try:
            if whole is not None and whole.files == files:
                state, n, is_unchecked = "done", whole.epochs, whole.is_unchecked
            else:
                state, n = _state(directory, verify), len(directory.epochs())
                is_unchecked = bool(directory.unchecked)
                if state == "done" and files:
                    found[name] = Whole(files, n, is_unchecked)
            n_unchecked += is_unchecked
            state, epochs = state + ", unchecked" * is_unchecked, str(n)
        except Damaged as error:
            damage.append(error)
            state, epochs = f"damaged: {error.path.name} {error.what}", "?"
        row = fingerprint[:12], plan.name_of(fingerprint), f"{epochs}/{cell.epochs}", state
        rows.append(row)
    print_columns(rows)
    if found:
        record_whole(root, read_whole(root) | found)
    if n_unchecked:
        print(
            f"{n_unchecked} of {len(plan.cells)} cells are unchecked: an earlier version trained "
            "them and wrote no checksums, so damage to their manifest or journal may go unseen"
        )
    if damage:
        raise damage[0]


def _state(directory: CellDir, with_predictions: bool = False) -> str:
    """Return a cell's state, and check all its files; its predictions only on request.

    Raises:
        Damaged: A file is not what was written.
    """
    with contextlib.suppress(FileNotFoundError):
        check_identity(directory / "cell.json")
    if directory.is_done:
        directory.check_model()
        directory.check_epochs()
        if with_predictions:
            read_predictions_file(directory / "predictions.npz")
        return "done"
    if directory.is_leased:
        return "running"
    directory.pause_after  # noqa: B018 (reading it checks it)
    directory.read_checkpoint()
    events = directory.events()
    last = events[-1] if events else {"event": "waiting"}
    if last["event"] == "failed":
        return f"failed: {last['error']}"
    return {"epoch": "stopped", "start": "stopped", "end": "done"}.get(last["event"], last["event"])


def print_explanation(prefix: str, plan: Plan | None, root: Path) -> None:
    """Print a stored cell's description and, given a plan, whether it is used there.

    If it is not, the fields are printed in which the plan's nearest cell differs.

    Raises:
        UserError: No cell, or more than one, has a fingerprint that begins with `prefix`.
    """
    directory = Store(root).find(prefix)
    cell = read_description(directory / "cell.json")
    print(f"{directory.path}: {'done' if directory.is_done else 'not done'}")
    print(json.dumps(cell, indent=1, sort_keys=True))
    if plan is None:
        return
    if any(f.startswith(directory.path.name) for f in plan.cells):
        print(f"{plan.experiment.name} uses this cell as it is.")
        return
    same_kind = [c.as_json() for c in plan.cells.values() if c.kind == cell["kind"]]
    if not same_kind:
        print(f"{plan.experiment.name} has no cell of kind {cell['kind']}.")
        return
    nearest = min((differences(cell, other) for other in same_kind), key=len)
    print(f"stale for {plan.experiment.name}; its nearest cell differs in:")
    for line in nearest:
        print(f"  {line}")
