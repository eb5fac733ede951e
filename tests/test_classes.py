"""Accuracy by class and confusion matrices, computed a second time from the predictions."""

from pathlib import Path

import numpy as np
import pytest
from bundles import TASKS, without_training
from helpers import Output, Patch, wrong

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.print_results import print_classes
from harness.analysis.tables.classes import class_tables, confusion_table
from harness.analysis.tables.pages import CLASSES, results_page
from harness.analysis.tables.rows import columns_of, final_rows
from harness.experiment.file import parse
from harness.plan import Plan
from harness.run.grid import plan_of
from harness.store import Store

FILE = Path("experiments/cross.yaml")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(parse(TASKS | {"tasks": None, "methods": ["plain", "kd"]}))


@pytest.fixture(scope="module")
def store(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose cells have predictions that differ from class to class."""
    root = tmp_path_factory.mktemp("runs")
    without_training(plan, root)
    return root


@pytest.fixture(scope="module")
def bundle(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    text = without_training(plan, tmp_path_factory.mktemp("again"))
    return read_bundle(Path("experiments/results/cross.jsonl"), text)


def predictions(plan: Plan, store: Path, method: str, student: str) -> list[tuple[np.ndarray, ...]]:
    """Return labels and predictions of each seed."""
    found = []
    for entry in plan.entries:
        if (entry.method, entry.student) == (method, student):
            with np.load(Store(store).directory(entry.fingerprint) / "predictions.npz") as file:
                found.append((file["labels"], file["predictions"]))
    return found


def test_every_method_has_its_accuracy_of_each_class(
    plan: Plan, store: Path, bundle: Bundle
) -> None:
    tables = class_tables(bundle)
    assert [table.title for table in tables] == ["wrn-10-1", "wrn-10-2"]
    for table in tables:
        assert table.head == ["class", "images", "Teacher", "Student", "KD"]
        assert [row[0].text for row in table.rows] == [str(k) for k in range(10)]
        for column, method in ((3, "plain"), (4, "kd")):
            runs = predictions(plan, store, method, table.title)
            for k, row in enumerate(table.rows):
                expected = np.mean([(p[y == k] == k).mean() for y, p in runs])
                assert row[column].value == pytest.approx(100 * expected)
                assert row[1].value == (runs[0][0] == k).sum()
    named = class_tables(bundle, [f"digit {k}" for k in range(10)])[0]
    assert named.rows[3][0].text == "digit 3"
    page = results_page(bundle)
    assert f"## {CLASSES}" in page and "| class | images | Teacher | Student | KD |" in page


def test_a_confusion_matrix_is_the_sum_over_seeds(plan: Plan, store: Path, bundle: Bundle) -> None:
    (row,) = (row for row in final_rows(bundle) if row.method == "kd")
    column = columns_of(bundle)[1]
    table = confusion_table(bundle, row, column)
    assert table is not None and table.title == "wrn-10-2"
    expected = np.zeros((10, 10), int)
    for labels, predicted in predictions(plan, store, "kd", "wrn-10-2"):
        np.add.at(expected, (labels, predicted), 1)
    assert [[cell.value for cell in line[1:]] for line in table.rows] == expected.tolist()
    assert (expected != np.diag(np.diag(expected))).any(), "some are wrong"
    bundle.confusions[
        next(iter(bundle.by("method", "student")["kd", "wrn-10-2"])).cell.fingerprint
    ] = None
    assert confusion_table(bundle, row, column) is None


def test_the_command_shows_them_or_writes_csv(
    plan: Plan, store: Path, tmp_path: Path, monkeypatch: Patch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"n{k}" for k in range(10)]
    print_classes(plan, FILE, store, [], names, None, None)
    assert "n7" in capsys.readouterr().out
    print_classes(plan, FILE, store, [], names, "kd", tmp_path / "kd.csv")
    lines = (tmp_path / "kd.csv").read_text().splitlines()
    assert lines[0] == "class," + ",".join(names) and len(lines) == 2 * 11 + 1
    wrong(lambda: print_classes(plan, FILE, store, [], names, "kdd", None), "did you mean 'kd'")
    empty = tmp_path / "empty"
    wrong(lambda: print_classes(plan, FILE, empty, [], names, None, None), "harness run")
