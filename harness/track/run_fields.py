"""What a tracker shows of a cell, whichever tracker: state, names to filter by, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.common.metrics import NCM, TEST_ACCURACY, TEST_NCM, logged_name
from harness.methods import IMPORTED, get_method, stage_of
from harness.networks import PIXELS
from harness.plan import TEACHER, Plan, TableEntry, role
from harness.store import CellDir

NO_METRICS = ("event", "time", "epoch")  # of a journal's line
BEST_ON_TEST_NOTE = "chosen by looking at the test set: it measures the leak and is no result"


def status_of(directory: CellDir) -> str:
    """In MLflow's words: FINISHED, RUNNING, FAILED or KILLED."""
    if directory.is_done:
        return "FINISHED"
    if directory.is_leased:
        return "RUNNING"
    events = directory.events()
    return "FAILED" if events and events[-1]["event"] == "failed" else "KILLED"


def main_entry(plan: Plan, fingerprint: str) -> TableEntry:
    """The number of the table that a cell's run is named after. Where a plain student is the
    teacher's very training, its run is found as both: by its tags as the student, by `roles` as
    the teacher."""
    entries = plan.entries_of(fingerprint)
    return next((e for e in entries if e.stage != TEACHER), entries[0])


def tags_of(plan: Plan, entry: TableEntry) -> dict[str, str]:
    """To filter and group by."""
    experiment, entries = plan.experiment, plan.entries_of(entry.fingerprint)
    kind, student = plan.cells[entry.fingerprint].kind, entry.student
    if kind != IMPORTED and not stage_of(kind).by_student:
        student = experiment.teacher.label if stage_of(kind).network == TEACHER else PIXELS
    # A cell may be the teacher, or trained on its task, and a student of all its classes, too.
    dimensions: dict[str, int | str] = next((e.dimensions for e in entries if e.task), {})
    return {
        "kind": "cell",
        "stage": entry.stage,
        "roles": ", ".join(sorted({role(e.stage, e.method) for e in entries})),
        "teacher": experiment.teacher.label,
        "student": student,
        "method": entry.method,
        "protocol": experiment.protocol.label,
        "seed": str(entry.seed),
        "result": experiment.protocol.main_metric(plan.cells[entry.fingerprint].metric),
        "best_on_test": BEST_ON_TEST_NOTE,
        **{name: str(value) for name, value in dimensions.items()},
    }


def epoch_metrics(event: Mapping[str, Any]) -> dict[str, float]:
    """Of a journal's line of an epoch."""
    return {name: float(value) for name, value in event.items() if name not in NO_METRICS}


def final_metrics(plan: Plan, fingerprint: str, manifest: Mapping[str, Any]) -> dict[str, float]:
    """The three accuracies of a finished cell, and the one its protocol reports, without suffix.
    The final one of a method, or the teacher's, is `test_accuracy`: that of a number of the table,
    whatever the method."""
    protocol = plan.experiment.protocol
    reported, results = protocol.reported, manifest["results"]
    entries = plan.entries_of(fingerprint)
    metrics: dict[str, float] = {}
    for stage in sorted({e.stage for e in entries}):
        for result, values in results.items():
            name = logged_name(stage, result)
            metrics[name] = values[reported]
            metrics |= {f"{name}_{form}": value for form, value in values.items()}
    result = plan.cells[fingerprint].metric
    shown = results.get(protocol.main_metric(result))
    is_final = any(
        e.stage == TEACHER or e.stage == get_method(e.method).final.name for e in entries
    )
    if shown and (is_final or result == NCM):
        name = TEST_NCM if result == NCM else TEST_ACCURACY
        metrics[name] = round(shown[reported], 4)  # as the tables show it
    return metrics
