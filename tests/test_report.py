"""The HTML page, the CSV and the LaTeX table of a bundle."""

import base64
import csv
import dataclasses
import html as html_module
import io
import json
import re
import shutil
from pathlib import Path

import browser as look
import pytest
from bundles import BUNDLE, FILE, as_text, exported, made_up, made_up_cell
from helpers import Output, Patch, refusal

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.confirmations import confirmations
from harness.analysis.figures import draw_all
from harness.analysis.report.command import replication_of
from harness.analysis.report.page import (
    commands_of,
    environment_of,
    html,
    inline,
    without_folders,
)
from harness.analysis.statistics import estimate
from harness.analysis.tables.accuracy import CSV_COLUMNS, accuracy_tables, number_table
from harness.analysis.tables.csv_and_latex import csv_text, latex_escaped, latex_text
from harness.analysis.tables.result_table import Cell
from harness.analysis.tables.runs import sections
from harness.analysis.verdicts import verdicts_of
from harness.cli import main

PATH = Path(__file__).parent.parent / "experiments/results/digits-all-images.jsonl"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    header, *cells = map(json.loads, PATH.read_text().splitlines())
    header["experiment"]["description"] = "<script>alert(1)</script>"
    return read_bundle(PATH, as_text([header, *cells]))


@pytest.fixture(scope="module")
def page(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("figures")
    figures = [folder / "accuracy.png", folder / "curves-stage1.png"]
    for figure in figures:
        figure.write_bytes(figure.stem.encode())
    return html(bundle, figures)


def test_figures_and_curves_are_inside(page: str) -> None:
    first, rest = page.split('id="results"')[1].split('id="all"')
    curves = rest.split('id="curves"')[1].split('id="leak"')[0]
    for part, name in ((first, b"accuracy"), (curves, b"curves-stage1")):
        assert re.findall(r'src="([^"]*)"', part) == [
            f"data:image/png;base64,{base64.b64encode(name).decode()}"
        ]


def test_the_page_needs_nothing_else_and_escapes(page: str) -> None:
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_verdicts_come_first_and_sections_in_order(page: str) -> None:
    ids = re.findall(r'<h2 id="(\w+)"', page)
    folded = "all differences published figures curves leak tuning environment again provenance"
    assert ids == ["verdicts", "results", *folded.split()]
    assert page.count("<details>\n<summary><h2") == len(folded.split()), "closed at first"


def test_pointing_at_a_number_shows_the_curves_of_its_runs() -> None:
    page = html(read_bundle(PATH), [])
    table = page.split('id="results"')[1].split("</table>")[0]
    numbers = re.findall(r'<td class="([^"]*)"><a href="#([^"]+)">.*?</td>', table, re.DOTALL)
    drawn = re.findall(r'<g id="curve-([^"]+)" font', page, re.DOTALL)
    assert len(drawn) == len(set(drawn)) > 3
    pointed = [target for kind, target in numbers if "number" in kind]
    assert pointed and {*pointed} <= {*drawn}
    assert all(f'<use href="#curve-{target}"/>' in table for target in pointed)
    assert {target for kind, target in numbers if "number" not in kind}.isdisjoint(drawn)


def test_a_public_report_has_no_ids_and_no_folders() -> None:
    bundle = read_bundle(PATH.with_name("crd-rehearsal.jsonl"))
    cell = next(cell for cell in bundle.cells if cell.mlflow_run_id)
    own = dataclasses.replace(
        bundle, command="harness run /home/ann/x.yaml --set 'dataset.path=/data/ann/b, seeds=[1]'"
    )
    page, public = html(own, []), html(own, [], public=True)
    for secret in (str(cell.mlflow_run_id), "ann", "MLflow"):
        assert secret in page and secret not in public, secret
    assert "harness run x.yaml" in public and "dataset.path=b, seeds=[1]" in public
    assert cell.fingerprint[:16] in public


def test_verdicts_of_two_sets_of_seeds_stand_side_by_side() -> None:
    """Where the committed replication is one of the report's own numbers."""
    first = read_bundle(PATH.with_name("digits.jsonl"))
    second = replication_of(first)
    assert second
    verdicts = section(html(first, [], replication=second), "verdicts")
    pairs = confirmations(first, second, first)
    sides = [
        [pair.first.claim, pair.first.outcome, pair.second and pair.second.outcome, pair.standing]
        for pair in pairs
    ]
    lines = [verdicts[-7 * i :][:7] for i in range(len(pairs), 0, -1)]
    shown = [[line[0].removesuffix(" (secondary)"), line[3], line[5], line[6]] for line in lines]
    assert shown == sides and "confirmed" in verdicts
    assert "confirmed" not in section(html(first, []), "verdicts")
    assert replication_of(dataclasses.replace(second, path=first.path)) is None, "its own seeds"
    training = {**first.experiment["training"], "epochs": 1}
    other = dataclasses.replace(first, experiment={**first.experiment, "training": training})
    assert replication_of(other) is None, "other settings"


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("experiments/digits.yaml", "experiments/digits.yaml"),
        ("/home/ann/my.yaml", "my.yaml"),
        ("~/my.yaml", "my.yaml"),
        ("dataset={path: /a/b/c, label: x/y}", "dataset={path: c, label: x/y}"),
        ("../a/b", "../a/b"),
        ("seeds=[1, 2]", "seeds=[1, 2]"),
    ],
)
def test_folders_of_a_word(word: str, kept: str) -> None:
    assert without_folders(word) == kept


