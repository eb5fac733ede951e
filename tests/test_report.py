"""The HTML page, the CSV and the LaTeX table of a bundle."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from bundles import BUNDLE, FILE, as_text, exported
from helpers import one_error_line

from analysis.bundle import Bundle, read_bundle
from analysis.report.page import html, inline
from analysis.tables.csv_and_latex import HEAD, csv_text, latex_escaped, tex_text
from analysis.tables.runs import sections
from harness.cli import main

PATH = Path(__file__).parent.parent / "experiments/results/digits-tuned.jsonl"


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
    figures, curves = page.split('id="figures"')[1].split('id="leak"')[0].split('id="curves"')
    for part, name in ((figures, b"accuracy"), (curves, b"curves-stage1")):
        assert re.findall(r'src="([^"]*)"', part) == [
            f"data:image/png;base64,{base64.b64encode(name).decode()}"
        ]


def test_the_page_needs_nothing_else_and_escapes(page: str) -> None:
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_verdicts_come_first_and_sections_in_order(page: str) -> None:
    ids = re.findall(r'<h2 id="(\w+)"', page)
    order = "verdicts results differences published figures curves leak tuning environment again provenance"
    assert ids == order.split()


def test_every_link_of_a_number_has_its_target(page: str) -> None:
    links, targets = (re.findall(p, page) for p in (r'href="#([^"]+)"', r'id="([^"]+)"'))
    assert links and set(links) <= set(targets)
    assert len(targets) == len(set(targets))


def test_inline_shows_code_and_escapes_the_rest() -> None:
    assert inline("`a<b` *x*") == "<code>a&lt;b</code> <em>x</em>"


def test_csv_has_a_line_a_number_in_per_cent(bundle: Bundle) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(bundle))))
    assert tuple(lines[0]) == HEAD
    assert len(lines) == len(sections(bundle))
    teacher = next(line for line in lines if line["row"] == "Teacher")
    rows = [r for r in bundle.rows if r["stage"] == "teacher"]
    assert float(teacher["last"]) == pytest.approx(100 * sum(r["last"] for r in rows) / len(rows))


def test_latex_is_escaped(bundle: Bundle) -> None:
    assert latex_escaped(r"a_b & 5 % \x") == r"a\_b \& 5 \% \textbackslash{}x"
    text = tex_text(bundle)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert r"\mathbf{99.03}" in text


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def project(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished project, and this process in it."""
    monkeypatch.chdir(finished_copy)
    return finished_copy


def test_a_report_of_a_finished_grid(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or False)
    assert main(["report", FILE, "--open"]) == 0
    path = project / "reports/tiny.html"
    assert path.read_text().startswith("<!doctype html>") and opened == [path.as_uri()]
    out = capsys.readouterr().out
    assert "written: reports/tiny.html" in out and "there is no browser here" in out
    assert main(["report", FILE, "--out", "x/y.html"]) == 0
    assert Path("x/y.html").read_text() == path.read_text()
    assert main(["report", FILE, "--out", "runs"]) == 2
    assert "--out: runs: " in one_error_line(capsys.readouterr().err)


def test_a_report_of_the_committed_numbers(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is trained; not for other settings than theirs."""
    text = exported(project)
    shutil.rmtree("runs")
    assert main(["report", FILE]) == 2
    assert "`harness run experiments/tiny.yaml`" in one_error_line(capsys.readouterr().err)
    BUNDLE.parent.mkdir(exist_ok=True)
    BUNDLE.write_text(text)
    assert main(["report", FILE]) == 0
    assert f"from {BUNDLE}: " in capsys.readouterr().out
    assert main(["report", FILE, "--set", "training.epochs=7"]) == 2
    assert "of these settings" in one_error_line(capsys.readouterr().err)
