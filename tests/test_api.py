"""`import harness`: results and comparisons as data."""

import math
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats
from helpers import ROOT, run_python

import harness
from harness.analysis.bundle import read_bundle
from harness.analysis.tables.rows import cell_estimate, columns_of, rows_of
from harness.common.errors import UserError
from harness.common.metrics import SELECTION_RULES

DIGITS = ROOT / "experiments/results/digits.jsonl"


def test_importing_it_imports_nothing_else() -> None:
    code = (
        "import harness, sys\n"
        "heavy = {'torch', 'pandas', 'mlflow', 'harness.analysis', 'harness.api'}\n"
        "assert heavy.isdisjoint(sys.modules), sys.modules.keys() & heavy\n"
        "harness.results, harness.compare\n"
        "try: harness.nothing\n"
        "except AttributeError as e: print(e)\n"
    )
    done = run_python(code)
    assert done.stdout.strip() == "module 'harness' has no attribute 'nothing'", done.stderr


def test_the_numbers_of_trained_cells(project: Path) -> None:
    frame = harness.results("experiments/tiny.yaml")
    assert set(frame.label) == {
        "Teacher",
        "Student",
        "KD",
        "ReFilled (tuple) after stage 1: NCM, centres from train",
        "ReFilled (tuple) after stage 1: NCM, centres from the evaluated set",
        "ReFilled (tuple)",
    }
    assert set(frame[frame.final].method) == {"plain", "kd", "refilled"}
    assert len(frame) == 6 and (frame.seed == 0).all() and frame.overlap.isna().all()
    assert frame.cell.str.fullmatch("[0-9a-f]{64}").all() and frame.run.notna().all()
    final = frame[frame.label == "KD"].iloc[0]
    assert final.accuracy == final.selected == final[[*SELECTION_RULES]].selected
    assert (frame.epochs == 2).all() and (frame.seconds > 0).all()


def test_the_committed_numbers_give_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the store, and without the data."""
    monkeypatch.chdir(ROOT)
    frame = harness.results("experiments/digits.yaml", committed=True)
    bundle = read_bundle(DIGITS)
    for row in rows_of(bundle):
        for column in columns_of(bundle):
            own = frame[frame.label == row.label]
            if column.task and row.by_task:
                own = own[own.shots == column.task.shots]
            expected = cell_estimate(bundle, row, column)
            assert own.accuracy.mean() == pytest.approx(expected.mean) and len(own) == expected.n
    assert set(frame.shots.map(type)) == {int, type(None)}, "not 5.0 and NaN"


def test_changes_are_other_numbers(project: Path) -> None:
    with pytest.raises(UserError, match="1 of 4 cells are not finished in runs"):
        harness.results("experiments/tiny.yaml", changes=["kd.temperature=9"])
    with pytest.raises(UserError, match=r"tiny\.jsonl: no such bundle"):
        harness.results("experiments/tiny.yaml", committed=True)


# -- comparisons -----------------------------------------------------------------------------------

PLAIN, KD = [0.90, 0.92, 0.91, 0.95], [0.93, 0.93, 0.95, 0.97]


def made(**accuracies: list[float]) -> pd.DataFrame:
    lines = []
    for name, values in accuracies.items():
        method, _, student = name.partition("_")
        for seed, value in enumerate(values):
            line = {"method": method, "stage": method, "seed": seed, "accuracy": value}
            line |= {"final": method != "teacher", "cell": f"{name}{seed}", "overlap": None}
            lines.append(line | {"student": student or "big", "shots": None})
    return pd.DataFrame(lines)


def test_differences_are_paired_by_seed() -> None:
    frame = made(plain_small=PLAIN, kd_small=KD[:3], plain_thin=PLAIN, kd_thin=PLAIN)
    found = harness.compare(frame.sample(frac=1, random_state=0), "kd", "plain").set_index(
        "student"
    )
    small = found.loc["small"]
    expected = scipy.stats.ttest_rel(KD[:3], PLAIN[:3])
    assert small.n == 3 and small.difference == pytest.approx(0.08 / 3)
    assert small.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (small.low, small.high) == pytest.approx((interval.low, interval.high))
    thin = found.loc["thin"]
    assert thin.n == 4 and thin.difference == 0 and math.isnan(thin.p) and math.isnan(thin.low)


def test_the_teacher_stands_beside_every_student() -> None:
    frame = made(teacher=KD, plain_small=PLAIN, plain_thin=PLAIN)
    found = harness.compare(frame, "teacher", "plain")
    assert list(found.student) == ["small", "thin"] and (found.n == 4).all()
    assert found.difference.tolist() == pytest.approx([0.025] * 2)
    imported = made(teacher=[0.99], plain_small=PLAIN)
    (one,) = harness.compare(imported, "plain", "teacher").to_dict("records")
    assert one["n"] == 4 and one["difference"] == pytest.approx(0.92 - 0.99)


def test_a_single_seed_has_no_spread() -> None:
    (one,) = harness.compare(made(kd_s=KD[:1], plain_s=PLAIN[:1]), "kd", "plain").to_dict("records")
    assert one["n"] == 1 and math.isnan(one["p"]) and math.isnan(one["low"])


def test_a_missing_method_is_named() -> None:
    with pytest.raises(UserError, match="no final accuracy of 'kdd'; did you mean 'kd'"):
        harness.compare(made(kd_s=KD, plain_s=PLAIN), "kdd", "plain")
