"""A grid as a person sees it in MLflow's pages, in a real headless Chromium."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import browser as look
import pytest
from browser import Browser, Dashboard, dashboard
from helpers import HANG, TINY, call, start, write_experiment

from harness.store import Store

STUDENTS = ["wrn-10-1", "wrn-10-2"]
SMALL = TINY | {
    "name": "small",
    "description": "Two small students",
    "students": [{"depth": 10, "width": 1}, {"depth": 10, "width": 2}],
    "seeds": [0, 1],
}


@dataclass(frozen=True)
class Grid:
    """A finished grid: its folder, and the accuracies in % that `harness run` printed, by cell."""

    folder: Path
    printed: dict[str, float]


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Grid:
    look.require()
    folder = tmp_path_factory.mktemp("grid")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    file = write_experiment(folder / "small.yaml", SMALL)
    process = start(folder, "run", str(file), "--no-bar", "--device", "cpu")
    try:
        out, err = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, err
    accuracies = re.findall(r"^\[.*?\] (.+): \S+ ([\d.]+) %, ", out, re.MULTILINE)
    assert len(accuracies) == 16
    return Grid(folder, {name: float(percent) for name, percent in accuracies})


@pytest.fixture(scope="session")
def shown(grid: Grid) -> Iterator[Dashboard]:
    with dashboard(grid.folder) as running:
        yield running


@pytest.fixture(scope="module")  # other tests open one of their own, and there can be but one
def session(shown: Dashboard) -> Iterator[Browser]:
    with Browser(shown.address) as running:
        yield running


@pytest.fixture
def browser(session: Browser) -> Iterator[Browser]:
    """Yield a browser; its pages must have sent no request to another host."""
    yield session
    assert session.foreign == []


def rows(page: Any) -> dict[str, dict[str, str]]:
    """Return the visible table of runs: run name -> header -> text."""
    table: list[dict[str, str]] = page.evaluate(
        """() => {
            const header = {}, rows = {};
            for (const cell of document.querySelectorAll(".ag-header-cell"))
                header[cell.getAttribute("col-id")] = cell.innerText.trim();
            for (const cell of document.querySelectorAll(".ag-row .ag-cell")) {
                const row = cell.closest(".ag-row").getAttribute("row-index");
                rows[row] = rows[row] || {};
                // The cell of the name also holds the colour of the run's curve.
                const text = cell.innerText.trim().split("\\n").pop();
                rows[row][header[cell.getAttribute("col-id")]] = text;
            }
            return Object.values(rows);
        }"""
    )
    return {row["Run Name"]: row for row in table}


def test_three_views_are_printed(shown: Dashboard) -> None:
    assert list(shown.views) == ["cells and accuracies", "curves by epoch", "result of the grid"]
    assert all(url.startswith(f"{shown.address}/#/experiments/") for url in shown.views.values())


def test_a_server_that_runs_already_is_pointed_at(shown: Dashboard, grid: Grid) -> None:
    done = call(grid.folder, "ui", MLFLOW_TRACKING_URI=shown.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"MLflow: {shown.address} (it runs already)\nOpen first, of grid")
    assert [line.split()[-1] for line in done.stdout.splitlines()[2:]] == list(shown.views.values())


def test_the_table_of_cells(browser: Browser, shown: Dashboard, grid: Grid) -> None:
    from playwright.sync_api import expect

    page = browser.open(shown.views["cells and accuracies"])
    page.set_viewport_size({"width": 1400, "height": 1200})  # 16 rows, in any font
    look.cells(page)
    expect(page.get_by_text("16 matching runs")).to_be_visible()
    expected = [
        "Run Name",
        "Created",
        "method",
        "student",
        "stage",
        "seed",
        "test_accuracy",
        "test_ncm",
    ]
    expected += ["selected_epoch"]
    places = []
    for text in expected:
        header = page.locator(".ag-header-cell").get_by_text(text, exact=True)
        expect(header).to_be_in_viewport(ratio=0.5 if text == "Created" else 0.9)
        places.append(header.bounding_box()["x"])
    assert places == sorted(places)

    for name in grid.printed:
        expect(page.get_by_role("link", name=name, exact=True)).to_be_in_viewport(ratio=0.9)
    table = rows(page)
    assert list(table)[:2] == ["teacher wrn-10-1 s0", "teacher wrn-10-1 s1"], "baselines first"
    assert table.keys() == grid.printed.keys()
    for name, percent in grid.printed.items():
        row = table[name]
        column = "test_ncm" if row["stage"] == "stage1" else "test_accuracy"
        assert 100 * float(row[column]) == pytest.approx(percent, abs=0.006), name
        assert row["student"] in STUDENTS and row["student"] in name
        if name.startswith("teacher"):  # the same training as the plain student of its network
            assert (row["method"], row["stage"]) == ("plain", "student")
        else:
            assert row["method"] == {"student": "plain"}.get(name.split()[0], name.split()[0])
            assert row["stage"] in name
        assert name.endswith(f" s{row['seed']}")
        assert row["selected_epoch"] in {"1", "2"}


def test_the_curves_of_many_cells(browser: Browser, shown: Dashboard, grid: Grid) -> None:
    from playwright.sync_api import expect

    page = browser.open(shown.views["curves by epoch"])
    look.curves(page)
    chart = page.locator(look.CARD).first
    expect(chart.get_by_role("heading", name="validation/accuracy")).to_be_in_viewport(ratio=0.9)
    by_group: dict[tuple[str, str], list[list[float]]] = {}
    for cell in Store(grid.folder / "runs").all():
        if "train/accuracy" in cell.epochs()[0]:
            what = cell.cell.kind, str(cell.cell.config.network)
            values = [epoch["validation/accuracy"] for epoch in cell.epochs()]
            by_group.setdefault(what, []).append(values)
    recorded = [[sum(e) / len(e) for e in zip(*seeds, strict=True)] for seeds in by_group.values()]
    group = "method: plain, student: wrn-10-1, stage: student (validation/accuracy)"
    expect(chart.get_by_text(group)).to_be_in_viewport(ratio=0.9)
    plot = chart.locator(".js-plotly-plot")
    drawn = plot.evaluate("plot => plot.data.map(t => [t.mode, Array.from(t.y)])")
    lines = [y for mode, y in drawn if mode == "lines+markers" and y != [None]]
    assert sorted(lines) == [pytest.approx(values) for values in sorted(recorded)]
    for name in ("Classifiers: students, and last stages", "First stages: embeddings"):
        expect(page.get_by_text(name)).to_be_attached()


def test_the_bare_address_of_the_experiment_leads_there(browser: Browser, shown: Dashboard) -> None:
    url = shown.views["cells and accuracies"]
    page = browser.open(url.partition("/runs?")[0])
    page.get_by_role("button", name="Got it").click()  # what it says of language models
    page.locator('[data-component-id="mlflow.experiment.metadata_editor.expand_button"]').click()
    link = page.get_by_role("link", name="cells and accuracies")
    link.wait_for()
    assert link.get_attribute("href").endswith(url.partition("#")[2])


def test_the_result_table_of_the_grid(browser: Browser, shown: Dashboard, grid: Grid) -> None:
    from playwright.sync_api import expect

    page = browser.open(shown.views["result of the grid"])
    look.result(page)
    expect(page.get_by_role("heading", name=re.compile("^grid small"))).to_be_visible()
    table = page.locator("table").first
    expect(table).to_be_in_viewport(ratio=0.9)
    head = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    assert head == ["", "epochs", *STUDENTS]
    lines = [
        [text.strip() for text in row.locator("td").all_inner_texts()]
        for row in table.locator("tbody tr").all()
    ]
    seen = {label: dict(zip(STUDENTS, numbers, strict=True)) for label, _, *numbers in lines}
    cells = {"KD": "kd {}", "ReFilled (tuple)": "refilled {} stage2"}
    cells["ReFilled (tuple) after stage 1: NCM, centres from train"] = "refilled {} stage1"
    for label, cell in cells.items():
        for student in STUDENTS:
            values = [grid.printed[f"{cell.format(student)} s{seed}"] for seed in (0, 1)]
            match = re.fullmatch(r"(\d+\.\d\d)\s\(2\)", seen[label][student])
            assert match, seen[label][student]
            assert float(match[1]) == pytest.approx(mean(values), abs=0.011)
    assert seen["Teacher"]["wrn-10-1"] == seen["Student"]["wrn-10-1"] == seen["Teacher"]["wrn-10-2"]


def test_a_number_of_the_result_leads_to_its_runs(browser: Browser, shown: Dashboard) -> None:
    page = browser.open(shown.views["result of the grid"])
    look.result(page)
    row = page.locator("table").first.locator("tr").filter(has_text="KD")
    with page.expect_popup() as opened:
        row.get_by_role("link").nth(1).click()
    look.cells(opened.value)
    opened.value.get_by_text("2 matching runs").wait_for()
    assert set(rows(opened.value)) == {"kd wrn-10-2 s0", "kd wrn-10-2 s1"}


def test_the_registered_teacher(browser: Browser, shown: Dashboard) -> None:
    from playwright.sync_api import expect

    page = browser.open(look.teacher_page(shown))
    look.teacher(page)
    expect(page.get_by_role("heading", name="small-wrn-10-1")).to_be_in_viewport(ratio=0.9)
    versions = {
        row.get_by_role("link", name=re.compile("Version")).inner_text(): row
        for row in page.get_by_role("row").filter(has_text=re.compile(r"Version \d")).all()
    }
    assert sorted(versions) == ["Version 1", "Version 2"]
    aliases = {
        name: set(re.findall(r"@\s*(\S+)", row.inner_text())) for name, row in versions.items()
    }
    assert sum("teacher" in names for names in aliases.values()) == 1, aliases
    chosen = next(name for name, names in aliases.items() if "teacher" in names)
    alias = versions[chosen].get_by_text(re.compile(r"^@\s*teacher$"))
    expect(alias.first).to_be_in_viewport(ratio=0.9)
    expect(versions[chosen].get_by_text(re.compile(r"seed\s*:\s*0")).first).to_be_in_viewport()


def test_screenshots(browser: Browser, shown: Dashboard, tmp_path: Path) -> None:
    """HARNESS_SCREENSHOTS=DIR keeps them."""
    folder = Path(os.environ.get("HARNESS_SCREENSHOTS") or tmp_path)
    pictures = look.photograph(browser, shown, folder)
    assert [p.stem for p in pictures] == ["cells", "curves", "result", "teacher"]
    for picture in pictures:
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 250_000
        assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1400, 900)