def test_every_link_of_a_number_has_its_target(page: str) -> None:
    links, targets = (re.findall(p, page) for p in (r'href="#([^"]+)"', r'id="([^"]+)"'))
    assert links and set(links) <= set(targets)
    assert len(targets) == len(set(targets))


# -- numbers made up -------------------------------------------------------------------------------

SMALL, LARGE = "wrn-10-1", "wrn-10-2"
PLAIN = [0.90, 0.91, 0.92]
PUBLISHED = {"source": "<a>", "row": "KD", "protocol": "p", "of": "kd", SMALL: "91.50", LARGE: ""}


@pytest.fixture(scope="module")
def claiming() -> Bundle:
    numbers = {
        ("plain", "student", SMALL): PLAIN,
        ("kd", "kd", SMALL): [0.950, 0.961, 0.969],
        ("plain", "student", LARGE): PLAIN,
        ("kd", "kd", LARGE): [0.90, 0.91, 0.93],
        ("teacher", "teacher", ""): [0.97, 0.97, 0.98],
    }
    claims = ["kd > plain", "plain > kd"]
    found = made_up(numbers, methods=["plain", "kd"], claims=claims, seeds=[0, 1, 2])
    return dataclasses.replace(found, published=[PUBLISHED])


def section(page: str, name: str) -> list[str]:
    """The texts of its cells."""
    part = page.split(f'<h2 id="{name}">')[1].split("<h2")[0]
    return [
        html_module.unescape(re.sub(r"<[^>]*>", "", cell)).strip()
        for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", part, re.DOTALL)
    ]


def test_every_verdict_is_a_line(claiming: Bundle) -> None:
    cells = section(html(claiming, []), "verdicts")
    lines = [cells[i : i + 5] for i in range(5, len(cells), 5)]
    verdicts = verdicts_of(claiming)
    assert {v.outcome for v in verdicts} == {"supported", "contradicted", "undecided"}
    for line, v in zip(lines, verdicts, strict=True):
        assert line[:3] == [v.claim, v.column, Cell.points(v.difference).text]
        assert line[4] == v.outcome + (f"; {v.why}" if v.why else "")


def test_the_best_of_a_column_is_bold_and_leads_to_its_runs(claiming: Bundle) -> None:
    page = html(claiming, [])
    assert "96.0 ± " in page.split('id="results"')[1].split("</table>")[0]
    bold = re.findall(r'<a href="#(\S+)"><b>(.*?)</b></a>', page.split('id="all"')[1])
    best = [f"{100 * sum(v) / 3:.2f}" for v in ([0.950, 0.961, 0.969], [0.90, 0.91, 0.93])]
    assert [text.partition(" ")[0] for _, text in bold] == best
    runs = page.split(f'<h3 id="{bold[0][0]}">')[1].split("<h3")[0]
    assert "KD, wrn-10-1" in runs and "96.10" in runs and "9 of 10" in runs
    kd = [n for n in claiming.numbers if (n.method, n.student) == ("kd", SMALL)]
    assert all(n.cell.fingerprint[:16] in runs for n in kd)


