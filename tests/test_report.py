"""The HTML page, the CSV and the LaTeX table of a bundle."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from bundles import as_text

from analysis.bundle import Bundle, read_bundle
from analysis.report.page import html, inline
from analysis.tables.export import HEAD, csv_text, latex_escaped, tex_text
from analysis.tables.runs import sections

PATH = Path(__file__).parent.parent / "experiments/results/digits-tuned.jsonl"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    header, *cells = map(json.loads, PATH.read_text().splitlines())
    header["experiment"]["description"] = "<script>alert(1)</script>"
    return read_bundle(PATH, as_text([header, *cells]))


@pytest.fixture(scope="module")
def page(bundle: Bundle) -> str:
    return html(bundle)


def test_the_page_needs_nothing_else_and_escapes(page: str) -> None:
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_verdicts_come_first_and_sections_in_order(page: str) -> None:
    ids = re.findall(r'<h2 id="(\w+)"', page)
    order = "verdicts results differences figures curves leak tuning environment again provenance"
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
