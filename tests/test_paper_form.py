"""A summary in the form of a published table of other data."""

from pathlib import Path

import pytest
from bundles import planned, task_bundle, without_training
from helpers import ROOT, Patch
from test_docs import anchors

from harness.analysis.bundle import RESULTS, Bundle
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.pages import results_page, summary_blocks
from harness.analysis.tables.paper_form import paper_form
from harness.analysis.tables.result_table import DASH, Block, ResultTable
from harness.cli import main
from harness.common.errors import UserError
from harness.experiment.published import read_paper_table

FILE = ROOT / "experiments/published/cifar100_wide_resnet.csv"
SHAPES = [(16, 2), (16, 1), (10, 2), (10, 1)]
FIELDS = {
    "students": [{"depth": depth, "width": width} for depth, width in SHAPES],
    "tasks": {"shots": [5]},
    "methods": [
        *("plain@both", "kd@both", "pixels_ncm", "teacher_ncm"),
        *("refilled-triplet", "refilled"),
    ],
    "claims": ["refilled > plain@both", "refilled > refilled-triplet after stage 1"],
    "paper_table": str(FILE),
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return task_bundle(tmp_path_factory.mktemp("runs"), **FIELDS)


@pytest.fixture(scope="module")
def blocks(bundle: Bundle) -> list[Block]:
    return summary_blocks(bundle, "runs.md")


def table_of(blocks: list[Block]) -> ResultTable:
    assert isinstance(blocks[0], ResultTable)
    return blocks[0]


def published(row: str, source: str = "readme-2021") -> list[str]:
    """Return the numbers of a row in the file, with dashes."""
    rows = read_paper_table(FILE)
    (found,) = [r for r in rows if (r["row"], r["source"]) == (row, source)]
    return [found[f"wrn-{size}"] or DASH for size in ("40-2", "16-2", "40-1", "16-1")]


def test_ours_and_the_published_numbers_stand_in_one_line(blocks: list[Block]) -> None:
    """The published students in the file's order; a dash where one side has no such number."""
    table = table_of(blocks)
    assert table.head == [
        "(depth, width)",
        *(f"ours ({depth},{width})" for depth, width in SHAPES),
        *(f"theirs ({size})" for size in ("40,2", "16,2", "40,1", "16,1")),
    ]
    none = [DASH] * 4
    expected = [
        ("Teacher", 1, published("Teacher")),
        ("Student", 4, published("Student")),
        ("KD, published by readme-2020", 4, published("KD", "readme-2020")),
        ("Without training a student", 0, [""] * 4),
        ("Pixel NCM", 4, none),
        ("Teacher NCM", 4, none),
        ("After stage 1: NCM, centres from train", 0, [""] * 4),
        ("ReFilled (triplet)", 4, none),
        ("ReFilled (tuple)", 4, none),
        ("After stage 1: NCM, centres from the evaluated set", 0, [""] * 4),
        *(
            (f'ReFilled ({form}), "REFILLED after stage1 ({name})"', 4,
             published(f"REFILLED after stage1 ({name})"))
            for form, name in (("triplet", "paper"), ("tuple", "new"))
        ),
        ("After stage 2", 0, [""] * 4),
        ("ReFilled (triplet)", 4, none),
        ("ReFilled (tuple)", 4, none),
        ('ReFilled (one-negative), "Paper Results"', 0, published("Paper Results")),
    ]  # fmt: skip
    assert [
        (row[0].text + row[0].note, sum(bool(c.link) for c in row[1:5]), [c.text for c in row[5:]])
        for row in table.rows
    ] == expected
    assert table.rows[0][1].link and table.rows[0][2].text == DASH, "the teacher is a WRN-16-2"


def test_each_number_of_ours_leads_to_its_runs(bundle: Bundle, blocks: list[Block]) -> None:
    page = results_page(bundle)
    links = [(row[0].text, c.link) for row in table_of(blocks).rows for c in row if c.link]
    assert {link.partition("#")[0] for _, link in links} == {"runs.md"}
    assert {link.partition("#")[2] for _, link in links} <= anchors(page)
    assert len({link for label, link in links if label == "ReFilled (tuple)"}) == 12


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("source", "this project",
         "Teacher, Student and Paper Results readme-2021; KD readme-2020"),
        ("data set", "digits", "cifar100"),
        ("classes", "10", "100"),
        ("image size", "8x8", "32x32"),
        ("training images", "1000 for the teacher, 50 (5 per class) for students", "Teacher and"),
        ("teacher", "wrn-16-2", "wrn-40-2"),
        ("epochs", "Teacher 10; Student and KD 17; ReFilled (triplet) and ReFilled (tuple) 7 + 10",
         "Teacher and Student 200; KD and Paper Results unstated"),
        ("seeds", "2", "1"),
        ("accuracy of", "the epoch with the best validation accuracy", "Teacher and Student best"),
        ("device", "cpu", "unstated"),
    ],
)  # fmt: skip
def test_the_caption_says_how_they_differ(
    blocks: list[Block], name: str, ours: str, theirs: str
) -> None:
    assert f"**{name}** {ours} / {theirs}" in table_of(blocks).caption[0]