def test_differences_and_published_numbers(claiming: Bundle) -> None:
    page = html(claiming, [])
    differences = section(page, "differences")
    assert differences[:4] == ["", SMALL, LARGE, "KD"]
    assert differences[4].startswith("+5.00 ± ") and differences[5].startswith("+0.33 ± ")
    published = section(page, "published")
    assert published[6:10] == ["KD", SMALL, "<a>, p", "91.50"]
    assert published[11].startswith("+4.50 ± ")
    results = section(page, "all")
    shown = results.index("KD (<a>, p)")
    assert results[shown + 1 :][:3] == ["–", "91.50", "–"]


def test_the_environment_names_every_value_that_occurs(claiming: Bundle) -> None:
    other = made_up_cell(fingerprint="1", device="cuda:0", torch="2.1", dirty=True, threads=4)
    numbers = [dataclasses.replace(claiming.numbers[0], cell=other), *claiming.numbers[1:]]
    found = environment_of(dataclasses.replace(claiming, numbers=numbers))
    assert (found["Device"], found["torch"]) == ("cpu, cuda:0", "2, 2.1")
    assert found["Threads of a cell"] == "1, 4" and found["Digest of the data"] == "`0`"
    assert found["Commits"] == "`000000000000` with uncommitted changes"


def test_commands_keep_the_overrides(claiming: Bundle) -> None:
    changed = dataclasses.replace(claiming, command="harness run 'a b.yaml' --set seeds=[1]")
    rest = "'a b.yaml' --set 'seeds=[1]'"
    assert commands_of(changed) == [f"harness {w} {rest}" for w in ("run", "verdicts", "report")]


def test_what_is_missing_is_said(claiming: Bundle) -> None:
    nothing = dataclasses.replace(claiming, published=[])
    nothing.experiment["claims"], kept = [], nothing.experiment["claims"]
    page = html(nothing, [])
    nothing.experiment["claims"] = kept
    assert "claims nothing" in page and "No published number" in page
    assert "No settings of this experiment were tuned" in page
    assert "Left out: curves-stage2, confusion: the bundle was written before it held" in page


# -- in a browser ----------------------------------------------------------------------------------


# The least height of the letters that are shown in a pop-up of curves.
LABELS = """Math.min(...[...document.querySelectorAll(".peek svg")]
  .filter(svg => svg.checkVisibility())
  .map(svg => 11 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"""
HEIGHTS = """Math.max(...[...document.querySelectorAll("[aria-label=Verdicts] tbody tr")]
  .map(row => row.getBoundingClientRect().height))"""
# The words of tables, and the numbers with their spread, that are on more than one line.
BROKEN_WORDS = """() => [...document.querySelectorAll("th, td")].flatMap(cell => {
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
  const form = cell.matches("td:not(.text)") ? /\\S.*/g : /\\S+/g;
  for (let text; (text = texts.nextNode()); )
    for (const word of text.data.matchAll(form)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (range.getClientRects().length > 1) broken.push(word[0]);
    }
  return broken;
})"""


def test_on_a_phone_and_in_the_dark(claiming: Bundle, tmp_path: Path) -> None:
    look.require()
    file = tmp_path / "report.html"
    file.write_text(html(claiming, draw_all(claiming, tmp_path)))
    said: list[str] = []
    with look.Browser(tmp_path.as_uri()) as browser:
        page = browser.open(file.as_uri())
        for event in ("console", "pageerror", "requestfailed"):
            page.on(event, lambda what: said.append(str(what)))
        page.set_viewport_size({"width": 390, "height": 844})
        page.reload()
        verdicts = page.get_by_role("region", name="Verdicts").locator("strong")
        assert verdicts.count() == 4 and page.get_by_role("row").count() >= 4
        for verdict in verdicts.all():
            box = verdict.bounding_box()
            assert box and box["x"] + box["width"] <= 390
        # No row is taller than its lines: the claim, the verdict, the difference.
        assert page.evaluate(HEIGHTS) <= 110
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        background = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(background)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(background) != light
        # A number leads to its runs, folded or not.
        runs = page.get_by_role("heading", name="KD, wrn-10-1")
        assert not runs.is_visible()
        page.locator("#results ~ .wide a").filter(has_text="96.0").click()
        runs.wait_for()
        # Printed, with everything unfolded: tables fit on the paper, and only spaces are broken.
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.set_viewport_size({"width": 700, "height": 900})
        page.emulate_media(media="print")
        assert page.evaluate(BROKEN_WORDS) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        # The curves of the number that is pointed at, as long as it is.
        file.write_text(html(read_bundle(PATH), []))
        page = browser.open(file.as_uri())
        page.set_viewport_size({"width": 390, "height": 844})
        number = page.locator("#results ~ .wide .number a").first
        title = page.locator(f"[id='{str(number.get_attribute('href'))[1:]}']").text_content()
        peek = page.locator(".number .peek").first
        assert not peek.is_visible()
        number.hover()
        assert peek.is_visible() and title in peek.inner_text()
        assert page.evaluate(LABELS) >= 9
        box = peek.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + box["height"] - 5)
        assert not peek.is_visible(), "the pointer is on the pop-up, no longer on the number"
        assert said == [] and browser.foreign == []


