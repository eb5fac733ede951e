"""Does it reproduce? A finished grid beside the committed numbers."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from bundles import BUNDLE, FILE, as_text, exported, made_up, with_seeds
from helpers import one_error_line, snapshot

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.reference import (
    FREE,
    MARGIN,
    ReferenceCheck,
    compare,
    different,
    other_settings,
)
from harness.analysis.tables.comparisons import comparison_table
from harness.analysis.tables.rows import Row, cell_estimate, columns_of, rows_of, select_all_seeds
from harness.cli import main
from harness.common.exit_status import FAILED, UNCONFIRMED
from harness.common.metrics import SELECTION_RULES

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


def agreements(check: ReferenceCheck) -> list[str]:
    return [c.agreement for c in check.checked]


def test_the_same_numbers() -> None:
    """The baseline in both columns, and KD minus it."""
    check = compare(bundle(), bundle())
    assert agreements(check) == ["equal"] * 4 and check.reproduces
    assert [(c.effect, c.column) for c in check.checked] == [
        (effect, student) for effect in ("Student", "KD - Student") for student in (SMALL, LARGE)
    ]
    assert "4 of 4 effects agree with made-up.jsonl within 1 point (4 equal" in check.summary


def test_a_small_deviation_agrees_a_large_one_differs_and_noise_says_nothing() -> None:
    shifts = noise() / 10
    shifts[2] += 0.05  # KD, small
    check = compare(bundle(shifts), bundle())
    assert agreements(check) == ["agrees", "agrees", "differs", "agrees"]
    assert not check.reproduces and check.summary.startswith("3 of 4 effects agree")
    check = compare(bundle(10 * noise()), bundle())
    assert agreements(check) == ["too noisy"] * 4 and not check.reproduces
    assert check.summary.startswith("0 of 4 effects agree")
    assert agreements(compare(bundle(noise() / 10), bundle(), 0.0001)) == ["too noisy"] * 4
    assert agreements(compare(bundle(10 * noise()), bundle(), 0.5)) == ["agrees"] * 4


def test_an_effect_that_agrees_makes_a_reproduction_and_the_baseline_alone_none() -> None:
    shifts = np.zeros((4, 3))
    shifts[2] = 10 * noise()[2]  # KD, small
    check = compare(bundle(shifts), bundle())
    assert agreements(check)[2:] == ["too noisy", "equal"] and check.reproduces
    shifts[3] = 10 * noise()[3]
    check = compare(bundle(shifts), bundle())
    assert agreements(check) == ["equal"] * 2 + ["too noisy"] * 2 and not check.reproduces


def test_a_deviation_that_all_methods_share_is_none_of_an_effect() -> None:
    shared = np.tile(noise()[0] * 10, (4, 1))
    assert agreements(compare(bundle(shared), bundle()))[2:] == ["equal"] * 2
    shifted = [compare(many_seeds(0, shift), many_seeds(0, 0)) for shift in (0.05, 0.009)]
    assert [agreements(check) for check in shifted] == [["differs", "equal"], ["agrees", "equal"]]


def many_seeds(kd: float, both: float) -> Bundle:
    """Seven seeds of one student, with KD above the plain student by `kd`."""
    plain = [b + both for b in (*BASE, 0.91, 0.95, 0.9, 0.93)]
    numbers = {KEYS[0]: plain, KEYS[2]: [p + kd for p in plain]}
    return made_up(numbers, methods=["plain", "kd"])


def test_the_same_deviation_for_few_seeds_says_nothing_of_others() -> None:
    """Accuracies count whole images, so two seeds often deviate by the same amount by chance."""
    checks = [compare(bundle(shift), bundle()) for shift in (0.009, 0.011)]
    assert [agreements(check)[0] for check in checks] == ["too noisy"] * 2


def test_an_equal_baseline_reveals_what_was_computed_otherwise() -> None:
    """Even a tiny deviation is named: with an equal baseline, only the method can have changed."""
    (changed,) = compare(many_seeds(0.001, 0), many_seeds(0, 0)).changed
    assert changed == "KD - Student"
    assert not compare(many_seeds(0, 0.001), many_seeds(0, 0)).changed, "another machine's digits"
    shifts = np.zeros((4, 3))
    shifts[2:] = 0.001
    one = compare(bundle(shifts, n_seeds=1), bundle())
    assert agreements(one)[0] == "equal" and not one.changed, "by chance"


def test_each_effect_has_a_variance_of_its_own() -> None:
    """By scipy: the deviations of one effect in one column, and what would be seen."""
    shifts = noise()
    checked = compare(bundle(shifts), bundle()).checked[3]
    values = shifts[3] - shifts[1]  # KD - Student, large
    interval = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert checked.deviation.mean == pytest.approx(values.mean())
    assert checked.deviation.half_width == pytest.approx((interval[1] - interval[0]) / 2)
    quantiles = scipy.stats.t.ppf(1 - 0.05 / 2 / 4, 2) + scipy.stats.t.ppf(0.8, 2)
    assert checked.detectable == pytest.approx(quantiles * scipy.stats.sem(values))


def test_the_share_of_last_digits() -> None:
    """Half of the variance over 40 seeds is numerical noise."""
    rng = np.random.default_rng(0)
    seeds = rng.normal(0.9, 0.01, (4, 40))
    sides = []
    for _ in range(2):
        values = seeds + rng.normal(0, 0.01, (4, 40))
        numbers = {key: row.tolist() for key, row in zip(KEYS, values, strict=True)}
        sides.append(made_up(numbers, methods=["plain", "kd"]))
    found = compare(*sides)
    assert found.numerical_noise == pytest.approx(0.5, abs=0.15)
    assert "Numerical noise" in comparison_table(found).caption[0]
    assert (
        compare(sides[0], sides[0]).numerical_noise is None
        and compare(bundle(noise()), bundle()).numerical_noise is None
    )


def test_other_seeds_are_two_independent_means() -> None:
    other = bundle(noise(1))
    other.numbers[:] = [replace(n, seed=n.seed + 10) for n in other.numbers]
    checked = compare(other, bundle(noise(2))).checked[0]
    first, second = (np.array(BASE) + noise(seed)[0] for seed in (1, 2))
    expected = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert checked.deviation.mean == pytest.approx(first.mean() - second.mean())
    assert checked.deviation.half_width == pytest.approx((expected.high - expected.low) / 2)


def test_one_seed_has_the_spread_of_the_others_seeds() -> None:
    assert agreements(compare(bundle(0.01, n_seeds=1), bundle()))[:2] == ["too noisy"] * 2
    assert agreements(compare(bundle(0.5, n_seeds=1), bundle()))[:2] == ["differs"] * 2
    check = compare(bundle(0.5, n_seeds=1), bundle(n_seeds=1))
    assert agreements(check)[:2] == ["too noisy"] * 2
    assert check.checked[0].detectable is None


def test_the_sides_of_claims_are_compared() -> None:
    numbers = {("plain", "student", SMALL): BASE, ("kd", "kd", SMALL): BASE}
    numbers[("dkd", "dkd", SMALL)] = BASE
    ours = made_up(
        numbers,
        methods=["plain", "kd", "dkd"],
        claims=["dkd > plain"],
        secondary_claims=["dkd > kd"],
    )
    assert [c.effect for c in compare(ours, ours).checked] == [
        *("Student", "KD - Student", "DKD - Student", "DKD - KD")
    ]


@pytest.mark.parametrize("name", ["digits", "digits-cross"])
def test_no_row_agrees_in_the_place_of_another(name: str) -> None:
    """This holds in the committed numbers wherever two rows differ by more than the margin."""
    path = Path(__file__).parent.parent / f"experiments/results/{name}.jsonl"
    reference = read_bundle(path)
    rows = [row for row in rows_of(reference) if row.is_final]
    swapped = unseen = 0
    for row, other in itertools.permutations(rows, 2):
        wrong = _with_the_numbers_of(reference, row, other)
        check = compare(wrong, reference)
        checked, before = {(c.effect, c.column): c for c in check.checked}, swapped
        for column in columns_of(reference):
            means = [cell_estimate(reference, r, column) for r in (row, other)]
            if all(means) and abs(means[0].mean - means[1].mean) > MARGIN:  # type: ignore[union-attr]
                ours = [c for (_, part), c in checked.items() if part == column.label]
                assert any(c.agreement in ("differs", "too noisy") for c in ours), (row, other)
                swapped += 1
        if swapped > before:
            unseen += check.reproduces
            assert check.changed or row.label == "Student"
    assert swapped > 50 and unseen <= 10


def _with_the_numbers_of(bundle: Bundle, row: Row, other: Row) -> Bundle:
    """Return the bundle with another row's accuracies in the place of a row's."""
    values = {
        (n.seed, column.label): n.accuracy(bundle.reported)
        for column in columns_of(bundle)
        for n in select_all_seeds(bundle, other, column)
    }
    wrong = {
        id(n): values[n.seed, column.label]
        for column in columns_of(bundle)
        for n in select_all_seeds(bundle, row, column)
        if (n.seed, column.label) in values
    }
    numbers = [
        replace(n, **dict.fromkeys(SELECTION_RULES, wrong[id(n)])) if id(n) in wrong else n
        for n in bundle.numbers
    ]
    return replace(bundle, numbers=numbers)


def test_only_what_both_have_is_compared() -> None:
    less = made_up({KEYS[0]: BASE}, methods=["plain"], claims=["kd > plain"], description="x")
    check = compare(less, bundle())
    assert agreements(check) == ["equal"] and check.reproduces, "there is nothing but the baseline"
    other = compare(made_up({KEYS[0]: BASE}), made_up({KEYS[1]: BASE}))
    assert other.summary.startswith("not compared with made-up.jsonl: it has none of these")
    called = [
        made_up({KEYS[0]: BASE}, methods=["plain"], labels={"plain": name}) for name in ("A", "B")
    ]
    assert agreements(compare(*called)) == ["equal"], "whatever a method is called"


def test_other_settings_are_not_compared() -> None:
    check = compare(bundle(training={"epochs": 4}), bundle())
    assert check.checked == [] and not check.reproduces
    assert "training.epochs: 10 there, 4 here" in check.summary
    assert different({"kd": {"alpha": 1}, "seeds": [0]}, {"seeds": [1]}) == []
    tuned = {"methods": ["kd", "dkd"], "tuned": {"kd": {"settings": {"kd": {"alpha": 0.5}}}}}
    assert different({"methods": ["kd"]}, tuned) == ["tuned.kd: some there, None here"]
    assert different(tuned, {"methods": ["kd"]}) == ["tuned.kd: None there, some here"]
    assert different({"methods": ["dkd"]}, tuned) == [], "of a method that is not here"
    assert different({}, {"tasks": {"shots": [5]}}) == ["tasks: some there, None here"]
    ours, theirs = bundle(), bundle()
    for side, digest in ((ours, "a" * 64), (theirs, "b" * 64)):
        for number in side.numbers:
            number.cell.spec.data.digest = digest
    assert compare(ours, theirs).other_settings == [f"data: {'b' * 12} there, {'a' * 12} here"]
    assert not compare(ours, ours).other_settings and not compare(ours, bundle()).other_settings
    # Published images may come from files of another form, under a label of their own.
    for side, label in ((ours, "tiny"), (theirs, "tiny-32")):
        side.experiment["dataset"] = {"name": "tiny_imagenet", "label": label}
    check = compare(ours, theirs)
    assert check.checked and f"data: {'b' * 12} there, {'a' * 12} here" in check.summary
    assert other_settings(ours, theirs)  # but the two are never one bundle
    for name in FREE - {"pairs"}:  # lists that may be shorter, and what changes no number
        assert different({name: ["a"]}, {name: ["b"]}) == [], name
    assert {"seeds", "students", "claims", "secondary_claims", "published"} <= FREE
    (text,) = different({"a": {"b": "x" * 99}}, {"a": {"b": [1]}})
    assert text == f"a.b: [1] there, {'x' * 37}... here"


def test_the_table() -> None:
    shifts = noise() / 10
    shifts[0] = 0
    shifts[3] += 0.05
    table = comparison_table(compare(bundle(shifts), bundle()))
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows[0] == [
        *("Student", SMALL, "92.00 ± 4.97 (3)", "92.00 ± 4.97 (3)", "0", "–", "equal")
    ]
    assert rows[3][0] == "KD - Student" and rows[3][-1] == "differs"
    assert rows[3][2].startswith("+4.98 ± ") and rows[3][4] == rows[3][2]
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
    """Nothing is written, whatever comes out."""
    assert main(["verdicts", FILE]) == UNCONFIRMED
    assert f"no reference {BUNDLE} to compare with" in capsys.readouterr().out
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_text(exported(project))
    before = snapshot(project)
    assert main(["verdicts", FILE, "--set", "claims=[kd > plain]"]) == 0
    out = capsys.readouterr().out
    assert f"4 of 4 effects agree with {BUNDLE} within 1 point (4 equal to the last digit)" in out
    assert "Teacher - Student" not in out, "they are one cell here"
    assert "1 primary verdicts: 0 confirmed, 0 not confirmed, 0 reversed, 1 open" in out
    assert main(["verdicts", FILE, "--margin", "0"]) == 2
    assert "--margin" in one_error_line(capsys.readouterr().err)
    assert snapshot(project) == before
    rewritten = json.loads(BUNDLE.read_text().splitlines()[0])
    rewritten["experiment"]["training"]["epochs"] += 1
    BUNDLE.write_text(as_text([rewritten, *map(json.loads, BUNDLE.read_text().splitlines()[1:])]))
    assert main(["verdicts", FILE]) == UNCONFIRMED
    assert "made with other settings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seeds", "status", "agreement"),
    [([0.8, 0.81, 0.82], FAILED, "differs"), ([0.2, 0.5, 0.9], UNCONFIRMED, "too noisy")],
)
def test_effects_that_differ_or_are_all_too_noisy(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    seeds: list[float],
    status: int,
    agreement: str,
) -> None:
    """The reference has three seeds, far from ours or far from one another."""
    header, *lines = (json.loads(line) for line in exported(project).splitlines())
    with_seeds(seeds)(header, lines)
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_text(as_text([header, *lines]))
    assert main(["verdicts", FILE]) == status
    assert agreement in capsys.readouterr().out


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
    assert main(["verdicts", FILE]) == UNCONFIRMED
    out = capsys.readouterr().out
    assert "cells are not finished in runs" in out and f"verdicts of {BUNDLE} alone" in out
    assert "Primary claims: 0 supported" in out