@pytest.mark.parametrize("other", ["plain", "plain@2"])
def test_forms_of_a_method_for_other_epochs_have_a_line_each(tmp_path: Path, other: str) -> None:
    """Then the published one belongs to the method itself."""
    changed = task_bundle(tmp_path, **FIELDS | {"methods": [other, "plain@both", "refilled"]})
    rows = {row[0].text: row for row in paper_form(changed, lambda row, column: "").rows}
    both = rows["Student, epochs of both stages"]
    assert (rows["Student"][5].text, both[5].text) == ("76.04", DASH)
    assert (rows["Student"][1].text != DASH) == (other == "plain") and both[1].text != DASH
    assert sum(name.startswith("Student") for name in rows) == 2 + (other != "plain")


def test_published_networks_may_have_names_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("source,row,metric,protocol,of,wrn\nme,KD,test,last,kd@both,50\n")
    table = paper_form(
        task_bundle(tmp_path, **FIELDS | {"paper_table": str(path)}), lambda row, column: ""
    )
    assert table.head[0] == "" and table.head[-1] == "theirs wrn"


def test_claims_have_a_verdict_in_each_column_and_nothing_is_confirmed_once(
    blocks: list[Block],
) -> None:
    _, sentence, table = blocks
    assert isinstance(sentence, str) and isinstance(table, ResultTable)
    assert "one set of seeds" in sentence and "confirmed" not in markdown(blocks)
    assert table.head == ["claim", *(f"wrn-{depth}-{width}" for depth, width in SHAPES)]
    verdicts = {cell.note.strip() for row in table.rows for cell in row[1:]}
    assert [row[0].text for row in table.rows] == FIELDS["claims"]
    assert verdicts <= {"supported", "contradicted", "undecided"}


def test_a_block_is_filled_by_its_bundle_alone(here: Path, monkeypatch: Patch) -> None:
    """Without one it stays as it is, and `--check` has nothing to say of it."""
    monkeypatch.setattr("harness.analysis.generated_files.make_figures", lambda paths: None)
    empty = "<!-- summary:later -->\nNot trained.\n<!-- /summary:later -->\n"
    readme = here / "README.md"
    readme.write_text(f"# P\n{empty}<!-- summary:cross -->\n<!-- /summary:cross -->\n")
    RESULTS.mkdir(parents=True)
    (RESULTS / "cross.jsonl").write_text(without_training(planned(**FIELDS), here / "runs"))
    assert main(["tables"]) == 0 and main(["tables", "--check"]) == 0
    text = readme.read_text()
    assert empty in text and "| (depth, width) | ours (16,2) |" in text
    assert "](experiments/results/cross.md#refilled-tuple-wrn-16-2)" in text


def test_several_tasks_and_a_table_beside_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"paper_table: .* one overlap and one number of shots"):
        planned(**FIELDS | {"tasks": {"shots": [5, 20]}})
    path = tmp_path / "x.csv"
    for head, problem in (("wrn-40-2", "column 'of'"), ("of", "no column is a network")):
        path.write_text(f"source,row,metric,protocol,{head}\na,b,c,d,\n")
        with pytest.raises(UserError, match=f"^paper_table: {path}.*{problem}"):
            read_paper_table(path)


def test_networks_without_numbers_in_their_names_are_named_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "source,row,metric,protocol,of,vgg8\na,Student,test_accuracy,b,plain@both,70.36\n"
    )
    student = {"network": "repdistiller", "name": "vgg8"}
    made = task_bundle(
        tmp_path, **FIELDS | {"students": [student], "claims": [], "paper_table": str(path)}
    )
    assert table_of(summary_blocks(made, "runs.md")).head == ["", "ours vgg8", "theirs vgg8"]
