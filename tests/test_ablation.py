"""`harness ablate`: the way from legacy-2021 to strict, what its switches are worth, the leak."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import as_text, without_training
from helpers import TINY, changed, end_processes_in, write_experiment
from scipy import stats

import harness.run.ablate
from harness.analysis.ablation_tables import (
    FOLDER,
    MeasuredStep,
    ablation_blocks,
    bundles_text,
    merged,
    read_ablation,
    refresh_pages,
    report,
    worth,
)
from harness.analysis.generated_files import make_tables
from harness.analysis.tables.result_table import DASH, Cell, ResultTable
from harness.cli import main
from harness.common.errors import UserError
from harness.experiment.ablation import FIRST, FIXED, LAST, SWITCHES, Step, left_out, steps
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse
from harness.experiment.protocol import PRESETS
from harness.experiment.sources import apply_overrides
from harness.run.ablate import run_steps
from harness.run.grid import plan_of
from harness.run.options import RunOptions

SMALL: dict[str, Any] = TINY | {
    "students": [{"depth": 10, "width": 1}, {"depth": 10, "width": 2}],
    "seeds": [0, 1, 2],
}
FILE = Path("experiments/tiny.yaml")
N = len(SWITCHES) + 1
Line = dict[str, Any]


def way(raw: dict[str, Any] = SMALL) -> tuple[list[Step], list[Experiment]]:
    found = steps(parse(raw), [])
    return found, [parse(apply_overrides(raw, step.assignments)) for step in found]


# The steps


def test_each_step_turns_one_switch() -> None:
    found, experiments = way()
    protocols = [e.protocol for e in experiments]
    assert (protocols[0].preset, protocols[-1].preset) == ("legacy-2021", "strict")
    assert len(found) == N and [s.switch for s in found] == ["", *SWITCHES]
    for step, before, after in zip(found[1:], protocols[:-1], protocols[1:], strict=True):
        one, two = (p.model_dump(exclude={"preset"}) for p in (before, after))
        assert {k for k in one if one[k] != two[k]} == {step.switch}
        assert (str(one[step.switch]), str(two[step.switch])) == (step.before, step.after)
    assert {e.name for e in experiments} == {"tiny-ablation"}
    assert {p.train_on for p in protocols} == {"train"}, "nor do other images train"


def test_the_documented_order_is_the_one_of_the_presets() -> None:
    page = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
    page = page.split("<!-- ablation:")[0]  # whose tables begin with switches, too
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    order = [switch for switch in rows if switch in PRESETS["strict"]]
    assert order == list(PRESETS["strict"])
    assert [switch for switch in order if switch in SWITCHES] == list(SWITCHES)
    assert {*SWITCHES, FIXED} == {s for s in order if PRESETS[FIRST][s] != PRESETS[LAST][s]}


def test_of_another_protocol_only_the_rhythm_is_kept() -> None:
    protocol = {"preset": "strict", "selection": "last", "evaluate_every": 2}
    own = parse(SMALL | {"protocol": protocol})
    assert left_out(own.protocol) == ["selection: last"]
    experiments = [parse(apply_overrides(SMALL, step.assignments)) for step in steps(own, [])]
    assert {e.protocol.evaluate_every for e in experiments} == {2}
    assert experiments[-1].protocol_label == "strict(evaluate_every=2)"
    assert not left_out(parse(SMALL | {"protocol": "legacy-2021"}).protocol)


def test_steps_keep_what_was_given_before_their_own() -> None:
    found = steps(parse(SMALL), ["seeds=[7]", "protocol.selection=last"])
    raw = apply_overrides(SMALL, found[0].assignments)
    assert parse(raw).seeds == (7,) and parse(raw).protocol.preset == "legacy-2021"


def test_cells_that_a_switch_does_not_touch_are_shared() -> None:
    found, experiments = way()
    cells = [set(plan_of(e).cells) for e in experiments]
    after = {step.switch: own for step, own in zip(found, cells, strict=True)}
    before = dict(zip(after, [set(), *cells[:-1]], strict=True))
    assert not after["selection"] & before["selection"]
    kept = after["center_images"] & before["center_images"]
    assert len(kept) == len(after["center_images"]) - 6, "stage 2 of two students, three seeds"


# Training them


@pytest.mark.parametrize(
    ("statuses", "n_run", "status"), [([0] * N, N, 0), ([0, 3], 2, 3), ([1], 1, 1)]
)
def test_steps_run_in_order_until_one_does_not_finish(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statuses: list[int],
    n_run: int,
    status: int,
) -> None:
    ran: list[str] = []
    limits: list[float | None] = []
    given = RunOptions(Path("store"), jobs=2, max_seconds=25.0)

    def run_experiment(experiment: Experiment, options: RunOptions) -> int:
        limits.append(options.max_seconds)
        assert options == replace(given, max_seconds=options.max_seconds)
        ran.append(experiment.protocol_label)
        return statuses[len(ran) - 1]

    monkeypatch.setattr(harness.run.ablate, "run_experiment", run_experiment)
    clock = iter([0.0, 0.0, *(10.0 * n for n in range(1, N))])
    monkeypatch.setattr(harness.run.ablate.time, "monotonic", lambda: next(clock))
    found, experiments = way()
    own = parse(SMALL | {"protocol": {"preset": "strict", "selection": "last"}})
    ended = run_steps(own, found, experiments, given)
    assert ended == status
    assert ran == [e.protocol_label for e in experiments[:n_run]]
    assert limits == [max(0.0, 25.0 - 10.0 * n) for n in range(n_run)]
    said = capsys.readouterr().out
    assert "note: protocol.selection: last is left out" in said
    assert f"step 1 of {N}: legacy-2021" in said
    assert (f"step 2 of {N}: selection: test -> validation" in said) == (n_run > 1)


# Numbers, of cells that were never trained


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all steps, in which a cell's accuracy follows from its fingerprint."""
    root = tmp_path_factory.mktemp("ablation")
    for experiment in way()[1]:
        without_training(plan_of(experiment), root)
    return root


