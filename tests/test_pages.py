"""The content of the pages: a summary, and the page of all results."""

from dataclasses import replace
from pathlib import Path

import pytest
from bundles import exported, made_up
from helpers import Output

from harness.analysis.bundle import Bundle
from harness.analysis.readme import SUMMARY, replace_between_markers
from harness.analysis.tables.accuracy import leak_blocks
from harness.analysis.tables.caption import caption
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.pages import results_page, summary_blocks
from harness.analysis.tables.result_table import DASH, Cell, Command, ResultTable
from harness.cli import main

SMALL, LARGE = "wrn-10-1", "wrn-10-2"
BASE = [0.90, 0.92, 0.94]


def shifted(*shifts: float) -> list[float]:
    return [b + s for b, s in zip(BASE, shifts, strict=True)]


@pytest.fixture
def bundle() -> Bundle:
    return made_up(
        {
            ("teacher", "teacher", ""): shifted(0.04, 0.05, 0.04),
            ("teacher_ncm", "teacher_ncm", SMALL): shifted(0.04, 0.04, 0.04),
            ("plain", "student", SMALL): BASE,
            ("plain", "student", LARGE): BASE,
            ("refilled", "stage1", SMALL): BASE,
            ("refilled", "stage2", SMALL): shifted(0.02, 0.021, 0.019),
            ("refilled", "stage2", LARGE): shifted(-0.02, -0.021, -0.019),
        },
        methods=["plain", "teacher_ncm", "refilled"],
        claims=["refilled > plain", "refilled within 9 of plain", "kd > plain"],
        seeds=[0, 1, 2],
    )


def test_a_summary_has_the_finals_and_claims_alone(bundle: Bundle) -> None:
    """Short numbers, the best one bold, nothing after stage 1, a row per claim."""
    finals, _, claims = summary_blocks(bundle, "runs.md")
    assert isinstance(finals, ResultTable) and isinstance(claims, ResultTable)
    assert finals.head == ["", SMALL, LARGE]
    assert {row[0].text: [cell.text for cell in row[1:]] for row in finals.rows} == {
        "Teacher": ["96.3 ± 5.2", "96.3 ± 5.2"],
        "Student": ["92.0 ± 5.0", "92.0 ± 5.0"],
        "Teacher NCM": ["96.0 ± 5.0", "96.0 ± 5.0"],
        "ReFilled (tuple)": ["94.0 ± 4.8", "90.0 ± 5.1"],
    }
    assert [(i, j) for i, r in enumerate(finals.rows) for j, c in enumerate(r) if c.bold] == [
        (1, 2),
        (3, 1),
    ]
    assert finals.caption[0].endswith("(runs.md).")
    assert [[cell.text + cell.note for cell in row] for row in claims.rows] == [
        ["refilled > plain", "+2.0 ± 0.2 supported", "-2.0 ± 0.2 contradicted"],
        ["refilled within 9 of plain", "+2.0 ± 0.2 supported", "-2.0 ± 0.2 supported"],
        ["kd > plain not tested: kd is no method here", DASH, DASH],
    ]


def test_a_summary_shows_stage_1_beside_its_floor_and_says_what_is_below_it() -> None:
    """An upper bound is never bold, however high."""
    bundle = made_up(
        {
            ("plain", "student", SMALL): BASE,
            ("plain", "student", LARGE): BASE,
            ("finetune", "finetune", SMALL): shifted(0.05, 0.05, 0.05),
            ("pixels_ncm", "pixels_ncm", SMALL): BASE,
            ("refilled", "stage1", SMALL): shifted(-0.02, -0.02, -0.02),
            ("refilled", "stage1", LARGE): shifted(0.01, 0.01, 0.01),
            ("refilled", "stage2", SMALL): shifted(-0.01, -0.01, -0.01),
        },
        methods=["plain", "finetune", "pixels_ncm", "refilled"],
        seeds=[0, 1, 2],
    )
    (finals,) = summary_blocks(bundle, "runs.md")
    assert isinstance(finals, ResultTable)
    assert [[cell.text.partition(" ±")[0] for cell in row] for row in finals.rows] == [
        ["Teacher", DASH, DASH],
        ["Student", "92.0", "92.0"],
        ["Fine-tuning (upper bound)", "97.0", DASH],
        ["Pixel NCM", "92.0", "92.0"],
        ["ReFilled (tuple) after stage 1: NCM, centres from train", "90.0", "93.0"],
        ["ReFilled (tuple)", "91.0", DASH],
    ]
    assert [row[0].text for row in finals.rows for cell in row if cell.bold] == ["Student"]
    below = "Below Pixel NCM: ReFilled (tuple) after stage 1 in 1 of 2 columns."
    assert below in finals.caption[0] and below in "\n".join(caption(bundle))
    for text in (finals.caption[0], "\n".join(caption(bundle))):
        assert "Upper bound: " in text and "it does not say whether the difference" in text


