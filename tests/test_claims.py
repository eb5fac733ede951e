"""The language of `claims`."""

import re
from pathlib import Path

import pytest
from bundles import TASKS

from harness.common.errors import UserError
from harness.data import load
from harness.experiment.claims import Claim, Quantity, find_published, parse_claim, parse_quantity
from harness.experiment.file import network_labels, parse, read
from harness.experiment.published import read_published, why_not_comparable
from harness.plan import make_plan

CLAIMS = "experiments/published"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("refilled > plain", (Quantity("refilled"), Quantity("plain"), 0.0, True)),
        ("  kd   >  plain by 0.5 ", (Quantity("kd"), Quantity("plain"), 0.005, True)),
        (
            "refilled > refilled-triplet after stage 1",
            (Quantity("refilled", 1), Quantity("refilled-triplet", 1), 0.0, True),
        ),
        ("vid+kd within 2 of kd@both", (Quantity("kd+vid"), Quantity("kd@both"), 0.02, False)),
        ("teacher > kd", (Quantity("teacher"), Quantity("kd"), 0.0, True)),
    ],
)
def test_what_a_claim_says(text: str, expected: tuple[Quantity, Quantity, float, bool]) -> None:
    found = parse_claim(text)
    assert (found.left, found.right, found.margin, found.is_greater) == expected
    assert found.text == " ".join(text.split()) and found.source is None


def test_what_is_no_method_is_a_source() -> None:
    assert parse_claim("kd within 0.5 of readme-2020") == Claim(
        "kd within 0.5 of readme-2020", Quantity("kd"), None, 0.005, False, "readme-2020"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("refilled is best", "cannot read 'refilled is best'; write `METHOD > METHOD"),
        ("refilled > plain by a bit", "cannot read"),
        ("refiled > plain", "unknown method 'refiled'; did you mean 'refilled'?"),
        ("refilled > pain", "unknown method 'pain'; did you mean 'plain'?"),
        ("kd > kd", "compares 'kd' with itself"),
        ("kd within 0 of plain", "give a margin above 0"),
        ("kd > plain after stage 1", "'kd' has 1 stage, so there is no separate number"),
        ("refilled > plain after stage 2", "'refilled' has 2 stages"),
    ],
)
def test_what_is_no_claim(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)) as error:
        parse({**TASKS, "claims": ["kd > plain", text]})
    assert str(error.value).startswith("claims.1: ")


def test_one_claim_twice() -> None:
    with pytest.raises(UserError, match="'kd > plain' is listed twice"):
        parse({**TASKS, "claims": ["kd > plain", "kd  > plain"]})


def test_claims_change_no_cell_and_no_grid() -> None:
    without, with_them = (parse({**TASKS, **more}) for more in ({}, {"claims": "kd > plain"}))
    assert "claims" not in without.model_dump() | without.model_dump(mode="json")
    assert with_them.model_dump()["claims"] == ("kd > plain",)
    dataset = load(without.dataset)
    assert list(make_plan(without, dataset).cells) == list(make_plan(with_them, dataset).cells)
    assert without.grid == with_them.grid


def test_a_claim_may_be_of_methods_that_are_left_out() -> None:
    assert parse({**TASKS, "methods": ["plain"], "claims": ["kd > plain"]}).claims


ROWS = [
    {"source": "a", "row": "x", "of": "kd"},
    {"source": "b", "row": "y", "of": "kd"},
    {"source": "b", "row": "z", "of": "refilled after stage 1: ncm_eval_centers"},
    {"source": "b", "row": "w"},
]


def test_the_published_row_of_a_claim() -> None:
    row, of = find_published(parse_claim("kd within 1 of b"), ROWS)
    assert row["row"] == "y" and of == Quantity("kd")
    row, of = find_published(parse_claim("refilled within 1 of b after stage 1"), ROWS)
    assert row["row"] == "z" and of == Quantity("refilled", 1, "ncm_eval_centers")


@pytest.mark.parametrize(
    ("text", "known"),
    [("kd within 1 of c", "known: a, b"), ("refilled within 1 of b", "none, by")],
)
def test_no_such_published_row(text: str, known: str) -> None:
    with pytest.raises(UserError, match=f"neither a method .* \\({known}"):
        find_published(parse_claim(text), ROWS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("refilled: acc", "unknown metric"), ("xy", "unknown method"), ("kd after lunch", "cannot")],
)
def test_what_is_no_number_of_ours(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_quantity(text)


@pytest.mark.parametrize("file", sorted(Path("experiments").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_claims_of_the_experiments_have_their_numbers(file: Path, tmp_path: Path) -> None:
    """Each committed claim names trained methods, and a published row of the same protocol."""
    experiment = read(file)
    for claim in experiment.parsed_claims:
        if claim.source:
            assert experiment.published
            rows = read_published(file.parent / experiment.published, network_labels(experiment))
            row, _ = find_published(claim, rows)
            assert not why_not_comparable(row, experiment.protocol_label)
        for side in (claim.left, claim.right):
            assert side is None or side.method in {"teacher", *experiment.methods}


def test_a_source_without_published_numbers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    text = Path("experiments/digits_all_images.yaml").read_text()
    file.write_text(text + "\nclaims: [kd within 1 of readme-1999]\n")
    with pytest.raises(UserError, match="'readme-1999' is neither a method"):
        read(file)