@pytest.fixture(scope="module")
def text(store: Path) -> str:
    return bundles_text(*way(), store, FILE)


Value = Callable[[int, int, str, str], float]  # (step, seed, student, method) -> accuracy


def with_values(text: str, value: Value) -> list[MeasuredStep]:
    """The ablation with these reported accuracies; in the other two forms nothing."""
    lines, n = [json.loads(line) for line in text.splitlines()], -1
    for line in lines:
        if "bundle" in line:
            n, reported = n + 1, line["reported"]
            continue
        for entry in line["entries"]:
            number = value(n, entry["seed"], entry["student"], entry["method"])
            line.pop("correct", None)  # they are those of another accuracy
            for forms in line["manifest"]["results"].values():
                forms |= dict.fromkeys(forms, 0.0) | {reported: number}
    return read_ablation(Path("x.jsonl"), as_text(lines))


KD = ("kd", "kd")


def test_worth_by_hand(text: str) -> None:
    """Two students of three seeds; step 1 takes 0.01, 0.02 and 0.06 from them on the average."""
    taken = {0: 0.01, 1: 0.02, 2: 0.06}

    def value(step: int, seed: int, student: str, method: str) -> float:
        luck = {"wrn-10-1": 0.5, "wrn-10-2": 0.7}[student] + 0.01 * seed
        own = {"wrn-10-1": 0.005, "wrn-10-2": -0.005}[student]
        return luck - (taken[seed] + own if step > 0 else 0)

    found = with_values(text, value)
    of_seeds = found[0].by_seed(KD)
    assert of_seeds == pytest.approx({0: 0.60, 1: 0.61, 2: 0.62})
    switch = worth(found[0], found[1], KD)
    assert switch is not None and switch.n == 3
    assert switch.mean == pytest.approx(0.03)
    half = stats.t.ppf(0.975, 2) * math.sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2) / math.sqrt(3)
    assert switch.half_width == pytest.approx(half)
    assert Cell.points(switch).text == f"+3.00 ± {100 * half:.2f} (3)"
    assert worth(found[1], found[2], KD) is None, "exactly 0 for every seed"


