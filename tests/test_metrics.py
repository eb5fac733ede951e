"""Names and selection rules of what is measured, in numbers worked out by hand."""

from harness.common import metrics
from harness.common.metrics import (
    latest_value,
    logged_name,
    main_metric,
    measured_metrics,
    selection_rule_text,
    summary,
)


def test_selection_rules() -> None:
    """Selected at epoch 3; after the last epoch that measured it; and the best one anywhere."""
    lines = [
        {"epoch": 1, "loss/ce": 3.0},
        {"epoch": 2, "test/a": 0.9, "test/b": 0.1, "validation/a": 1.0},
        {"epoch": 3, "test/a": 0.5, "test/b": 0.3},
        {"epoch": 4, "test/a": 0.6, "test/b": 0.2},
        {"epoch": 5, "loss/ce": 1.0},
    ]
    assert summary(lines, 3) == {
        "a": {"last": 0.6, "selected": 0.5, "best_on_test": 0.9},
        "b": {"last": 0.2, "selected": 0.3, "best_on_test": 0.3},
    }
    assert summary([{"epoch": 1, "validation/a": 1.0}], 1) == {}


def test_one_metric_stands_for_a_stage() -> None:
    assert measured_metrics("accuracy") == ("accuracy",)
    assert measured_metrics("ncm") == ("ncm_train_centers", "ncm_eval_centers")
    for centers, name in (("train", "ncm_train_centers"), ("evaluated", "ncm_eval_centers")):
        assert main_metric("ncm", centers) == name
        assert main_metric("accuracy", centers) == "accuracy"
    assert logged_name("stage2", "accuracy") == "stage2/test_accuracy"
    assert logged_name("stage1", "ncm_eval_centers") == "stage1/ncm_eval_centers"
    assert set(metrics.SELECTION_RULE_TEXTS) == set(metrics.SELECTION_RULES)
    assert selection_rule_text("selected") == selection_rule_text("selected", "accuracy")
    assert selection_rule_text("selected", "loss") == metrics.LOWEST_LOSS
    assert selection_rule_text("last", "loss") == selection_rule_text("last")


def test_the_latest_value() -> None:
    lines = [{"a": 1.0, "b": 2.0}, {"b": 3.0}, {"c": 4.0}]
    assert latest_value(lines, ["a", "b"]) == ("b", 3.0)
    assert latest_value(lines, ["b", "a"]) == ("b", 3.0)
    assert latest_value(lines, ["a"]) == ("a", 1.0)
    assert latest_value(lines, ["x"]) is None