def tex_of(bundle: Bundle) -> str:
    (table,) = accuracy_tables(bundle, published=False)
    return latex_text(table, "comment")


# -- for other programs ----------------------------------------------------------------------------


def test_inline_shows_code_and_escapes_the_rest() -> None:
    assert inline("x < `a<b` *y*") == "x &lt; <code>a&lt;b</code> *y*"


def test_csv_has_a_line_a_number_in_per_cent(bundle: Bundle) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(number_table(bundle)))))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert len(lines) == len(sections(bundle))
    teacher = next(line for line in lines if line["row"] == "Teacher")
    numbers = [n for n in bundle.numbers if n.stage == "teacher"]
    assert float(teacher["last"]) == pytest.approx(
        100 * sum(n.last for n in numbers) / len(numbers)
    )


def test_a_line_of_the_csv(claiming: Bundle) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(number_table(claiming)))))
    found = {(line["method"], line["student"]): line for line in lines}
    assert ("teacher", claiming.teacher) in found and len(found) == len(lines) == 5
    kd, expected = found["kd", SMALL], estimate([0.950, 0.961, 0.969])
    assert (kd["row"], kd["stage"], kd["result"], kd["n"]) == ("KD", "kd", "accuracy", "3")
    assert (kd["overlap"], kd["shots"]) == ("", "")
    assert kd["mean"] == kd["last"] == "96.0000"
    assert kd["half_width"] == f"{100 * expected.half_width:.4f}"


def test_the_csv_of_tasks() -> None:
    """Numbers of the teacher's own task have no overlap and no shots."""
    path = PATH.with_name("digits-cross.jsonl")
    lines = list(csv.DictReader(io.StringIO(csv_text(number_table(read_bundle(path))))))
    plain = [(n["overlap"], n["shots"]) for n in lines if n["method"] == "plain"]
    assert len(plain) == len(set(plain)) > 1 and all(all(task) for task in plain)
    assert [(n["overlap"], n["shots"]) for n in lines if n["method"] == "teacher"] == [("", "")]


def test_the_best_of_a_column_is_bold_in_latex(claiming: Bundle) -> None:
    lines = tex_of(claiming).splitlines()
    bold = {line.partition(" &")[0]: line.count("mathbf") for line in lines if "&" in line}
    assert bold == {"": 0, "Teacher": 0, "Student": 0, "KD": 2}


def test_latex_is_escaped(bundle: Bundle) -> None:
    assert latex_escaped(r"a_b & 5 % \x") == r"a\_b \& 5 \% \textbackslash{}x"
    text = tex_of(bundle)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def project(finished_copy: Path, monkeypatch: Patch) -> Path:
    """A finished project, and this process in it."""
    monkeypatch.chdir(finished_copy)
    return finished_copy


def test_a_report_of_a_finished_grid(
    project_copy: Path, capsys: Output, monkeypatch: Patch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or False)
    assert main(["report", FILE, "--open"]) == 0
    path = project_copy / "reports/tiny.html"
    assert path.read_text().startswith("<!doctype html>") and opened == [path.as_uri()]
    out = capsys.readouterr().out
    assert "written: reports/tiny.html" in out and "there is no browser here" in out
    assert main(["report", FILE, "--out", "x/y.html"]) == 0
    assert Path("x/y.html").read_text() == path.read_text()
    assert "runs: " in refusal(capsys, "report", FILE, "--out", "runs")


def test_a_report_of_the_committed_numbers(project_copy: Path, capsys: Output) -> None:
    """Where nothing is trained; not for other settings than theirs."""
    text = exported(project_copy)
    shutil.rmtree("runs")
    assert "`harness run experiments/tiny.yaml`" in refusal(capsys, "report", FILE)
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_text(text)
    assert main(["report", FILE]) == 0
    assert f"from {BUNDLE}: " in capsys.readouterr().out
    assert "of these settings" in refusal(capsys, "report", FILE, "--set", "training.epochs=7")
