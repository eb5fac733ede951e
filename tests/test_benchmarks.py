"""Benchmarks: their arithmetic, their page, and that each of them runs."""

import contextlib
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch  # at the top, so that conftest.py makes autograd's place for the simulated GPU
from helpers import ROOT, Output, Patch, captured

sys.path.append(str(ROOT / "benchmarks"))
import frame
import page

MACHINE = {"kind": "cpu", "device": "cpu (x86_64)", "processor": "Some CPU", "threads": 2,
           "python": "3.12.3", "torch": "2.11", "commit": "0123456789", "dirty": False}  # fmt: skip


def compared(what: str, base: str, *others: str, **more: Any) -> dict[str, Any]:
    """Each other one takes half as long again as the base."""
    seconds = {base: [2.0, 4.0, 6.0]} | {name: [3.0, 6.0, 9.0] for name in others}
    return frame.comparison(what, seconds, base, **more)


def sweeps() -> list[dict[str, Any]]:
    def line(*sizes: int) -> dict[str, list[float]]:
        return {str(n): [0.1 * n, 0.2 * n, 0.3 * n] for n in sizes}

    import costs

    small = {a.name: line(*a.sizes) for a in costs.AXES}
    return [
        costs.sweep("batch", {costs.LOSS: small["batch"], costs.STEP: small["batch"]}),
        costs.sweep("classes", {costs.LOSS: small["classes"], costs.STEP: small["classes"]}),
        costs.sweep("images", {costs.EVALUATION: small["images"]}),
        costs.sweep("cells", {costs.PLAN: small["cells"]}),
    ]


