"""The fields of a run that every tracker shows: status, names to filter by, numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.common.metrics import NCM, TEST_ACCURACY, TEST_NCM, logged_name
from harness.methods import IMPORTED, get_method, stage_of
from harness.networks.pixels import PIXELS
from harness.plan import TEACHER, Plan, TableEntry, display_role
from harness.store import CellDir
from harness.store.manifest import Manifest

NO_METRICS = ("event", "time", "epoch")  # fields of a journal's line that are no metrics
BEST_ON_TEST_NOTE = "chosen by looking at the test set: it measures the leak and is no result"


def status_of(directory: CellDir) -> str:
    """Return a cell's status in MLflow's words: FINISHED, RUNNING, FAILED or KILLED."""
    if directory.is_done:
        return "FINISHED"
    if directory.is_leased:
        return "RUNNING"
    events = directory.events()
    return "FAILED" if events and events[-1]["event"] == "failed" else "KILLED"


def end_of(events: Sequence[Mapping[str, Any]]) -> float:
    """Return when a training's last event was, in seconds since 1970.

    If the clock was set back meanwhile, this is its highest time: no run ends before it starts.
    """
    return max(float(event["time"]) for event in events)


def main_entry(plan: Plan, fingerprint: str) -> TableEntry:
    """Return the table entry that a cell's run is named after.

    A cell may be the teacher and a plain student at once. Its tags then name the student, and the
    tag `roles` the teacher, too.
    """
    entries = plan.entries_of(fingerprint)
    return next((e for e in entries if e.stage != TEACHER), entries[0])


def tags_of(plan: Plan, entry: TableEntry) -> dict[str, str]:
    """Return the tags to filter and group runs by.

    With pairs, a run that needs no teacher has no tag `teacher`.
    """
    experiment, entries = plan.experiment, plan.entries_of(entry.fingerprint)
    kind, student = plan.cells[entry.fingerprint].kind, entry.student
    teacher = entry.teacher if experiment.teacher is None else experiment.teacher.label
    if kind != IMPORTED and not stage_of(kind).by_student:
        student = str(teacher) if stage_of(kind).network == TEACHER else PIXELS
    # The teacher's cell may be a student of one of the tasks, too.
    dimensions: dict[str, int | str] = next((e.dimensions for e in entries if e.task), {})
    return {
        "kind": "cell",
        "stage": entry.stage,
        "roles": ", ".join(sorted({display_role(e.stage, e.method) for e in entries})),
        **({"teacher": teacher} if teacher else {}),
        "student": student,
        "method": entry.method,
        "protocol": experiment.protocol_label,
        "seed": str(entry.seed),
        "result": experiment.protocol.main_metric(plan.cells[entry.fingerprint].metric),
        "best_on_test": BEST_ON_TEST_NOTE,
        **{name: str(value) for name, value in dimensions.items()},
    }


def epoch_metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in a journal's line of an epoch."""
    return {name: float(value) for name, value in event.items() if name not in NO_METRICS}


def final_metrics(plan: Plan, fingerprint: str, manifest: Manifest) -> dict[str, float]:
    """Return the final metrics of a finished cell, by name.

    These are the three accuracies of each result, and without suffix the one that the protocol
    reports. `test_accuracy` is the number that the table shows, whatever the method; only the
    teacher and the last stage of a method have it.
    """
    protocol = plan.experiment.protocol
    reported, results = protocol.reported, manifest.results
    entries = plan.entries_of(fingerprint)
    metrics: dict[str, float] = {}
    for stage in sorted({e.stage for e in entries}):
        for result, values in results.items():
            name = logged_name(stage, result)
            metrics[name] = values[reported]
            metrics |= {f"{name}_{form}": value for form, value in values.items()}
    metric = plan.cells[fingerprint].metric
    main = results.get(protocol.main_metric(metric))
    is_final = any(
        e.stage == TEACHER or e.stage == get_method(e.method).final.name for e in entries
    )
    if main and (is_final or metric == NCM):
        name = TEST_NCM if metric == NCM else TEST_ACCURACY
        metrics[name] = round(main[reported], 4)  # as the tables show it
    return metrics
