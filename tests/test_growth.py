"""A bundle that is made from the runs of several stores, of which only one is left."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from bundles import TASKS, without_training
from helpers import Output, refusal, snapshot

from harness.analysis.export import export
from harness.analysis.growth import check_nothing_lost, merge
from harness.cli import main
from harness.experiment.file import read
from harness.plan import Plan
from harness.run.grid import plan_of
from harness.store import Store

FILE = Path("experiments/cross.yaml")
SMALL = TASKS | {
    "tasks": {"classes": 5, "overlap": [5], "shots": [5]},
    "students": TASKS["students"][:1],
    "methods": ["plain", "refilled"],
}


def store_of(name: str, plan: Plan, device: str) -> Path:
    """Return a store where a plan was "trained" on a device."""
    without_training(plan, Path(name))
    for cell in Store(Path(name)).all():
        cell.finish(cell.manifest.model_copy(update={"device": device}))
    return Path(name)


def planned(seeds: list[int]) -> tuple[Plan, str]:
    assignment = f"seeds={seeds}"
    return plan_of(read(FILE, [assignment])), assignment


@pytest.fixture
def project(here: Path) -> Path:
    """An experiment without results."""
    FILE.parent.mkdir()
    FILE.write_text(yaml.safe_dump(SMALL))
    Path("README.md").write_text("<!-- table:cross -->\n<!-- /table:cross -->\n")
    return here


@pytest.mark.parametrize("options", [[], ["--replication"]])
def test_a_bundle_grows_seed_by_seed(project: Path, capsys: Output, options: list[str]) -> None:
    """It is that of one store with all runs, each with its device; no number is lost unsaid."""
    early, late = (planned(seeds) for seeds in ([10, 11], [12]))
    old = store_of("old", early[0], "cpu")
    if options:  # the first bundle, of other seeds
        first, assignment = planned([0])
        store = store_of("first", first, "cpu")
        assert main(["tables", str(FILE), "--set", assignment, "--store", str(store)]) == 0
    command = ["tables", str(FILE), *options, "--set"]
    assert main([*command, early[1], "--store", str(old), "--keep"]) == 0, "nothing to keep yet"
    new = store_of("new", late[0], "cuda")
    plan, assignment = planned([10, 11, 12])
    everything = shutil.copytree(old, "all")
    shutil.copytree(new, everything, dirs_exist_ok=True)
    shutil.rmtree(old)
    written = snapshot(project)
    only_new = refusal(capsys, *command, late[1], "--store", "new")
    assert "seed 10, 11" in only_new and "'seeds=[10, 11, 12]'" in only_new
    together = [*command, assignment, "--store", "new"]
    assert "--keep" in refusal(capsys, *together)
    assert "--mixed" in refusal(capsys, *together, "--keep")
    more = [*command, "seeds=[10, 11, 12, 13]", "--store", "new"]
    assert "4 of 16 cells are neither" in refusal(capsys, *more, "--keep")
    assert snapshot(project) == written
    assert main([*together, "--keep", "--mixed"]) == 0
    bundle = Path(f"experiments/results/cross{'.replication' * bool(options)}.jsonl")
    assert bundle.read_text() == export(plan, Path(everything), FILE, [assignment])
    assert "Device: cpu, cuda" in bundle.with_suffix(".md").read_text()
    assert main(["tables", "--check"]) == 0, "what was allowed once stays so"
    assert main([*together, "--keep", "--mixed", "--check"]) == 0


def test_where_both_have_a_run_the_stores_counts(project: Path, capsys: Output) -> None:
    plan, assignment = planned([10, 11])
    store = store_of("store", plan, "cpu")
    command = ["tables", str(FILE), "--store", "store", "--keep", "--set", assignment]
    assert main(command) == 0
    path = Path("experiments/results/cross.jsonl")
    before = path.read_text()
    capsys.readouterr()
    assert main(command) == 0 and "other numbers" not in capsys.readouterr().out
    cell = Store(store).directory(next(f for f, c in plan.cells.items() if c.kind == "stage1"))
    results = {name: forms | {"best_on_test": 1.0} for name, forms in cell.manifest.results.items()}
    cell.finish(cell.manifest.model_copy(update={"results": results}))
    whole = export(plan, store, FILE, [assignment])
    shutil.rmtree(Store(store).directory([*plan.cells][-1]).path)
    assert main(command) == 0
    assert "1 run has other numbers in the store" in capsys.readouterr().out
    after = path.read_text()
    assert after == whole != before
    header, *lines = after.splitlines(keepends=True)
    path.write_text(header.replace('"momentum":0.9', '"momentum":0.8') + "".join(lines))
    assert main(command) == 0 and path.read_text() == after
    assert "other settings (optimizer.momentum: 0.8 there" in capsys.readouterr().out
    path.write_text(header[:-9])
    assert "cannot be read" in check_nothing_lost(path, after)


def test_a_kept_run_has_the_entries_of_the_plan(project: Path) -> None:
    """The plain student becomes a teacher as well once a method needs one."""
    unused = ("tasks", "stage1", "stage2")
    raw = {name: value for name, value in SMALL.items() if name not in unused}
    raw |= {"students": [SMALL["teacher"]], "seeds": [0], "methods": ["plain"]}
    FILE.write_text(yaml.safe_dump(raw))
    committed = without_training(plan_of(read(FILE)), Path("old"))
    FILE.write_text(yaml.safe_dump(raw | {"methods": ["plain", "kd"]}))
    plan = plan_of(read(FILE))
    without_training(plan, Path("new"))
    whole = export(plan, Path("new"), FILE, [])
    (kept,) = (json.loads(line)["fingerprint"] for line in committed.splitlines()[1:])
    (Store(Path("new")).directory(kept) / "manifest.json").unlink()
    assert merge(plan, export(plan, Path("new"), FILE, [], is_partial=True), committed) == whole
