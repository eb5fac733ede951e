"""Results -> bundles -> tables, pages and figures."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bundles import (
    BUNDLE,
    FILE,
    as_text,
    changed_bundle,
    exported,
    planned,
    with_seeds,
    without_training,
)
from helpers import Output, cells, refusal, snapshot, write_experiment
from scipy import stats

from harness.analysis.bundle import Bundle, bundle_path, read_bundle
from harness.analysis.export import export, trained
from harness.analysis.readme import replace_between_markers
from harness.analysis.statistics import estimate
from harness.analysis.tables.accuracy import accuracy_tables
from harness.analysis.tables.caption import caption
from harness.analysis.tables.pages import results_page, table_blocks
from harness.analysis.tables.result_table import DASH, Cell
from harness.analysis.tables.rows import epochs_of, rows_of
from harness.analysis.verdicts import verdicts_of
from harness.cli import main
from harness.common.errors import UserError
from harness.common.metrics import SELECTION_RULES
from harness.experiment.file import read
from harness.run.grid import plan_of
from harness.store import Store

PAGE = "experiments/results/tiny.md"
README = """# Project

Put `<!-- table:tiny -->` and `<!-- /table:tiny -->` where the table belongs.

<!-- table:tiny -->
<!-- /table:tiny -->

In a line of its own, `<!-- /table:tiny -->` ends it.
"""

# -- statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_interval_is_scipys(confidence: float) -> None:
    values = [0.913, 0.887, 0.9021, 0.95, 0.8713]
    found = estimate(values, confidence)
    low, high = stats.t.interval(
        confidence, len(values) - 1, loc=found.mean, scale=stats.sem(values)
    )
    assert found.mean - found.half_width == pytest.approx(low, rel=1e-12)
    assert found.mean + found.half_width == pytest.approx(high, rel=1e-12)


def test_one_value_has_no_spread_and_none_no_estimate() -> None:
    found = estimate([0.5])
    assert found is not None and found.half_width is None
    assert Cell.percent(found).text == "50.00 (1)" and "±" not in Cell.percent(found).text
    assert estimate([]) is None


def test_equal_values_have_a_spread_of_zero() -> None:
    found = estimate([0.25, 0.25, 0.25])
    assert found is not None and Cell.percent(found).text == "25.00 ± 0.00 (3)"


def test_an_interval_of_two_seeds_is_not_shown() -> None:
    """It is wide enough to say nothing: 44.8 ± 119.1, for example."""
    found = estimate([0.25, 0.26])
    assert found is not None and found.half_width is not None
    assert Cell.percent(found).text == "25.50 (2)"


# -- markers ---------------------------------------------------------------------------------------

START, END = "<!-- table:x -->", "<!-- /table:x -->"


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    other = "<!-- table:x-2 -->\nkept\n<!-- /table:x-2 -->\n"
    text = f"before `{END}`\n{START}\nold\n{END}\nsee `{START}`,\nsee `{END}` and more\n{other}"
    assert replace_between_markers(text, "x", "\nnew\n", "F") == text.replace("\nold\n", "\nnew\n")


def test_replacing_twice_changes_nothing_more() -> None:
    once = replace_between_markers(f"a\n{START}\n{END}\nb", "x", "| 1 |\n", "F")
    assert once == f"a\n{START}\n| 1 |\n{END}\nb"
    assert replace_between_markers(once, "x", "| 1 |\n", "F") == once


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nothing", "stands 0 times"),
        (f"{START}\n", "'<!-- /table:x -->' stands 0 times"),
        (f"{END}\n", "'<!-- table:x -->' stands 0 times"),
        (f"{START}\n{END}\n{START}\n{END}\n", "stands 2 times"),
        (f"{START}\n{START}\n{END}\n", "stands 2 times"),
        (f"{START}\n{END}\n{END}\n", "stands 2 times"),
        (f"  {START}\n  {END}\n", "stands 0 times"),
        (f"{END}\n{START}\n", "stands before"),
    ],
)
def test_wrong_markers_fail(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)) as error:
        replace_between_markers(text, "x", "new", "README.md")
    assert str(error.value).startswith("README.md: ")


# -- bundles made up from a real one ---------------------------------------------------------------


@pytest.fixture(scope="session")
def bundle_text(finished: Path) -> str:
    return exported(finished)


def table_rows(bundle: Bundle) -> dict[str, list[str]]:
    """Label -> texts of the cells, with the epochs aside."""
    (table,) = accuracy_tables(bundle)
    return {row[0].text: [cell.text for cell in row[2:]] for row in table.rows}


def test_a_bundle_holds_what_the_manifests_say(finished: Path, bundle_text: str) -> None:
    bundle = read_bundle(Path("x.jsonl"), bundle_text)
    assert bundle.name == "tiny" and bundle.reported == "selected"
    for number in bundle.numbers:
        kind = "supervised" if number.stage in ("teacher", "student") else number.stage
        manifest = cells(finished)[kind].manifest
        for rule in SELECTION_RULES:
            assert number.accuracy(rule) == manifest.results[number.result][rule]
        assert list(number.cell.manifest.commits) == manifest.commits
        assert number.cell.manifest.torch == manifest.torch
        assert re.fullmatch("[0-9a-f]{32}", number.cell.mlflow_run_id or "")
    assert {n.stage for n in bundle.numbers} == {"teacher", "student", "kd", "stage1", "stage2"}


def test_mean_and_interval_over_seeds(bundle_text: str) -> None:
    bundle = changed_bundle(bundle_text, with_seeds([0.7, 0.8, 0.9]))
    rows = table_rows(bundle)
    assert {text for row in rows.values() for text in row} == {"80.00 ± 24.84 (3)"}
    assert list(rows) == [
        "Teacher",
        "Student",
        "KD",
        "ReFilled (tuple) after stage 1: NCM, centres from train",
        "ReFilled (tuple) after stage 1: NCM, centres from the evaluated set",
        "ReFilled (tuple)",
    ]


def test_epochs_stand_beside_each_row(bundle_text: str) -> None:
    (table,) = accuracy_tables(changed_bundle(bundle_text, published))
    assert table.head[:2] == ["", "epochs"]
    assert [row[1].text for row in table.rows] == ["2", "2", "2", "2", "2", "2 + 2", DASH]


def test_epochs_of_a_stage_without_cells_are_unknown(bundle_text: str) -> None:
    def drop_stage1(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        lines[:] = [line for line in lines if line["kind"] != "stage1"]

    bundle = changed_bundle(bundle_text, drop_stage1)
    assert [epochs_of(bundle, row) for row in rows_of(bundle)] == ["2"] * 3 + [DASH] * 3


def test_the_reported_form_follows_the_protocol(bundle_text: str) -> None:
    for form, expected in {"last": "40.00 (1)", "best_on_test": "60.00 (1)"}.items():

        def change(header: dict[str, Any], lines: list[dict[str, Any]], form: str = form) -> None:
            with_seeds([0.5])(header, lines)
            header["reported"] = form

        bundle = changed_bundle(bundle_text, change)
        assert table_rows(bundle)["KD"] == [expected]
    assert any("leak" in line for line in caption(bundle)), "chosen on the test set: it says so"


def test_one_seed_prints_no_spread(bundle_text: str) -> None:
    for row in table_rows(read_bundle(BUNDLE, bundle_text)).values():
        assert re.fullmatch(r"\d+\.\d\d \(1\)", row[0]), row


def test_missing_prints_as_a_dash(bundle_text: str) -> None:
    def drop_kd(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        lines[:] = [line for line in lines if line["kind"] != "kd"]

    bundle = changed_bundle(bundle_text, drop_kd)
    assert table_rows(bundle)["KD"] == [DASH]
    assert "### KD" not in results_page(bundle)


def published(header: dict[str, Any], _: list[dict[str, Any]]) -> None:
    common = {"source": "paper", "protocol": "unstated", "metric": "test_accuracy"}
    header["published"] = [
        common | {"row": "Theirs", "wrn-10-1": "77.49", "wrn-40-2": "99.99"},
        common | {"row": "Elsewhere", "wrn-10-1": "", "wrn-40-2": "55.55"},
    ]


def test_published_rows_appear_with_dashes(bundle_text: str) -> None:
    def two_students(header: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        published(header, lines)
        for line in json.loads(json.dumps(lines)):
            line["fingerprint"] = "f" + line["fingerprint"][1:]
            line["entries"] = [
                e | {"student": "resnet-8"} for e in line["entries"] if e["stage"] != "teacher"
            ]
            lines.append(line)

    (table,) = accuracy_tables(changed_bundle(bundle_text, two_students))
    label, _, *values = table.rows[-1]
    assert (label.value, label.note) == ("Theirs", " (paper, unstated)")
    assert [cell.text for cell in values] == ["77.49", DASH], "wrn-40-2 is no student here"
    assert not any(row[0].value == "Elsewhere" for row in table.rows), "no number for a column"


def github_slugs(page: str) -> list[str]:
    """Targets of a page's headings, as GitHub's renderer makes them."""
    titles = [line.lstrip("#").strip() for line in page.splitlines() if line.startswith("#")]
    slugs: list[str] = []
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        n = sum(s == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", s) is not None for s in slugs)
        slugs.append(f"{slug}-{n}" if n else slug)
    return slugs


def test_every_number_links_to_a_heading(bundle_text: str) -> None:
    def odd_names(header: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        with_seeds([0.5, 0.6])(header, lines)
        header["experiment"]["methods"] = ["plain", "kd", "refilled", "refilled-one-negative"]
        for line in json.loads(json.dumps(lines)):
            line["fingerprint"] = "f" + line["fingerprint"][1:]
            line["entries"] = [
                e | {"student": "mobilenet-0.50"} | more
                for e in line["entries"]
                if e["stage"] != "teacher"
                for more in ({}, {"method": e["method"] + "-one-negative"})
            ]
            lines.append(line)

    bundle = changed_bundle(bundle_text, odd_names)
    page = results_page(bundle)
    targets = re.findall(r"\]\(#(.*?)\)", page)
    slugs = github_slugs(page)
    assert len(targets) > 12 and set(targets) <= set(slugs)
    assert len(set(slugs)) == len(slugs)
    for number in bundle.numbers:
        assert f"| {number.seed} | " in page
        assert f"`{number.cell.fingerprint[:16]}`" in page
        assert number.cell.mlflow_run_id and number.cell.mlflow_run_id in page


@pytest.mark.parametrize(("field", "names"), [("device", ["NVIDIA H100"]), ("commits", ["0", "1"])])
def test_the_caption_names_what_is_mixed(bundle_text: str, field: str, names: list[str]) -> None:
    def mix(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        lines[-1]["manifest"][field] = names if field == "commits" else names[0]

    text = "\n".join(caption(changed_bundle(bundle_text, mix)))
    assert all(name in text for name in names)


def test_the_caption_says_how_to_get_the_numbers_again(bundle_text: str) -> None:
    bundle = read_bundle(BUNDLE, bundle_text)
    text = "\n".join(caption(bundle))
    manifest = json.loads(bundle_text.splitlines()[-1])["manifest"]
    for part in ("harness run", "tiny.yaml", "strict", "validation", "297 train", "1400 test"):
        assert part in text
    assert manifest["commits"][0][:12] in text and manifest["data"]["digest"][:12] in text


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"bundle": 99}', '{"bundle": 1}'])
def test_what_is_no_bundle_is_refused(content: str) -> None:
    with pytest.raises(UserError, match="harness tables FILE"):
        read_bundle(Path("x.jsonl"), content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "no base64"])
def test_images_that_are_right_fit_the_accuracy(bundle_text: str, damage: str) -> None:
    def change(header: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        bits = lines[0]["correct"]["bits"]
        packed = bytes(255 - byte for byte in base64.b64decode(bits))
        damaged = {"flipped": base64.b64encode(packed).decode(), "cut": bits[4:], "no base64": "?"}
        lines[0]["correct"]["bits"] = damaged[damage]

    with pytest.raises(UserError, match=r"line 2.*") as error:
        changed_bundle(bundle_text, change)
    assert "harness tables" in str(error.value)


def test_rows_of_a_plain_grid_have_no_teacher(bundle_text: str) -> None:
    def plain(header: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        header["experiment"]["methods"] = ["plain"]
        lines[:] = [line for line in lines if line["kind"] == "supervised"]
        lines[0]["entries"] = [e for e in lines[0]["entries"] if e["stage"] == "student"]

    bundle = changed_bundle(bundle_text, plain)
    assert [r.label for r in rows_of(bundle)] == ["Student"]
    assert list(table_rows(bundle)) == ["Student"]


# -- the commands ----------------------------------------------------------------------------------


@pytest.fixture
def project(project_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished project with a README, and this process in it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (project_copy / "README.md").write_text(README)
    return project_copy


def test_tables_writes_readme_bundle_page_and_figure(project: Path) -> None:
    assert main(["tables", FILE]) == 0
    text = (project / "README.md").read_text()
    before, after = README.split("<!-- table:tiny -->\n<!-- /table:tiny -->\n")
    assert text.startswith(before) and text.endswith(after)
    (link,) = set(re.findall(r"\]\((\S+)#", text))
    assert "## Runs" in (project / link).read_text()
    assert (project / "docs/figures/tiny/accuracy.png").read_bytes().startswith(b"\x89PNG")
    accuracy = cells(project)["kd"].manifest.results["accuracy"]["selected"]
    (line,) = (line for line in text.splitlines() if line.startswith("| KD |"))
    assert f"{100 * accuracy:.2f} (1)" in line


def test_a_table_may_stand_on_a_page_of_docs(project: Path) -> None:
    page, readme = project / "docs" / "comparison.md", project / "README.md"
    page.parent.mkdir()
    page.write_text(README)
    readme.write_text("# Nothing between markers\n")
    assert main(["tables", FILE]) == 0
    assert readme.read_text() == "# Nothing between markers\n"
    targets = re.findall(r"\]\(([^)#]+)#", page.read_text())
    assert targets and {(page.parent / t).resolve() for t in targets} == {project / PAGE}
    assert main(["tables", "--check"]) == 0
    page.write_text(page.read_text().replace("Seeds: 0", "Seeds: 1"))
    assert main(["tables", "--check"]) == 1


def test_other_seeds_are_kept_beside_the_first(project: Path, capsys: Output) -> None:
    """They have a page of their own and no table; the same seeds are refused."""
    assert main(["tables", FILE]) == 0
    written = snapshot(project)
    assert "seeds" in refusal(capsys, "tables", FILE, "--replication")
    assert snapshot(project) == written
    header, *lines = map(json.loads, BUNDLE.read_text().splitlines())
    with_seeds([0.1, 0.11, 0.12])(header, lines)
    header["experiment"]["claims"] = ["kd > plain"]
    BUNDLE.write_text(as_text([header, *lines]))
    for line in lines:
        for entry in line["entries"]:
            entry["seed"] += 10
    header["experiment"]["seeds"] = [10, 11, 12]
    BUNDLE.with_name("tiny.replication.jsonl").write_text(as_text([header, *lines]))
    assert main(["tables"]) == 0
    page = (project / PAGE).read_text()
    assert "## Verdicts with two sets of seeds" in page and "1 open" in page
    (other,) = re.findall(r"\[(tiny.replication.md)\]\(\1\)", page)
    assert "Seeds: 10, 11, 12" in (project / PAGE).with_name(other).read_text()
    assert "Seeds: 0, 1, 2" in (project / "README.md").read_text()
    assert not (project / "docs/figures/tiny.replication").exists()
    assert main(["tables", "--check"]) == 0


def test_tables_needs_neither_store_nor_database_again(project: Path, capsys: Output) -> None:
    assert main(["tables", FILE]) == 0
    done = (project / "README.md").read_text()
    for path in (project / "runs", project / "mlartifacts"):
        shutil.rmtree(path)
    for path in (project / "mlflow.db", project / FILE, project / "docs/figures/tiny/accuracy.png"):
        path.unlink()
    (project / "README.md").write_text(README)
    assert main(["tables"]) == 0
    assert (project / "README.md").read_text() == done
    assert (project / "docs/figures/tiny/accuracy.png").exists()
    capsys.readouterr()
    assert main(["tables"]) == 0 and "up to date" in capsys.readouterr().out
    assert main(["tables", "--check"]) == 0


@pytest.mark.parametrize("where", ["README.md", PAGE])
def test_check_finds_one_number_changed_by_hand(project: Path, capsys: Output, where: str) -> None:
    assert main(["tables", FILE]) == 0
    assert main(["tables", "--check"]) == 0
    path = project / where
    text = path.read_text()
    number = re.search(r"(\d)\.\d\d \(1\)" if where == "README.md" else r"(\d)\.\d\d \|", text)
    digit = str((int(number[1]) + 1) % 10)
    path.write_text(text[: number.start(1)] + digit + text[number.end(1) :])
    before = snapshot(project)
    capsys.readouterr()
    assert main(["tables", "--check"]) == 1
    assert where in capsys.readouterr().out
    assert snapshot(project) == before, "--check changed a file"
    assert main(["tables"]) == 0 and path.read_text() == text


def test_check_notices_newer_results(project: Path) -> None:
    assert main(["tables", FILE]) == 0
    cell = cells(project)["stage2"]
    manifest = cell.manifest
    manifest.results["accuracy"]["best_on_test"] = 0.5
    cell.finish(manifest)
    assert main(["tables", "--check"]) == 0, "the bundle and the README still agree"
    assert main(["tables", FILE, "--check"]) == 1


def test_a_second_call_changes_nothing_and_text_around_the_table_is_free(project: Path) -> None:
    assert main(["tables", FILE]) == 0
    path = project / "README.md"
    path.write_text(path.read_text().replace("# Project", "# Another title"))
    before = snapshot(project)
    assert main(["tables", FILE]) == 0 and main(["tables", "--check"]) == 0
    assert snapshot(project) == before


def test_print_writes_nothing(project: Path, capsys: Output) -> None:
    before = snapshot(project)
    assert main(["tables", FILE, "--print"]) == 0
    assert snapshot(project) == before
    out = capsys.readouterr().out
    assert "ReFilled (tuple)" in out and "](" not in out


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("unfinished", ["1 of 4 cells are not finished", f"harness run {FILE}"]),
        ("no marker", ["README.md", "stands 0 times"]),
        ("no readme", ["README.md", "--print"]),
        ("mixed", ["different device", "--mixed"]),
    ],
)
def test_tables_refuses_and_changes_nothing(
    project: Path, capsys: Output, damage: str, words: list[str]
) -> None:
    cell = cells(project)["kd"]
    if damage == "unfinished":
        (cell / "manifest.json").unlink()
    elif damage == "no marker":
        (project / "README.md").write_text("# Project\n")
    elif damage == "no readme":
        (project / "README.md").unlink()
    else:
        cell.finish(cell.manifest.model_copy(update={"device": "another"}))
    before = snapshot(project)
    line = refusal(capsys, "tables", FILE)
    for word in words:
        assert word in line
    assert snapshot(project) == before
    if damage == "mixed":
        assert main(["tables", FILE, "--mixed"]) == 0
        assert "another" in (project / "README.md").read_text()


def test_tables_without_any_bundle(project: Path, capsys: Output) -> None:
    assert "name an experiment file" in refusal(capsys, "tables")


def test_published_numbers_come_from_the_csv(project: Path) -> None:
    folder = project / "experiments" / "published"
    folder.mkdir()
    columns = {"source": "paper", "row": "Theirs", "metric": "test_accuracy"}
    rows = [columns | {"protocol": "unstated", "wrn-10-1": value} for value in ("67.56", "")]
    pd.DataFrame(rows).to_csv(folder / "tiny.csv", index=False)
    write_experiment(project / FILE, published="published/tiny.csv")
    assert main(["tables", FILE]) == 0
    text = (project / "README.md").read_text()
    assert f"| *Theirs* (paper, unstated) | {DASH} | 67.56 |" in text
    assert text.count("*Theirs*") == 1


def test_the_bundle_survives_a_round_trip(project: Path) -> None:
    assert main(["tables", FILE]) == 0
    text = (project / BUNDLE).read_text()
    plan = plan_of(read(Path(FILE)))
    assert text == export(plan, Path("runs"), Path(FILE), [])
    again = as_text([json.loads(line) for line in text.splitlines()])
    one, two = read_bundle(BUNDLE), read_bundle(BUNDLE, again)
    assert one.numbers == two.numbers
    assert table_blocks(one) == table_blocks(two)
    assert len(text) < 20_000, "weights have no place in a bundle"
    assert len(Store(Path("runs")).all()) == len(text.splitlines()) - 1


def test_set_is_part_of_the_printed_command(project: Path) -> None:
    options = ["--set", "description=a b"]
    assert main(["tables", FILE, *options]) == 0
    text = (project / "README.md").read_text()
    assert f"Command: `harness run {FILE} --set 'description=a b'`" in text


def test_figures_redraws_from_the_bundles(project: Path) -> None:
    assert main(["tables", FILE]) == 0
    picture = project / "docs/figures/tiny/accuracy.png"
    before = picture.read_bytes()
    picture.unlink()
    assert main(["figures"]) == 0
    assert picture.read_bytes() == before


def test_a_store_is_its_bundle_and_verdicts_need_no_journal(tmp_path: Path) -> None:
    plan = planned(claims=["kd > plain"], seeds=[0, 1, 2])
    text, file = without_training(plan, tmp_path), Path("experiments/cross.yaml")
    bundle = read_bundle(bundle_path(plan), text)
    assert trained(plan, tmp_path, file, []) == bundle
    for fingerprint in plan.cells:
        (Store(tmp_path).directory(fingerprint) / "journal.jsonl").unlink()
    assert verdicts_of(trained(plan, tmp_path, file, [], numbers_only=True)) == verdicts_of(bundle)
