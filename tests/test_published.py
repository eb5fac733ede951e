"""Published numbers in a CSV file: what is read, what is refused, and how it is printed."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.published_numbers import refresh_pages
from harness.analysis.tables.markdown import escaped, markdown
from harness.analysis.tables.result_table import Cell, ResultTable
from harness.analysis.tables.terminal import terminal_text
from harness.common.errors import UserError
from harness.experiment.pairs import PAIR
from harness.experiment.published import (
    networks_of,
    published_protocol,
    read_paper_table,
    read_published,
    why_not_comparable,
)

HEAD = "source,row,metric,protocol,wrn-10-1,wrn-16-1"
LINE = "smith,KD,test_accuracy,last epoch,97.10,"
ROW = {"source": "smith", "row": "KD", "metric": "test_accuracy", "protocol": "last epoch",
       "wrn-10-1": "97.10", "wrn-16-1": ""}  # fmt: skip
NETWORKS = ["wrn-10-1", "wrn-16-1"]
FOLDER = Path(__file__).parent.parent / "experiments" / "published"


def of(path: Path, text: str | bytes) -> list[dict[str, str]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_published(path, NETWORKS)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}\n{LINE}\n",
        f"\ufeff{HEAD}\r\n{LINE}\r\n\r\n,,,,,\r\n",
        f"{HEAD}\n{LINE}".replace(",", ";").replace("97.10", "97,10"),
        f"sep=;\n{HEAD}\n{LINE}".replace(",", ";").replace("97.10", "97,10"),
        f"{HEAD}\n{LINE}".replace(",", "\t"),
        f"{HEAD}\n{LINE}".replace("97.10", '"97,10"'),
        f"{HEAD}\n{LINE}".replace("97.10", "97.10 %"),
        f"{HEAD},\n{LINE},\n".replace(",", " , "),
        f"{HEAD}\n{LINE}".replace("source", "Source").replace("wrn-10-1", "WRN-10-1"),
        f"{HEAD}\n{LINE}–",
    ],
)
def test_the_same_table_in_other_spellings(tmp_path: Path, text: str) -> None:
    assert of(tmp_path / "x.csv", text) == [ROW]


def test_names_are_as_people_read_them(tmp_path: Path) -> None:
    (row,) = of(tmp_path / "x.csv", f"{HEAD}\n{LINE}".replace("smith", "  Mu\u0308ller  2020"))
    assert row["source"] == "M\u00fcller 2020"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1: "),
        (f"{HEAD}\n{LINE}".replace("97.10", "97,10"), "line 2: 7 fields for 6"),
        (f"{HEAD}\n\n{LINE}\n{LINE}x,y", "line 4: 7 fields for 6"),
        (f"{HEAD}\nsmith,KD", "line 2: 2 fields for 6"),
        (f"{HEAD}\n{LINE}".replace("metric", "measure"), "line 1: no column 'metric'"),
        (HEAD.replace(",", " "), "line 1: no column 'source'"),
        (f"{HEAD}\n{LINE}".replace("wrn-16-1", "wrn_10_1").replace("wrn-10-1", "x"),
         "line 1: column 'wrn_10_1': did you mean 'wrn-10-1'"),
        (f"{HEAD}\n{LINE}".replace("wrn", "resnet"), "line 1: "),
        (f"{HEAD}\n{LINE}".replace("wrn-16-1", "Row"), "line 1: two columns are called 'row'"),
        (f"{HEAD}\n{LINE}".replace("smith", " "), "line 2: column 'source'"),
        (f"{HEAD}\n{LINE}".replace("97.10", "best"), "line 2, column wrn-10-1: 'best'"),
        (f"{HEAD}\n{LINE}".replace("97.10", "971"), "line 2, column wrn-10-1: '971'"),
        (f"{HEAD}\n{LINE}".replace("97.10", "1e-1"), "line 2, column wrn-10-1: '1e-1'"),
        (f"{HEAD},\n{LINE},7", "line 2: '7'"),
        (f"{HEAD},preset\n{LINE},strikt", "line 2, column preset: unknown protocol 'strikt'"),
        (f'{HEAD}\n"{LINE}', "line 2: broken CSV"),
        (f"{HEAD}\n{LINE}".replace("smith", "s\0ith"), "line 2: "),
        (f"{HEAD}\n{LINE}".replace("smith", "sm\xefth").encode("latin-1"), "line 2: not UTF-8"),
        (f"{HEAD}\n{LINE}".encode("utf-16"), "line 1: not UTF-8"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_place(tmp_path: Path, text: str | bytes, place: str) -> None:
    path = tmp_path / "x.csv"
    start = re.escape(f"published: {path}, {place}")
    with pytest.raises(UserError, match=f"^{start}") as caught:
        of(path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.csv")), ids=lambda f: f.stem)
def test_the_projects_own_files_are_read_as_they_are(file: Path) -> None:
    head, *lines = (line.split(",") for line in file.read_text().splitlines())
    expected = [dict(zip(head, x, strict=True)) for x in lines]
    assert read_published(file, networks_of(head)) == read_paper_table(file) == expected
    assert all("-" in name or PAIR in name for name in networks_of(head)), "no other columns"


@pytest.mark.parametrize(
    ("preset", "protocol", "why"),
    [
        ("legacy-2020", "legacy-2020", ""),
        ("legacy", "legacy-2021", ""),
        ("strict(selection=last)", "strict(selection=last)", ""),
        ("legacy-2020", "strict", "smith reports legacy-2020; this experiment runs strict"),
        ("strict", "strict(ties=first)", r"smith reports strict; .* runs strict\(ties=first\)"),
        ("", "strict", "smith reports 'last epoch', .* no preset; this experiment runs strict"),
    ],
)
def test_what_is_comparable(tmp_path: Path, preset: str, protocol: str, why: str) -> None:
    """A published number holds under its own protocol alone, whoever wrote the file."""
    (row,) = of(tmp_path / "x.csv", f"{HEAD},preset\n{LINE},{preset}")
    assert re.fullmatch(why, why_not_comparable(row, protocol))
    shown = published_protocol(row)
    assert shown.startswith("last epoch") and shown.endswith(row["preset"])


def test_numbers_of_a_release_hold_under_its_preset() -> None:
    rows = read_published(FOLDER / "cifar100_wide_resnet.csv", ["wrn-16-2"])
    paper, first = (next(r for r in rows if r["row"] == n) for n in ("Paper Results", "REFILLED"))
    assert paper["wrn-16-2"] == first["wrn-16-2"], "2021 quotes the numbers of 2020's release"
    assert paper["of"] == first["of"] == "refilled-one-negative"
    for row in rows:
        expected = "legacy-2020" if row is paper else row["source"].replace("readme", "legacy")
        assert row["preset"] == ("" if row["source"] == "repdistiller" else expected)


CSV = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.lists(
        st.sampled_from([*HEAD.split(","), *LINE.split(","), ",", ";", '"', "\n", "\t", "97,1", "±",
                         HEAD + "\n", LINE + "\n", "\0", "sep=;\n", "\u2028", "\r"]),
        max_size=30,
    ).map("".join),
)  # fmt: skip


@given(text=CSV)
@settings(max_examples=2000, deadline=None)
def test_any_csv_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    try:
        rows = of(path, data)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        return
    for row in rows:
        assert row["source"] and row["row"] and row["protocol"]
        assert all(re.fullmatch(r"[\d.]*( ± [\d.]+)?", row.get(n, "")) for n in NETWORKS)
        assert len(escaped(row["row"]).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    ["Student (lr|wd tuned)", "*KD* [1](x)", "<b>a</b> <!-- /table:x -->", r"a\|b\\", "_a_ `b`"],
)
def test_a_name_in_a_table_stays_itself(text: str) -> None:
    table = ResultTable(["", "wrn-10-1"], [[Cell(text, note=f" {text}"), Cell(97, link="y#z")]])
    (row,) = [line for line in markdown([table]).splitlines() if line.endswith("| [97](y#z) |")]
    plain = re.sub(r"\\.", "", row.removesuffix("| [97](y#z) |").removeprefix("|"))
    assert not re.search(r"[|*\[\]<>`_]", plain), "nothing that Markdown would take for its own"
    _, shown = terminal_text([table]).splitlines()
    assert re.split("  +", shown) == [f"{text} {text}", "97"]


def test_a_page_shows_all_published_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the committed pages are up to date."""
    monkeypatch.chdir(FOLDER.parent.parent)
    committed = {page: page.read_text() for page in Path("docs").glob("*.md")}
    between = re.compile(r"(<!-- published:\w+ -->\n).*?(?=<!-- /published)", re.DOTALL)
    pages = {page: between.sub(r"\1", text) for page, text in committed.items()}
    assert not any("76.04" in text for page, text in pages.items() if "paper" in page.name)
    refresh_pages(pages)
    assert pages == committed
    for path in FOLDER.glob("*.csv"):
        rows = read_paper_table(path)
        numbers = {row[name] for row in rows for name in networks_of(row) if row[name]}
        marker = f"<!-- published:{path.stem} -->"
        home = next(text for text in committed.values() if marker in text)
        assert all(f"| {number} |" in home for number in numbers), path