def test_markdown_shows_every_form_of_a_cell() -> None:
    cells = [
        Cell("a|b", italic=True, note=" (c_d)"),
        Cell(98.434, 0.31, 3, link="x.md#y", bold=True),
        Cell(1.2, signed=True, digits=1),
        Cell("kd > plain", code=True),
        Cell(),
    ]
    table = ResultTable(["", "n_1", "", "", ""], [cells], "t", "lr", ["first", Command("second")])
    assert markdown([table, "end"]) == (
        "**t**\n\n|  | n\\_1 |  |  |  |\n|---|---:|---:|---:|---:|\n"
        "| *a\\|b* (c\\_d) | [**98.43 ± 0.31 (3)**](x.md#y) | +1.2 | `kd > plain` | – |\n\n"
        "first\n\nsecond\n\nend\n"
    )
    assert "98.43\u00a0±\u00a00.31\u00a0(3)" in markdown([table], unbroken=True)


def test_what_is_measured_once_has_no_leak_and_is_named_once(bundle: Bundle) -> None:
    """By its journal, not by its numbers: the plain students' are equal by chance."""
    for number in bundle.numbers:
        once = number.stage == "stage1" or (number.stage == "stage2" and number.student == LARGE)
        curve = [None, 0.5] if once else [0.5, 0.5]
        number.cell.curves = {**number.cell.curves, f"test/{number.result}": curve}
    table, sentence = leak_blocks(bundle)
    assert isinstance(table, ResultTable) and isinstance(sentence, str)
    assert [(row[0].text, row[1].text) for row in table.rows] == [
        ("Teacher", "wrn-16-2"),
        ("Student", SMALL),
        ("Student", LARGE),
        ("Teacher NCM", "wrn-16-2"),
        ("ReFilled (tuple)", SMALL),
    ]
    assert "ReFilled (tuple) after stage 1: NCM, centres from train;" in sentence
    assert sentence.endswith(f"ReFilled (tuple), {LARGE}.")


def test_the_leak_is_what_choosing_on_the_test_set_adds(bundle: Bundle) -> None:
    """It is relative to the last epoch of the same training, whatever the tables report."""
    bundle.numbers[:] = [
        replace(n, last=n.selected, selected=0.5, best_on_test=n.selected + 0.01)
        for n in bundle.numbers
    ]
    for reported in ("selected", "last", "best_on_test"):
        table, *_ = leak_blocks(replace(bundle, reported=reported))
        assert isinstance(table, ResultTable) and table.rows[0][-1].text == "1.00 ± 0.00 (3)"


def test_the_results_page_has_everything(bundle: Bundle) -> None:
    titles = [line for line in results_page(bundle).splitlines() if line.startswith("## ")]
    assert [title.split()[1] for title in titles] == ["Verdicts", "Differences", "All", "Runs"]


def test_tables_fills_a_summary(project_copy: Path, capsys: Output) -> None:
    """On any page, with the table on another; and `--check` looks at both."""
    readme, page = Path("README.md"), Path("docs/page.md")
    readme.write_text("# P\n<!-- summary:tiny -->\n<!-- /summary:tiny -->\n")
    page.parent.mkdir()
    page.write_text("<!-- table:tiny -->\n<!-- /table:tiny -->\n")
    assert exported(project_copy)
    assert main(["tables", "experiments/tiny.yaml"]) == 0
    text = readme.read_text()
    assert "](experiments/results/tiny.md)" in text
    assert "](../experiments/results/tiny.md#kd-wrn-10-1)" in page.read_text()
    assert main(["tables", "--check"]) == 0
    readme.write_text(replace_between_markers(text, "tiny", "by hand", "README.md", SUMMARY))
    assert main(["tables", "--check"]) == 1
    assert "README.md" in capsys.readouterr().out