def test_the_leak_is_of_the_same_trainings(text: str) -> None:
    """The leak compares two epochs of one training, never two protocols."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        for entry in line.get("entries", ()):
            best = 0.9 + 0.01 * entry["seed"] * (entry["method"] == "kd")
            line.pop("correct", None)  # they are those of another accuracy
            for forms in line["manifest"]["results"].values():
                forms |= {"last": 0.9, "selected": 0.1, "best_on_test": best}
    found = read_ablation(Path("x.jsonl"), as_text(lines))
    leak = found[0].leak(KD)
    assert leak is not None and leak.mean == pytest.approx(0.01) and leak.n == 3
    assert found[0].leak(("plain", "student")) is None
    (table,) = [b for b in ablation_blocks(found) if isinstance(b, ResultTable)][2:]
    assert [row[0].text for row in table.rows] == ["legacy-2021", "strict"]
    assert [cell.text for cell in table.rows[0][1:]] == [DASH, DASH, "+1.00 ± 2.48 (3)", DASH, DASH]


def test_untouched_methods_have_a_dash(text: str) -> None:
    found = with_values(text, lambda step, seed, *_: 0.9 - 0.01 * step + 0.001 * seed)
    worths = ablation_blocks(found)[1]
    assert isinstance(worths, ResultTable)
    assert [row[0].value for row in worths.rows] == list(SWITCHES)
    touched = {
        "center_images": {("refilled", "stage2")},
        "ncm_centers": {("refilled", "stage1"), ("refilled", "stage2")},
        "initial_weights": {*found[0].rows} - {("teacher", "teacher")},
        "ties": {*found[0].rows},
    }
    for n, switch in enumerate(SWITCHES, 1):
        has_worth = {k for k in found[n].rows if worth(found[n - 1], found[n], k)}
        assert has_worth == touched.get(switch, has_worth)
        assert sum(cell.value is not None for cell in worths.rows[n - 1][1:]) == len(has_worth)


def test_a_switch_that_changes_no_number_is_named_once(text: str) -> None:
    turned = 1 + SWITCHES.index("last_look")
    found = with_values(text, lambda step, *_: 0.9 - 0.01 * (step - (step >= turned)))
    *_, worths, leaks = [b for b in ablation_blocks(found) if isinstance(b, ResultTable)]
    assert [row[0].value for row in worths.rows] == [s for s in SWITCHES if s != "last_look"]
    assert leaks.caption[0].count("`last_look`") == 1


def test_an_older_ablation_began_with_other_images(text: str) -> None:
    """In an old file the second step turned `train_on`; the step before it is left out."""
    lines = [json.loads(line) for line in text.splitlines()]
    second = next(n for n, line in enumerate(lines) if n and "bundle" in line)
    older = [*json.loads(json.dumps(lines[:second])), *lines]
    older[second]["step"] |= {"switch": FIXED, "before": "train+validation", "after": "train"}
    found = read_ablation(Path("x.jsonl"), as_text(older))
    assert len(found) == N and found[0].label.text == "legacy-2021"


def test_ncm_is_the_one_that_the_step_goes_by(text: str) -> None:
    found = read_ablation(Path("x.jsonl"), text)
    of_stage1 = [m.rows["refilled", "stage1"].result for m in found]
    turned = 1 + SWITCHES.index("ncm_centers")
    assert of_stage1 == ["ncm_eval_centers"] * turned + ["ncm_train_centers"] * (N - turned)


def test_the_tables(text: str) -> None:
    found = with_values(text, lambda step, seed, *_: 0.9 - 0.01 * step + 0.001 * seed)
    means, worths, leaks = (b for b in ablation_blocks(found) if isinstance(b, ResultTable))
    names = ["Teacher", "Student", "KD", "ReFilled (tuple) after stage 1", "ReFilled (tuple)"]
    assert means.head[1:] == worths.head[1:] == names
    assert [cell.text for cell in means.rows[0]] == ["legacy-2021", *["90.10 ± 0.25 (3)"] * 5]
    label, value, *_ = means.rows[1]
    assert (label.text + label.note, value.text) == (
        "selection: test → validation",
        "89.10 ± 0.25 (3)",
    )
    assert worths.rows[0][1].text == "+1.00 ± 0.00 (3)"
    assert leaks.caption[-1] == "Command: `harness ablate experiments/tiny.yaml`"
    assert "wrn-10-1, wrn-10-2" in leaks.caption[0]


def test_many_methods_stand_in_several_tables(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_ablation(Path("x.jsonl"), text)
    monkeypatch.setattr("harness.analysis.ablation_tables.MOST_METHODS", 3)
    tables = [b for b in ablation_blocks(found) if isinstance(b, ResultTable)]
    assert [len(table.head) for table in tables] == [4, 4, 4, 3, 3, 3]


def test_a_bundle_holds_no_curves(text: str) -> None:
    assert len(text) < 2_000_000 and '"curves"' not in text and '"confusion"' not in text
    assert len({c.fingerprint for c in merged(read_ablation(Path("x"), text)).cells}) > 20


def drop_step(lines: list[Line]) -> None:
    del lines[0]["step"]


def drop_header(lines: list[Line]) -> None:
    del lines[0]


def only_one(lines: list[Line]) -> None:
    second = [n for n, line in enumerate(lines) if "bundle" in line][1]
    del lines[second:]


def break_cell(lines: list[Line]) -> None:
    del lines[1]["manifest"]


@pytest.mark.parametrize("change", [drop_step, drop_header, only_one, break_cell])
def test_a_damaged_file_is_one_line(text: str, change: Callable[[list[Line]], None]) -> None:
    lines = [json.loads(line) for line in text.splitlines()]
    change(lines)
    with pytest.raises(UserError, match=r"^x\.jsonl: not a") as caught:
        read_ablation(Path("x.jsonl"), as_text(lines))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="harness ablate FILE"):
        read_ablation(Path("x.jsonl"), "no JSON\n")


# Pages


def test_the_page_follows_the_results(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("nothing\n")
    home = tmp_path / "docs" / "protocol.md"
    home.write_text("before\n<!-- ablation:tiny -->\n<!-- /ablation:tiny -->\nafter\n")
    before = sorted(tmp_path.rglob("*"))
    report("tiny", *way(), store, FILE, print_only=True, allow_mixed=False)
    printed = capsys.readouterr().out
    assert "leak, in points" in printed and "**" not in printed
    assert sorted(tmp_path.rglob("*")) == before

    report("tiny", *way(), store, FILE, print_only=False, allow_mixed=False)
    assert (FOLDER / "tiny.jsonl").exists()
    own, page = home.read_text(), (FOLDER / "tiny.md").read_text()
    assert own.startswith("before\n<!-- ablation:tiny -->\n| reported") and own.endswith("after\n")
    assert "[tiny.jsonl](tiny.jsonl)" in page and "leak, in points" in page

    results = FOLDER.parent / "x.jsonl"
    results.write_text(without_training(plan_of(parse(SMALL | {"name": "x"})), tmp_path / "runs"))
    (tmp_path / "README.md").write_text("<!-- table:x -->\n<!-- /table:x -->\n")
    monkeypatch.setattr("harness.analysis.generated_files.make_figures", lambda paths: None)
    assert make_tables([], store) == 0 and make_tables([], store, check=True) == 0
    for path in (home, FOLDER / "tiny.md"):
        good = path.read_text()
        path.write_text(good.replace("± 0", "± 1", 1))
        assert make_tables([], store, check=True) == 1
        path.write_text(good)
    assert make_tables([], store, check=True) == 0
    pages = {home: own}
    assert refresh_pages(pages)[FOLDER / "tiny.md"] == page and pages == {home: own}


def test_cells_of_two_commits_are_refused(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import harness.analysis.ablation_tables

    monkeypatch.chdir(tmp_path)
    lines = [json.loads(line) for line in text.splitlines()]
    lines[-1]["manifest"]["commits"] = ["1" * 40]
    monkeypatch.setattr(harness.analysis.ablation_tables, "bundles_text", lambda *_: as_text(lines))
    with pytest.raises(UserError, match="cells of different commits"):
        report("tiny", *way(), tmp_path, FILE, print_only=True, allow_mixed=False)
    report("tiny", *way(), tmp_path, FILE, print_only=True, allow_mixed=True)


# A real one


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    end_processes_in(tmp_path)


def test_a_real_ablation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = changed(methods=["plain"], training={"epochs": 1})
    file = write_experiment(folder / "tiny.yaml", yaml.safe_load(yaml.safe_dump(raw)))
    options = ["--store", str(folder / "runs"), "--no-bar", "--device", "cpu", "--jobs", "1"]
    assert main(["ablate", str(file), *options]) == 0
    said = capsys.readouterr().out
    assert f"step {N} of {N}: initial_weights: own -> shared" in said
    assert "leak, in points, under" in said
    # A plain student without a teacher: three of the switches touch it.
    assert len([*(folder / "runs").glob("*/manifest.json")]) == 4
    assert main(["ablate", str(file), *options, "--print"]) == 0
    again = capsys.readouterr().out
    assert again.count("nothing to do") == N
    assert again.splitlines()[-1] == said.partition("written")[0].strip().splitlines()[-1]