def costs_record() -> frame.Record:
    setting = {"batch": 128, "classes": 100, "student": "wrn-16-1", "teacher": "wrn-40-2"}
    chunks = [compared("evaluation of 512 images", "512 at once", "32 at once")]
    return frame.record("costs", MACHINE, setting, sweeps=sweeps(), comparisons=chunks)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with a record of each benchmark."""
    shares = {"training": [0.5, 0.6, 0.7], "evaluation": [0.1, 0.1, 0.1]}
    numbers = {"equal": 24, "different": 0, "alone": 0}
    both = {"this code": shares, "the other commit": shares}
    tuning = {"this code": {"training": [0.3, 0.4, 0.5]}, "the other commit": shares}
    found = {
        "bare_bound": [compared("kd", "bare", "harness")],
        "stage1_loss": [compared("tuple, 10 classes", "dense", "index lists", mined=1234)],
        "peers": [compared("KD", "cell", "script, 0 workers")],
        "method_steps": [compared("a step of each method", "plain", "kd", "at")],
        "grid": [compared("wall", "the other commit", "this code", shares=both, numbers=numbers)],
        "tuning": [compared("wall", "the other commit", "this code", shares=tuning)],
    }
    setting = {"batch": 128, "steps": 2, "rounds": 3}
    for name, comparisons in found.items():
        frame.save(frame.record(name, MACHINE, setting, comparisons=comparisons), tmp_path)
    frame.save(costs_record(), tmp_path)
    rule = {"seeds": 5, "comparisons": 10, "spread": 0.5, "image_error": 0.25}
    rule |= {"wrong": {"the rule": 0.051, "seeds alone": 0.2}, "found": 0.8, "expected": 0.79}
    frame.save(frame.record("verdict_rule", MACHINE, setting, rows=[rule]), tmp_path)
    planned, memory = {"planning 10,000 cells": 0.5}, {"memory of 10,000 cells": 21_400_000}
    kept_plan = frame.record("planning", MACHINE, setting, seconds=planned, bytes=memory)
    frame.save(kept_plan, tmp_path)
    seconds = {"harness status, again": 0.25}
    frame.save(frame.record("scale", MACHINE, setting, seconds=seconds), tmp_path)
    return tmp_path


@pytest.fixture
def performance(tmp_path: Path) -> Path:
    """A copy of the page."""
    copied = tmp_path / "performance.md"
    copied.write_text(page.PAGE.read_text())
    return copied


# -- the frame -------------------------------------------------------------------------------------


def test_a_ratio_is_that_of_pairs() -> None:
    """Round by round: the ratio of the two medians would be 3 / 2."""
    assert frame.ratio([8, 3, 1], [4, 1, 2]) == (1.25, 2, 2.5)
    assert frame.ratio([2.0], [4.0]) == (0.5, 0.5, 0.5)
    assert frame.spread([4, 1, 3, 2, 5]) == (2, 3, 4)
    with pytest.raises(ValueError, match="shorter"):
        frame.ratio([1, 2], [1])


def test_a_comparison_keeps_its_rounds() -> None:
    found = frame.comparison("x", {"a": [1.0, 2.0, 4.0], "b": [2.0, 6.0, 4.0]}, "a", more=7)
    assert found["more"] == 7 and found["base"] == "a"
    row = {"seconds": 4.0, "ratio": [1.5, 2.0, 2.5], "rounds": [2.0, 6.0, 4.0]}
    assert found["rows"]["b"] == row
    assert found["rows"]["a"]["ratio"] == [1, 1, 1]


def test_steps_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    steps = {name: lambda name=name: seen.append(name) for name in "abc"}
    seconds = frame.alternate(steps, 3, settle=lambda: seen.append("|"), warm_up=2)
    order = "abc" "cba" "abc" "cba" "abc"  # fmt: skip
    assert "".join(seen) == "".join(f"|{name}|" for name in order)
    assert seconds == {name: [1, 1, 1] for name in "abc"}, "the warm-up does not count"


def test_a_record_is_kept_by_kind_of_device(tmp_path: Path) -> None:
    for kind in ("cpu", "cuda"):
        made = frame.record("x", MACHINE | {"kind": kind}, {"batch": 1}, comparisons=[])
        assert frame.save(made, tmp_path) == tmp_path / f"x-{kind}.json"
    assert [r["machine"]["kind"] for r in frame.read("x", tmp_path)] == ["cpu", "cuda"]
    assert frame.read("y", tmp_path) == []


# -- the page --------------------------------------------------------------------------------------


def test_the_committed_page_matches_its_results() -> None:
    """As `make lint` calls it."""
    done = captured([sys.executable, "benchmarks/page.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_without_results_the_page_says_so(tmp_path: Path, performance: Path) -> None:
    empty = tmp_path / "empty"
    assert page.main([], performance, empty) == 0
    assert performance.read_text().count(page.MISSING) == len(page.BLOCKS) - 1
    assert page.NO_GPU in performance.read_text()


def test_the_page_follows_the_results(kept: Path, performance: Path) -> None:
    assert page.main([], performance, kept) == 0
    text = performance.read_text()
    assert page.MISSING not in text and page.NO_GPU in text
    assert "| `kd` | 3.0 s | 1.50 (1.50 to 1.50) |" in text
    assert "| tuple, 10 classes | 1,234 | 4.0 s | 6.0 s | 1.50 (1.50 to 1.50) |" in text
    assert "| KD | script, 0 workers | 6.0 s | 1.50 (1.50 to 1.50) |" in text
    assert "| this code | 6.0 s | 60 % (50 to 70) | 10 % (10 to 10) |" in text
    assert "| this code | 6.0 s | 40 % (30 to 50) | – |" in text, "a tuning"
    assert "All 24 cells that both have" in text
    assert "| planning 10,000 cells | 500 ms |" in text
    assert "| harness status, again | 250 ms |" in text
    assert "| memory of 10,000 cells | 21 MB |" in text
    assert "| 5 seeds, 10 comparisons | 0.50 | 0.25 | 5.1 % | 20.0 % | 80 % | 79 % |" in text
    assert "| 32 at once | 6.0 s | 1.50 (1.50 to 1.50) |" in text
    assert "Some CPU, 2 threads, torch 2.11, commit 0123456; batch 128" in text
    assert page.main(["--check"], performance, kept) == 0


def test_a_changed_number_is_found(kept: Path, performance: Path, capsys: Output) -> None:
    page.main([], performance, kept)
    whole = performance.read_text()
    performance.write_text(whole.replace("| 1,234 |", "| 1,235 |"))
    assert page.main(["--check"], performance, kept) == 1
    assert "1,235" in capsys.readouterr().out
    assert "1,235" in performance.read_text(), "--check writes nothing"
    performance.write_text(whole)
    path = kept / "grid-cpu.json"
    record = json.loads(path.read_text())
    record["comparisons"][0]["numbers"] = {"equal": 20, "different": 4, "alone": 1}
    path.write_text(json.dumps(record))
    assert page.main(["--check"], performance, kept) == 1
    page.main([], performance, kept)
    assert "**4 of the 24 cells of both differ in a number**" in performance.read_text()


def test_the_page_of_executors(tmp_path: Path) -> None:
    overhead = {name: [0.1, 0.2, 3.0] for name in ("local", "Ray")}
    made = compared("the grid", "local", "Ray", overhead=overhead)
    frame.save(frame.record("executors", MACHINE, {"cells": 20}, comparisons=[made]), tmp_path)
    scaling = tmp_path / "scaling.md"
    (old,) = (p for p in page.PAGES if p.name == "scaling.md")
    scaling.write_text(old.read_text())
    page.update(scaling, page.SCALING, tmp_path, check=False)
    assert "| Ray | 6.0 s | 1.50 (1.50 to 1.50) | 100 ms to 3.0 s |" in scaling.read_text()
    assert page.update(scaling, page.SCALING, tmp_path, check=True) == 0


def test_a_gpu_is_named_where_one_was_measured(kept: Path, performance: Path) -> None:
    (made,) = frame.read("bare_bound", kept)
    gpu = copy.deepcopy(made) | {"machine": MACHINE | {"kind": "cuda", "device": "Some GPU"}}
    frame.save(gpu, kept)
    page.main([], performance, kept)
    text = performance.read_text()
    assert (
        page.NO_GPU not in text and "Measured on a GPU too, as the tables say: bare_bound" in text
    )
    assert "Some GPU" in text and text.count("| kind of step |") == 2


@pytest.mark.parametrize(
    ("line", "replacement"),
    [
        ("<!-- bench:grid -->\n", ""),
        ("<!-- /bench:costs -->\n", ""),
        ("<!-- bench:grid -->\n", "<!-- bench:gird -->\n"),
    ],
)
def test_wrong_markers_are_an_error(
    kept: Path, performance: Path, line: str, replacement: str
) -> None:
    wrong = performance.read_text().replace(line, replacement)
    performance.write_text(wrong)
    assert page.main([], performance, kept) == 2 and performance.read_text() == wrong


# -- each of them runs -----------------------------------------------------------------------------


@pytest.fixture
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where results would go."""
    monkeypatch.setattr(frame, "RESULTS", tmp_path / "results")
    was = torch.are_deterministic_algorithms_enabled()
    yield tmp_path / "results"
    torch.use_deterministic_algorithms(was)


