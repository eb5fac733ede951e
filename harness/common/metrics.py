"""Names of what is measured: one home for the metrics and for the three forms of an accuracy.

A metric is named "PART/NAME" in journals and in MLflow's curves ("validation/accuracy"). What a
cell reports of a metric on the test set has one value per selection rule
(SELECTION_RULES); a table shows the one that its protocol reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

# On the test set: after the last epoch, at the selected epoch, and the best over all epochs, which
# is chosen by looking at the test set and only shows how much that inflates a number.
SELECTION_RULES = ("last", "selected", "best_on_test")
SelectionRule = Literal["last", "selected", "best_on_test"]
SELECTION_RULE_TEXTS: dict[str, str] = {
    "selected": "the epoch with the best validation accuracy",
    "last": "the last epoch",
    "best_on_test": "the best epoch on the test set (a leak, kept for comparison)",
}

VALIDATION_LOSS = "validation/loss"  # mean cross-entropy of a classifier, in nats
LOWEST_LOSS = "the epoch with the lowest validation loss"  # selected, where the protocol says so
EVALUATION_SECONDS = "evaluation_seconds"  # of an epoch's line: what measuring took after it
ACCURACY = "accuracy"  # of the classifier
NCM = "ncm"  # of the nearest class mean, in the two forms below: with centres from ..
NCM_METRICS = {
    "ncm_train_centers": "NCM, centres from train",
    "ncm_eval_centers": "NCM, centres from the evaluated set",
}
NCM_TRAIN, NCM_EVAL = NCM_METRICS

# As it stands in a cell's results -> in MLflow and on the terminal.
TEST_ACCURACY = "test_accuracy"
TEST_NCM = "test_ncm"  # of a stage that ends with embeddings, in the form that its protocol goes by


def selection_rule_text(reported: str, select_by: str = "accuracy") -> str:
    """What a table goes by. select_by: the protocol's."""
    return (
        LOWEST_LOSS
        if (reported, select_by) == ("selected", "loss")
        else SELECTION_RULE_TEXTS[reported]
    )


def ncm_metric(centers: str) -> str:
    """The NCM accuracy that a protocol goes by. centers: its `ncm_centers`."""
    return {"train": NCM_TRAIN, "evaluated": NCM_EVAL}[centers]


def measured_metrics(result: str) -> tuple[str, ...]:
    """The metrics that a stage with this `result` measures."""
    return tuple(NCM_METRICS) if result == NCM else (result,)


def group_metric(group: str) -> str:
    """Accuracy on the test images of a group of classes (harness.data.views.View.groups)."""
    return f"{ACCURACY}_{group}"


def main_metric(result: str, centers: str) -> str:
    """The one metric that stands for a stage. centers: the protocol's `ncm_centers`."""
    return ncm_metric(centers) if result == NCM else result


def metric_name(part: str, name: str) -> str:
    """ "validation/accuracy", as journals and MLflow have it."""
    return f"{part}/{name}"


def logged_name(stage: str, name: str) -> str:
    """`stage2/test_accuracy`, `stage1/ncm_train_centers`, ..: a result in MLflow, whose names may
    have no plus: `kd-vid/test_accuracy`."""
    return metric_name(stage.replace("+", "-"), TEST_ACCURACY if name == ACCURACY else name)


def summary(lines: list[dict[str, Any]], selected_epoch: int) -> dict[str, dict[str, float]]:
    """Each accuracy on the test set in its three forms, from the epoch lines of a journal."""
    results = {}
    prefix = metric_name("test", "")
    for name in sorted({name for line in lines for name in line if name.startswith(prefix)}):
        values = [line[name] for line in lines if name in line]
        results[name.removeprefix(prefix)] = dict(
            zip(
                SELECTION_RULES,
                (values[-1], lines[selected_epoch - 1][name], max(values)),
                strict=True,
            )
        )
    return results


def leak(forms: Any, reported: str) -> Any:
    """How much choosing the epoch on the test set adds to the honest choice: to the selected epoch
    where that is reported, else (also where the test set itself selects) to the last one.

    forms: SELECTION_RULES -> a number, or a column of numbers.
    """
    return forms["best_on_test"] - forms[unbiased_rule(reported)]


def unbiased_rule(reported: str) -> str:
    return "selected" if reported == "selected" else "last"


def latest_value(
    lines: Iterable[Mapping[str, Any]], names: Iterable[str]
) -> tuple[str, float] | None:
    """(name, value) of the first of `names` in the last of the journal's lines that has one."""
    names = list(names)
    found = ((name, line[name]) for line in reversed(list(lines)) for name in names if name in line)
    return next(found, None)
