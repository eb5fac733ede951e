"""The names of what is measured, and the selection rules.

A metric is named "PART/NAME" in journals and in MLflow's curves ("validation/accuracy"). A cell
reports each metric on the test set once per selection rule (SELECTION_RULES); a table shows the
one that its protocol reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

# On the test set: after the last epoch, at the selected epoch, and the best over all epochs. The
# last one looks at the test set, and only shows how much that inflates a number.
SELECTION_RULES = ("last", "selected", "best_on_test")
SelectionRule = Literal["last", "selected", "best_on_test"]
SELECTION_RULE_TEXTS: dict[str, str] = {
    "selected": "the epoch with the best validation accuracy",
    "last": "the last epoch",
    "best_on_test": "the best epoch on the test set (a leak, kept for comparison)",
}

VALIDATION_LOSS = "validation/loss"  # mean cross-entropy of a classifier, in nats
LOWEST_LOSS = "the epoch with the lowest validation loss"  # "selected", with select_by: loss
EVALUATION_SECONDS = "evaluation_seconds"  # the duration of the measurement after an epoch
ACCURACY = "accuracy"  # of the classifier
NCM = "ncm"  # of the nearest class mean, in the two forms below
NCM_METRICS = {
    "ncm_train_centers": "NCM, centres from train",
    "ncm_eval_centers": "NCM, centres from the evaluated set",
}
NCM_TRAIN, NCM_EVAL = NCM_METRICS

# The names in MLflow and on the terminal.
TEST_ACCURACY = "test_accuracy"
TEST_NCM = "test_ncm"  # of a stage that ends with embeddings, in its protocol's form


def selection_rule_text(reported: str, select_by: str = "accuracy") -> str:
    """Return the words for a table's selection rule, one of SELECTION_RULES."""
    return (
        LOWEST_LOSS
        if (reported, select_by) == ("selected", "loss")
        else SELECTION_RULE_TEXTS[reported]
    )


def ncm_metric(centers: str) -> str:
    """Return the NCM metric of a protocol with these `ncm_centers`."""
    return {"train": NCM_TRAIN, "evaluated": NCM_EVAL}[centers]


def measured_metrics(metric: str) -> tuple[str, ...]:
    """Return the metrics that a stage with this `metric` measures."""
    return tuple(NCM_METRICS) if metric == NCM else (metric,)


def group_metric(group: str) -> str:
    """Return the accuracy on the images of a group of classes (harness.data.views.View.groups)."""
    return f"{ACCURACY}_{group}"


def main_metric(metric: str, centers: str) -> str:
    """Return the metric that represents a stage, by the protocol's `ncm_centers`."""
    return ncm_metric(centers) if metric == NCM else metric


def metric_name(part: str, name: str) -> str:
    """Return "validation/accuracy", the name in journals and MLflow."""
    return f"{part}/{name}"


def logged_name(stage: str, name: str) -> str:
    """Return the name of a result in MLflow, such as `stage2/test_accuracy`.

    MLflow's names may not contain a plus, hence `kd-vid/test_accuracy`.
    """
    return metric_name(stage.replace("+", "-"), TEST_ACCURACY if name == ACCURACY else name)


def summary(lines: list[dict[str, Any]], selected_epoch: int) -> dict[str, dict[str, float]]:
    """Return every metric on the test set by each selection rule, from the journal's epochs."""
    results = {}
    prefix = metric_name("test", "")
    for name in sorted({name for line in lines for name in line if name.startswith(prefix)}):
        values = [line[name] for line in lines if name in line]
        by_rule = (values[-1], lines[selected_epoch - 1][name], max(values))
        results[name.removeprefix(prefix)] = dict(zip(SELECTION_RULES, by_rule, strict=True))
    return results


def latest_value(
    lines: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[str, float] | None:
    """Return (name, value) from the last line that has one of `names`; the first name wins."""
    return next(((n, line[n]) for line in reversed(lines) for n in names if n in line), None)