QUICK = ["--quick", "--device", "cpu", "--save"]


def test_bare_bound_runs(nothing_kept: Path) -> None:
    import bare_bound

    record = bare_bound.main(QUICK)
    found = {c["what"]: c["rows"] for c in record["comparisons"]}
    asking = {kind: found.pop(kind) for kind in bare_bound.KINDS}
    assert list(found) == [f"{kind}, answers at hand" for kind in ("kd", "stage1", "stage2")]
    assert all(set(rows) == {"bare", "harness"} for rows in asking.values())
    assert all(set(rows) == {"student alone", "answers at hand"} for rows in found.values())
    assert all(len(rows["bare"]["rounds"]) == 2 for rows in asking.values())
    assert record["machine"]["kind"] == "cpu" and record["setting"]["batch"] == 8
    assert page.bare_bound(record)
    assert not nothing_kept.exists(), "--quick keeps nothing"


def test_peers_runs(nothing_kept: Path) -> None:
    import peers

    record = peers.main(QUICK)
    found = {c["what"]: set(c["rows"]) for c in record["comparisons"]}
    sides = {"cell", "script, 0 workers", "script, 2 workers"}
    at_hand = sides | {"cell, answers at hand"}
    assert list(found) == list(peers.KINDS.values())
    assert list(found.values()) == [sides, at_hand, at_hand]
    assert page.peers(record) and not nothing_kept.exists()


