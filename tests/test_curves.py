"""The curves of a number's runs: what the figure shows, and where pages lead to it."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bundles import made_up
from helpers import Output

from harness.analysis.bundle import Bundle
from harness.analysis.tables import curves
from harness.analysis.tables.curves import epoch_table, svg
from harness.analysis.tables.pages import curve_files, results_page
from harness.analysis.tables.runs import sections
from harness.cli import main

FILE = "experiments/tiny.yaml"
RESULTS = Path("experiments/results")
SVG = "{http://www.w3.org/2000/svg}"
LOSSES = [[4.0, 0.9, 0.03, 0.011], [3.5, 0.7, 0.05, 0.02]]
TESTS = [[None, 0.31, None, 0.87], [None, 0.42, None, 0.91]]


def bundle_of(**metrics: list[list[float | None]]) -> Bundle:
    """Return a bundle of two plain students with these curves, one per seed."""
    bundle = made_up({("plain", "student", "wrn-10-1"): [0.87, 0.91]}, methods=["plain"])
    for number in bundle.numbers:
        number.cell.manifest.epochs = number.cell.manifest.selected_epoch = 4
        number.cell.curves = {
            name.replace("_", "/"): values[number.seed] for name, values in metrics.items()
        }
    return bundle


def figure_of(bundle: Bundle) -> str:
    (at,) = sections(bundle).values()
    return svg(bundle, *at)


def decoded(group: ElementTree.Element, ticks: dict[float, float], is_log: bool) -> list[list]:
    """Return (epoch, value) of the points of each line of a panel's first path."""
    (y0, v0), *_, (y1, v1) = sorted((y, math.log10(v) if is_log else v) for v, y in ticks.items())
    lines = []
    for line in filter(None, group.find(f"{SVG}path").get("d").split("M")):
        numbers = [int(n) for n in re.findall(r"-?\d+", line)]
        x, y, points = 0, 0, []
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            value = v0 + (v1 - v0) * (y - y0) / (y1 - y0)
            points.append((x + 1, 10**value if is_log else value))
        lines.append(points)
    return lines


