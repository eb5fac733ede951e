"""Does it reproduce? A finished grid beside the committed numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import BUNDLE, FILE, as_text, exported, made_up, with_seeds
from helpers import one_error_line, snapshot

from harness.analysis.bundle import Bundle
from harness.analysis.reference import FREE, Comparison, compare, different
from harness.analysis.statistics import t_quantile
from harness.analysis.tables.comparisons import comparison_table
from harness.cli import main

SMALL, LARGE = "wrn-10-1", "wrn-10-2"
BASE = [0.90, 0.92, 0.94]
KEYS = [
    (m, s, student) for m, s in (("plain", "student"), ("kd", "kd")) for student in (SMALL, LARGE)
]


def bundle(shift: Any = 0.0, n_seeds: int = 3, **changes: Any) -> Bundle:
    """shift: added to every number, or one a number (4 x 3)."""
    shifts = np.broadcast_to(shift, (4, 3))
    numbers = {
        key: [b + float(s) for b, s in zip(BASE, row, strict=True)][:n_seeds]
        for key, row in zip(KEYS, shifts, strict=True)
    }
    return made_up(numbers, methods=["plain", "kd"], **changes)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.004, (4, 3))


def agreements(found: Comparison) -> list[str]:
    return [c.agreement for c in found.checked]


def test_the_same_numbers() -> None:
    found = compare(bundle(), bundle())
    assert agreements(found) == ["equal"] * 4 and found.reproduces
    assert found.summary == "4 of 4 numbers agree with made-up.jsonl (4 equal to the last digit)"


def test_another_draw_agrees_and_a_shift_does_not() -> None:
    found = compare(bundle(noise()), bundle())
    assert agreements(found) == ["agrees"] * 4 and found.reproduces
    assert found.summary.startswith("4 of 4 numbers agree")
    shifted = noise()
    shifted[3] += 0.05
    found = compare(bundle(shifted), bundle())
    assert agreements(found) == ["agrees"] * 3 + ["differs"] and not found.reproduces
    assert found.summary.startswith("3 of 4 numbers agree")


def test_the_interval_is_pooled_over_a_row_and_holds_for_all() -> None:
    """By numpy: two columns of three seeds give four degrees of freedom; four numbers."""
    shifts = noise()
    found = compare(bundle(shifts), bundle())
    pooled = np.concatenate([row - row.mean() for row in shifts[:2]])
    error = np.sqrt((pooled**2).sum() / 4 / 3)
    first = found.checked[0]
    assert (first.row, first.column) == ("Student", SMALL)
    assert first.difference.mean == pytest.approx(shifts[0].mean())
    assert first.difference.half_width == pytest.approx(t_quantile(4, 1 - 0.05 / 4) * error)


def test_columns_that_are_equal_do_not_narrow_the_interval() -> None:
    """They come from the same processor."""
    shifts = noise()
    both = compare(bundle(shifts), bundle()).checked[0].difference.half_width
    shifts[1] = 0
    found = compare(bundle(shifts), bundle())
    alone = found.checked[0].difference.half_width
    assert agreements(found)[1] == "equal"
    error = shifts[0].std(ddof=1) / np.sqrt(3)
    assert alone == pytest.approx(t_quantile(2, 1 - 0.05 / 4) * error) and alone != both


def test_fewer_seeds() -> None:
    """One seed has no spread of its differences: that of the seeds stands for it."""
    found = compare(bundle(noise(), n_seeds=1), bundle())
    assert agreements(found) == ["agrees"] * 4
    values = [*BASE, *BASE]
    pooled = np.array([values[:3], values[3:]])
    variance = ((pooled - pooled.mean(1, keepdims=True)) ** 2).sum() / 4
    expected = t_quantile(4, 1 - 0.05 / 4) * np.sqrt(variance * (1 + 1 / 3))
    assert found.checked[0].difference.half_width == pytest.approx(expected)
    assert agreements(compare(bundle(0.3, n_seeds=1), bundle())) == ["differs"] * 4
    found = compare(bundle(0.01, n_seeds=1), bundle(n_seeds=1))
    assert agreements(found) == ["one run"] * 4 and found.reproduces
    assert "4 of one run" in found.summary and found.summary.startswith("0 of 4 numbers agree")


def test_only_what_both_have_is_compared() -> None:
    less = made_up({KEYS[0]: BASE}, methods=["plain"], claims=["kd > plain"], description="x")
    assert agreements(compare(less, bundle())) == ["equal"]
    called = [
        made_up({KEYS[0]: BASE}, methods=["plain"], labels={"plain": name}) for name in ("A", "B")
    ]
    assert agreements(compare(*called)) == ["equal"], "whatever a method is called"


def test_other_settings_are_not_compared() -> None:
    found = compare(bundle(training={"epochs": 4}), bundle())
    assert found.checked == [] and found.reproduces
    assert "training.epochs: 10 there, 4 here" in found.summary
    assert different({"kd": {"alpha": 1}, "seeds": [0]}, {"seeds": [1]}) == []
    for name in FREE:  # lists that may be shorter, and what changes no number
        assert different({name: ["a"]}, {name: ["b"]}) == [], name
    assert {"seeds", "students", "claims", "published"} <= FREE
    (said,) = different({"a": {"b": "x" * 99}}, {"a": {"b": [1]}})
    assert said == f"a.b: [1] there, {'x' * 37}... here"


def test_the_table() -> None:
    shifts = noise()
    shifts[0] = 0
    shifts[3] += 0.05
    table = comparison_table(compare(bundle(shifts), bundle()))
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows[0] == ["Student", SMALL, "92.00 ± 4.97 (3)", "92.00 ± 4.97 (3)", "0", "equal"]
    assert rows[3][-1] == "differs" and rows[3][-2].startswith("+")
    assert [row[-1].bold for row in table.rows] == [False, False, False, True]


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def project(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished project, and this process in it."""
    monkeypatch.chdir(finished_copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return finished_copy


def test_a_finished_grid_beside_its_reference(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, whatever comes out; status 1 if a number differs."""
    assert main(["verdicts", FILE]) == 0
    assert f"no reference {BUNDLE} to compare with" in capsys.readouterr().out
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_text(exported(project))
    before = snapshot(project)
    assert main(["verdicts", FILE, "--set", "claims=[kd > plain]"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"6 of 6 numbers agree with {BUNDLE} (6 equal to the last digit)\n")
    assert "By your numbers. Claims: 0 supported, 0 contradicted, 1 undecided" in out
    assert snapshot(project) == before


def test_a_number_that_differs_is_status_1(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three seeds give a mean far from the reference's."""
    header, *lines = (json.loads(line) for line in exported(project).splitlines())
    with_seeds([0.1, 0.11, 0.12])(header, lines)
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_text(as_text([header, *lines]))
    assert main(["verdicts", FILE]) == 1
    assert "differs" in capsys.readouterr().out


def test_without_a_finished_grid_the_reference_speaks(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = exported(project)
    shutil.rmtree(project / "runs")
    assert main(["verdicts", FILE]) == 2
    assert "`harness run experiments/tiny.yaml` first" in one_error_line(capsys.readouterr().err)
    BUNDLE.parent.mkdir(exist_ok=True)
    header, *lines = (json.loads(line) for line in text.splitlines())
    header["experiment"]["claims"] = ["kd > plain"]
    BUNDLE.write_text(as_text([header, *lines]))
    assert main(["verdicts", FILE]) == 0
    out = capsys.readouterr().out
    assert "cells are not finished in runs: of experiments/results/tiny.jsonl alone" in out
    assert "By the reference's numbers. Claims: 0 supported" in out