def test_the_common_script_minimises_the_same(case: Any) -> None:
    from peers import Script

    from harness.distill import kd_loss, stage1_loss

    for kind in ("kd", "stage1"):
        script = Script(case, kind, 8, 0)
        script.student.eval()  # no dropout: both sides see the same network
        x, y = next(iter(script.train))
        with torch.no_grad():
            theirs = float(script.loss(x, y))
            if kind == "kd":
                terms = kd_loss(script.student(x), script.teacher(x), y, temperature=4.0, alpha=0.9)
                ours = float(sum(terms.values()))
            else:
                settings = {"tau1": 4.0, "margin": 0.2, "negatives": "all", "weight": None}
                embeddings = script.student.embed(x), script.teacher.embed(x)
                ours = float(stage1_loss(*embeddings, y, relation="tuple", **settings)[0])
        assert theirs == pytest.approx(ours, rel=5e-3), "float32"


@pytest.fixture
def case() -> Any:
    from case import Case

    return Case(torch.device("cpu"), 8, 4, 16, "16-1", "10-1")


def passes(step: frame.Step) -> list[tuple[Any, ...]]:
    """The forward passes of a step: parameters of the network, images, modes."""

    from harness.networks.wide_resnet.network import WideResNet

    seen, original = list[tuple[Any, ...]](), WideResNet.feature_maps

    def spy(self: Any, x: Any) -> Any:
        has_gradient = next(self.parameters()).requires_grad
        n = sum(p.numel() for p in self.parameters())
        seen.append((n, len(x), self.training, has_gradient, torch.is_grad_enabled()))
        return original(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WideResNet, "feature_maps", spy)
        step()
    return seen


def test_bare_networks_and_the_harness_do_the_same_passes(nothing_kept: Path, case: Any) -> None:
    """In the same order, with as many images, in the same mode."""
    import bare_bound

    images = case.noise()
    for kind in bare_bound.KINDS:
        sides = [passes(side(case, kind, images)) for side in bare_bound.SIDES.values()]
        assert sides[0] == sides[1] and len(sides[0]) == (2 if kind == "supervised" else 4), kind


def test_with_answers_at_hand_the_teacher_takes_no_part(case: Any, tmp_path: Path) -> None:
    import bare_bound

    images = case.noise()
    for kind in ("kd", "stage1", "stage2"):
        alone = bare_bound.bare_side(case, kind, images, with_teacher=False)
        at_hand = bare_bound.harness_side(case, kind, images, tmp_path / kind)
        at_hand()
        for step in (alone, at_hand):
            assert [is_training for _, _, is_training, *_ in passes(step)] == [True, True]


def test_stage1_loss_runs(nothing_kept: Path) -> None:
    import stage1_loss

    record = stage1_loss.main(QUICK)
    assert [c["what"] for c in record["comparisons"]] == ["tuple, 4 classes", "triplet, 4 classes"]
    assert all(c["mined"] > 0 for c in record["comparisons"]) and page.stage1_loss(record)


def test_method_steps_has_what_the_page_of_methods_shows(nothing_kept: Path) -> None:
    import method_steps

    from harness.analysis import methods_page
    from harness.methods import REGISTRY

    record = method_steps.main(QUICK)
    shown = methods_page._steps(record)
    kept = methods_page._steps(json.loads((ROOT / methods_page.STEPS).read_text()))
    assert shown.keys() == kept.keys() and shown["ratios"]["plain"] == 1
    trained = {n for n, m in REGISTRY.items() if not m.variant_of and m.final.schedule}
    assert trained | {methods_page.SUM} <= shown["ratios"].keys()
    assert shown["ratios"]["kd"] == round(record["comparisons"][0]["rows"]["kd"]["ratio"][1], 2)


def test_scale_runs(nothing_kept: Path) -> None:
    import scale

    record = scale.main(QUICK)
    assert "harness plan, 60 cells" in record["seconds"] and page.scale(record)


def test_verdict_rule_runs(nothing_kept: Path, monkeypatch: Patch) -> None:
    import verdict_rule

    monkeypatch.setattr(verdict_rule, "COMPARISONS", (1, 2))
    record = verdict_rule.main(["--quick"])
    assert len(record["rows"]) == 12 and page.verdict_rule(record)
    better = verdict_rule.measure(verdict_rule.Setting(10, 1, 0.0), 20)
    assert better["found"] > 0.5 and better["image_error"] < 0.2
    assert better["expected"] == pytest.approx(better["found"], abs=0.3)