def test_a_figure_shows_the_measured_values_of_each_seed() -> None:
    text = figure_of(bundle_of(loss_total=LOSSES, test_accuracy=TESTS))
    root = ElementTree.fromstring(text)
    groups = root.findall(f"{SVG}g")
    assert len(groups) == 2
    for group, expected, is_log in zip(groups, (LOSSES, TESTS), (True, False), strict=True):
        left = float(re.search(r"translate\((\d+)", group.get("transform"))[1])
        ticks = {
            float(text.text): float(text.get("y")) - 4
            for text in root.findall(f"{SVG}text")
            if text.get("text-anchor") == "end" and 0 < left - float(text.get("x")) < 20
        }
        for line, values in zip(decoded(group, ticks, is_log), expected, strict=True):
            measured = [(i, v) for i, v in enumerate(values, 1) if v is not None]
            assert [epoch for epoch, _ in line] == [epoch for epoch, _ in measured]
            for (_, shown), (_, value) in zip(line, measured, strict=True):
                assert shown == pytest.approx(value if is_log else 100 * value, rel=0.1)
    ends = [
        (int(x) + int(dx), int(y) + int(dy))
        for x, y, dx, dy in re.findall(r"M(\d+) (\d+)l(\d+) ?(-?\d+)(?=M|\")", text)
    ]
    dots = [(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h0", text)]
    assert len(dots) == 2 and dots == ends, "the table's numbers are those after the last epoch"


def test_a_figure_is_legible_on_white_and_black_and_depends_on_nothing() -> None:
    text = figure_of(bundle_of(loss_total=LOSSES, train_accuracy=LOSSES, test_accuracy=TESTS))
    assert len(text) < 3000
    assert not re.search(r"<style|<script|<image|href| id=|url\(", text)
    assert re.findall('font-family="(.*?)"', text) == ["sans-serif"]

    def luminance(color: str) -> float:
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for color in set(re.findall("#[0-9a-f]{6}", text)) | {*curves.COLORS.values()}:
        for paper in ("#ffffff", "#0d1117"):
            dark, light = sorted(map(luminance, (color, paper)))
            assert (light + 0.05) / (dark + 0.05) >= 3, f"{color} on {paper}"


def test_an_older_bundle_shows_what_it_has() -> None:
    without_loss = bundle_of(test_accuracy=TESTS)
    text = figure_of(without_loss)
    assert "training loss" not in text and "accuracy" in text
    (at,) = sections(without_loss).values()
    table = epoch_table(without_loss, *at)
    assert table is not None and [[c.text for c in row] for row in table.rows] == [
        ["0", "31.0", "87.0"],
        ["1", "42.0", "91.0"],
    ]
    bare = bundle_of()
    assert figure_of(bare) == "" and curve_files(bare) == {}
    page = results_page(bare)
    assert "![" not in page and "<details>" not in page


@pytest.mark.parametrize(
    "values",
    [
        *([0.0, 0.5], [2.0, 2.0], [-1.0, 3.0], [1.1, 1.4], [1e-9, 4e9]),
        *([1e17, 1e17], [5e-324, 1.0], [0.0, 0.0], [-2.0, -2.0]),
    ],
)
def test_any_loss_can_be_drawn(values: list[float]) -> None:
    text = figure_of(bundle_of(loss_total=[values, values], test_accuracy=[[0.5], [None]]))
    ticks = re.findall('text-anchor="end">(.*?)</text>', text.split("<g")[0])
    *ticks, last_epoch = ticks
    assert last_epoch == "2" and (len(ticks) > 1 or values[0] == values[1])
    assert sorted(ticks, key=float) == ticks and len(set(ticks)) <= curves.TICKS + 1


def test_many_epochs_are_thinned_to_the_first_and_the_last() -> None:
    assert curves._thinned([*range(100)], 10) == [0, *range(9, 100, 10)]
    assert curves._thinned([7], 10) == [7]
    long = [[1 / n for n in range(1, 1001)]] * 2
    assert len(figure_of(bundle_of(loss_total=long, test_accuracy=long))) < 4000


def test_tables_writes_the_curves_and_check_finds_stale_ones(
    project_copy: Path, capsys: Output
) -> None:
    Path("README.md").write_text("<!-- table:tiny -->\n<!-- /table:tiny -->\n")
    assert main(["tables", FILE]) == 0
    page = (RESULTS / "tiny.md").read_text()
    figures = re.findall(r"!\[Curves of .*?\]\((.*?)\)", page)
    assert len(figures) == 6 and "curves/tiny/kd-wrn-10-1.svg" in figures
    kd = RESULTS / "curves/tiny/kd-wrn-10-1.svg"
    assert [*map(str, sorted((RESULTS / "curves").glob("*/*")))] == sorted(
        str(RESULTS / name) for name in figures
    )
    lines = (RESULTS / "tiny.jsonl").read_text().splitlines()
    for fingerprint, line in re.findall(r"`([0-9a-f]{16})`\]\(tiny\.jsonl#L(\d+)\)", page):
        assert json.loads(lines[int(line) - 1])["fingerprint"].startswith(fingerprint)
    assert "/ " in page.split("### KD")[1].split("<details>")[1].split("</details>")[0]
    written = kd.read_text()
    other = kd.with_name("gone.svg")
    changed = written.replace("M0 ", "M0 1")
    for path, data in ((kd, changed.encode()), (kd, bytes([255])), (other, written.encode())):
        path.write_bytes(data)
        capsys.readouterr()
        assert main(["tables", "--check"]) == 1 and str(path) in capsys.readouterr().out
        assert main(["tables"]) == 0 and main(["tables", "--check"]) == 0
        assert kd.read_text() == written and not other.exists()