def test_the_papers_experiments_have_the_seeds_that_their_claims_need(
    monkeypatch: Patch,
) -> None:
    import grid_power

    monkeypatch.chdir(ROOT)
    rows = grid_power.main([])["rows"]
    powers = [row["power"] for row in rows if row["claims"]]
    assert len(powers) >= 5 and min(powers) >= 0.79, rows
    (kept,) = frame.read("grid_power")
    fixed = ("experiment", "claims", "comparisons", "cells", "seeds", "images")
    assert [[row[n] for n in fixed] for row in kept["rows"]] == [
        [r[n] for n in fixed] for r in rows
    ]


def test_hours_of_a_gpu_follow_from_counts(tmp_path: Path) -> None:
    import gpu_hours
    from sim_cuda import Work

    moves, multiplies = Work(1, 2_300_000, 0, False), Work(3, 0, 150_000_000, True)
    seconds = partial(gpu_hours.seconds_of, [moves, multiplies], 2.0)
    assert seconds(graphs=True) == pytest.approx(2e-6 + 2e-6 + 4 * 1.5e-6)
    assert seconds(graphs=False) == pytest.approx(4 * 6e-6)
    text = (ROOT / "experiments" / "cifar100_wide_resnet.yaml").read_text()
    small = re.sub(r"students:\n(  - .*\n)+", "students: [{depth: 10, width: 1}]\n", text)
    small = small.replace("depth: 40, width: 2", "depth: 16, width: 1").replace("published:", "#")
    (tmp_path / "small.yaml").write_text(small)
    single, graphed = gpu_hours.hours_of(tmp_path / "small.yaml", 1, "float32")
    assert 0 < graphed["hours"] < single["hours"]
    assert single["kernels"].keys() == {"supervised", "kd", "stage1", "stage2"}
    twice, _ = gpu_hours.hours_of(tmp_path / "small.yaml", 2, "float32")
    assert twice["hours"] == pytest.approx(2 * single["hours"], rel=1e-3)
    assert page.gpu_hours({"rows": [single, graphed]})[-1].count("|") == 9


def test_stage2_crops_compares_other_epochs_of_the_same_seeds() -> None:
    import stage2_crops

    from harness.train import loop

    usual = loop.epoch_generator

    def draw(epoch: int) -> torch.Tensor:
        return torch.rand(3, generator=loop.epoch_generator(7, epoch))

    later = draw(12)
    with stage2_crops.epochs_counted_from(10):
        assert torch.equal(draw(2), later) and not torch.equal(draw(2), draw(12))
    assert loop.epoch_generator is usual
    found = {stage2_crops.AGAIN: [0.5, 0.6], stage2_crops.OWN: [0.52, 0.64]}
    (row,) = stage2_crops.rows_of({"shots 5": found})
    assert row["difference"][0] == 3 and row["seeds"] == 2
    lines = page.stage2_crops({"kinds": [*found], "rows": [row]})
    assert lines[-1] == f"| shots 5 | 55.0 | 58.0 | +3.00 ± {row['difference'][1]:.2f} (2) |"


def test_costs_runs_and_is_drawn(nothing_kept: Path, tmp_path: Path) -> None:
    import costs

    record = costs.main(QUICK)
    assert [s["axis"] for s in record["sweeps"]] == [a.name for a in costs.AXES]
    sizes = {s["axis"]: [p[0] for p in next(iter(s["lines"].values()))] for s in record["sweeps"]}
    assert sizes["batch"] == [4, 8] and len(set(sizes["cells"])) == 2
    assert costs.sweep("x", {"y": {"8": [1, 4, 3]}})["lines"] == {"y": [[8, 2, 3, 3.5]]}
    drawn = []
    for name in ("a.png", "b.png"):
        costs.draw([costs_record()], tmp_path / name)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1] and drawn[0].startswith(b"\x89PNG")


# -- the grid --------------------------------------------------------------------------------------


def test_shares_of_a_grid(finished: Path) -> None:
    import grid

    from harness.store import Store

    store = Store(finished / "runs")
    manifests = [d.manifest for d in store.all()]
    found = grid.shares(store, wall=10, jobs=2)
    assert found["training"] == pytest.approx(sum(m.seconds for m in manifests) / 20)
    assert found["evaluation"] == pytest.approx(sum(m.evaluation_seconds for m in manifests) / 20)


def test_numbers_of_two_stores_are_compared(finished: Path, finished_copy: Path) -> None:
    import grid

    from harness.store import Store

    ours, theirs = Store(finished / "runs"), Store(finished_copy / "runs")
    n = len(ours.all())
    assert grid.same_numbers(ours, theirs) == {"equal": n, "different": 0, "alone": 0}
    journal = theirs.all()[0] / "journal.jsonl"
    lines = theirs.all()[0].events()
    (first, *_) = [line for line in lines if line["event"] == "epoch"]

    def write() -> None:
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))

    first["seconds"] += 1
    write()
    assert grid.same_numbers(ours, theirs)["different"] == 0, "time is no number of a result"
    first["validation/new"] = 1.0
    write()
    assert grid.same_numbers(ours, theirs)["different"] == 0, "one of them does not measure it"
    first["loss/total"] *= 1 + 1e-15
    write()
    assert grid.same_numbers(ours, theirs) == {"equal": n - 1, "different": 1, "alone": 0}
    (theirs.all()[1] / "cell.json").unlink()
    assert grid.same_numbers(ours, theirs)["alone"] == 1
    (theirs.all()[-1] / "manifest.json").unlink()  # as of a pruned trial
    assert grid.same_numbers(ours, theirs)["alone"] == 2


def test_two_commits_take_turns(
    finished: Path, empty_database: Path, nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole benchmark, with finished cells in place of training."""
    import grid

    calls: list[tuple[list[str], Path]] = []

    def copied(
        arguments: list[str], code: Path, folder: Path
    ) -> "subprocess.CompletedProcess[str]":
        assert (folder / "mlflow.db").exists() and not (folder / "runs").exists()
        assert not (folder / "experiments/results").exists(), "references of the project"
        same = [(at / arguments[1]).read_bytes() for at in (folder, ROOT)]
        assert same[0] == same[1], "the same file for all"
        shutil.copytree(finished / "runs", folder / "runs")
        calls.append((arguments, code))
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(grid, "harness", copied)
    monkeypatch.setattr(grid, "empty_database", lambda folder: empty_database)
    monkeypatch.setattr(grid, "checkout", lambda commit, folder: contextlib.nullcontext(folder))
    options = ["--asking", "--against", "abc", "--set", "seeds=[7]", "--jobs", "2"]
    record = grid.main([*QUICK, *options])
    codes = [code for _, code in calls]
    assert codes[0] == codes[1] == codes[4] == codes[5] == ROOT and codes[2] == codes[3] != ROOT
    assert [a[-2:] == ["--teacher-cache", "0"] for a, _ in calls] == [0, 1, 0, 0, 1, 0]
    arguments, _ = calls[2]
    assert arguments[:2] == ["run", grid.EXPERIMENT]
    assert arguments[arguments.index("--set") + 1] == "seeds=[7]"
    (found,) = record["comparisons"]
    n = len(list((finished / "runs").glob("*/cell.json")))
    assert found["numbers"] == {"equal": n, "different": 0, "alone": 0}
    assert found["base"] == grid.THERE and record["setting"]["cells"] == n
    assert found["rows"][grid.THERE]["ratio"] == [1, 1, 1] and page.grid(record)


def test_a_tuning_is_timed_too(nothing_kept: Path, empty_database: Path) -> None:
    """The tuning has one trial, and its tuned file does not get into the project."""
    import grid

    tuned = ROOT / "experiments/digits.tuned.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "empty_database", lambda folder: empty_database)
        record = grid.main([*QUICK, "--tuning", "--rounds", "1", "--jobs", "1"])
    assert record["benchmark"] == "tuning" and record["setting"]["experiment"] == grid.TUNING
    assert record["setting"]["cells"] == 2 and page.grid(record)
    assert not tuned.exists()


def test_a_grid_that_fails_says_why(empty_database: Path, tmp_path: Path) -> None:
    import grid

    command = ["run", grid.EXPERIMENT, "--set", "stage2.lambda=50"]
    runner = grid.Runner(ROOT, tmp_path / "here", empty_database, command)
    with pytest.raises(RuntimeError, match="did you mean 'lambd'"):
        runner()
