"""Cells and fingerprints: what a change makes stale, and what it must not."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import harness.cell
from harness.common.canonical_json import canonical, differences
from harness.data import Augmentation, Dataset, ImageSet, load
from harness.experiment.file import parse, read
from harness.experiment.sources import apply_overrides
from harness.plan import Plan, make_plan

ROOT = Path(__file__).resolve().parent.parent
RAW = yaml.safe_load("""
name: digits
dataset: {name: digits, validation: 297}
network: {network: wide_resnet, dropout: 0.0}
teacher: {depth: 16, width: 2}
students: [{depth: 16, width: 2}, {depth: 10, width: 1}]
methods: [plain, kd, refilled, refilled-triplet]
training: {epochs: 20}
stage2: {epochs: 20, lambd: 10}
seeds: [0, 1, 2]
""")


def image_set(n: int, seed: int) -> ImageSet:
    random = np.random.RandomState(seed)
    return ImageSet(random.randint(0, 256, (n, 4, 4, 3)).astype(np.uint8), np.arange(n) % 2)


# A plan needs no more of its data than their digest.
DATA = Dataset(
    name="toy",
    class_names=("a", "b"),
    train=image_set(6, 0),
    validation=image_set(4, 1),
    test=image_set(4, 2),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    augmentation=Augmentation(padding=1, flip=False),
)


def plan_with(*assignments: str, data: Dataset = DATA, raw: dict[str, Any] = RAW) -> Plan:
    return make_plan(parse(apply_overrides(raw, list(assignments))), data)


def numbers(plan: Plan) -> dict[tuple[str, str, str, int], str]:
    """(stage, method, student, seed) -> fingerprint; the teacher's network is no part of it."""
    return {
        (e.stage, e.method, "" if e.stage == "teacher" else e.student, e.seed): e.fingerprint
        for e in plan.entries
    }


def changed_stages(old: Plan, new: Plan) -> set[str]:
    """Stages of which some number's cell changed; all of that stage's must change together."""
    a, b = numbers(old), numbers(new)
    common = a.keys() & b.keys()
    changed = {k for k in common if a[k] != b[k]}
    stages = {k[0] for k in changed}
    assert changed == {k for k in common if k[0] in stages}
    return stages


ALL = {"teacher", "student", "kd", "stage1", "stage2"}


# Cells


def test_cells_of_the_digits_grid() -> None:
    plan = make_plan(read(ROOT / "experiments" / "digits_all_images.yaml"), DATA)
    assert len(plan.cells) == 72
    assert Counter(c.kind for c in plan.cells.values()) == {
        "supervised": 12,
        "kd": 12,
        "stage1": 24,
        "stage2": 24,
    }
    assert Counter(e.stage for e in plan.entries) == {
        "teacher": 3,
        "student": 12,
        "kd": 12,
        "stage1": 24,
        "stage2": 24,
    }


def test_teacher_and_plain_student_of_one_network_share_a_cell() -> None:
    plan = plan_with()
    number = numbers(plan)
    for seed in (0, 1, 2):
        shared = number["teacher", "teacher", "", seed]
        assert shared == number["student", "plain", "wrn-16-2", seed]
        assert [e.stage for e in plan.entries_of(shared)] == ["teacher", "student"]
        assert plan.name_of(shared) == f"teacher wrn-16-2 s{seed}"


def test_every_cell_comes_after_its_upstream_cells() -> None:
    seen: set[str] = set()
    plan = plan_with()
    for fingerprint, cell in plan.cells.items():
        assert set(cell.upstream.values()) <= seen
        seen.add(fingerprint)
        assert fingerprint == cell.fingerprint


def test_upstream_roles() -> None:
    plan = plan_with()
    number = numbers(plan)
    teacher = number["teacher", "teacher", "", 1]
    first = number["stage1", "refilled", "wrn-10-1", 1]
    second = number["stage2", "refilled", "wrn-10-1", 1]
    assert plan.cells[teacher].upstream == {}
    assert plan.cells[first].upstream == {"teacher": teacher}
    assert plan.cells[second].upstream == {"teacher": teacher, "initial": first}
    assert plan.cells[number["kd", "kd", "wrn-10-1", 1]].upstream == {"teacher": teacher}


def test_plain_students_alone_need_no_teacher() -> None:
    plan = plan_with("methods=[plain]")
    assert {e.stage for e in plan.entries} == {"student"}
    assert len(plan.cells) == 6


def test_relation_named_or_implied_is_one_cell() -> None:
    implied, named = plan_with("methods=[refilled]"), plan_with("methods=[refilled-tuple]")
    assert list(implied.cells) == list(named.cells)
    assert {e.method for e in named.entries} == {"teacher", "refilled-tuple"}


def test_a_cell_says_how_its_teacher_and_its_convolutions_began() -> None:
    """Only cells that depend on them: stage 2 starts from the network of stage 1."""
    plan = plan_with("protocol.convolution_init=xavier", "teacher_batch_size=32")
    specs = [(c.kind, c.as_json()["spec"]) for c in plan.cells.values()]
    drawn = {kind for kind, spec in specs if "convolution_init" in spec["protocol"]}
    assert drawn == {"supervised", "kd", "stage1"}
    sizes = {e.stage: plan.cells[e.fingerprint].config.optimizer.batch_size for e in plan.entries}
    assert sizes == dict.fromkeys(ALL, 128) | {"teacher": 32}


# What a change makes stale


@pytest.mark.parametrize(
    ("assignment", "stale"),
    [
        ("teacher.depth=22", ALL - {"student"}),
        ("teacher.dropout=0.1", ALL - {"student"}),
        ("training.epochs=21", ALL),
        ("training.lr=0.2", ALL),
        ("kd.temperature=2", {"kd"}),
        ("kd.alpha=0.5", {"kd"}),
        ("stage1.tau1=2", {"stage1", "stage2"}),
        ("stage1.margin=0.3", {"stage1", "stage2"}),
        ("stage1.select_every=2", {"stage1", "stage2"}),
        ("stage2.tau2=1", {"stage2"}),
        ("stage2.lambd=50", {"stage2"}),
        ("stage2.milestones=[5]", {"stage2"}),
        ("protocol.ncm_centers=evaluated", {"stage1", "stage2"}),
        ("protocol.center_images=augmented", {"stage2"}),
        ("protocol.selection=last", ALL),
        ("protocol.convolution_init=xavier", ALL),
        ("optimizer.batch_size=32", ALL),
        ("teacher_batch_size=32", ALL - {"student"}),
        ("optimizer.precision=bfloat16", ALL),
        ("dataset.split_seed=1", ALL),
        ("name=other", set()),
        ("description=other", set()),
        ("published=other.csv", set()),
    ],
)
def test_stale_cells(assignment: str, stale: set[str]) -> None:
    assert changed_stages(plan_with(), plan_with(assignment)) == stale


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_one_pixel_changes_every_cell(part: str) -> None:
    images = getattr(DATA, part).images.copy()
    images[0, 0, 0, 0] ^= 1
    data = replace(DATA, **{part: replace(getattr(DATA, part), images=images)})
    assert changed_stages(plan_with(), plan_with(data=data)) == ALL


def test_cells_without_a_test_set_are_other_cells() -> None:
    tuning = plan_with(data=replace(DATA, test=None))
    assert changed_stages(plan_with(), tuning) == ALL
    assert all(c.config.data.without_test for c in tuning.cells.values())


def test_other_semantics_change_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    old = plan_with()
    monkeypatch.setattr(harness.cell, "SEMANTICS", harness.cell.SEMANTICS + 1)
    assert changed_stages(old, plan_with()) == ALL


@pytest.mark.parametrize(
    "assignment",
    [
        "seeds=[5, 0, 1, 2]",
        "methods=[refilled-one-negative, plain, kd, refilled, refilled-triplet]",
        "students=[{depth: 22, width: 1}, {depth: 16, width: 2}, {depth: 10, width: 1}]",
    ],
)
def test_a_longer_list_keeps_every_old_cell(assignment: str) -> None:
    old, new = plan_with(), plan_with(assignment)
    assert numbers(old).items() < numbers(new).items()
    assert old.cells.keys() < new.cells.keys()


def test_seed_decides() -> None:
    number = numbers(plan_with())
    per_seed = [{f for k, f in number.items() if k[3] == seed} for seed in (0, 1, 2)]
    assert not per_seed[0] & per_seed[1]
    assert not per_seed[1] & per_seed[2]


# Fingerprints


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: reordered(v) for k, v in reversed(value.items())}
    return value


def test_order_of_keys_and_spelling_of_numbers_do_not_matter() -> None:
    assert list(plan_with(raw=reordered(RAW)).cells) == list(plan_with().cells)
    assert list(plan_with("stage2.lambd=10.0").cells) == list(plan_with("stage2.lambd=10").cells)


def test_data_may_move_to_another_folder() -> None:
    """Where the files lie is no part of a cell or of the grid; what they hold is."""
    here = "dataset={name: cifar100, path: /here}"
    there = "dataset={name: cifar100, path: /there, label: other}"
    assert list(plan_with(here).cells) == list(plan_with(there).cells)
    assert plan_with(here).experiment.grid == plan_with(there).experiment.grid
    other = "dataset={name: cifar100, path: /here, validation: 100}"
    assert changed_stages(plan_with(here), plan_with(other)) == ALL
    assert plan_with(here).experiment.grid != plan_with(other).experiment.grid


def test_nan_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"lr": float("nan")})


# Grid


def grids(assignments: Iterable[str]) -> set[str]:
    return {plan_with(a).experiment.grid for a in assignments}


def test_grid_ignores_the_lists_that_may_grow() -> None:
    same = [
        "name=digits",
        "seeds=[7]",
        "methods=[plain]",
        "students=[{depth: 40, width: 4}]",
        "description=x",
        "published=x.csv",
    ]
    assert len(grids(same)) == 1
    other = ["name=digits", "name=x", "stage2.lambd=1", "teacher.depth=22", "protocol=legacy"]
    other += ["teacher_batch_size=32"]
    other += ["protocol.selection=last", "optimizer.momentum=0.5", "dataset.split_seed=1"]
    assert len(grids(other)) == len(other)


def test_a_default_that_is_written_out_changes_no_grid() -> None:
    """Nor would a field that is new: only what differs from the defaults is part of the grid."""
    same = ["name=digits", "stage2.weighted=false", "protocol.ties=later", "dataset.split_seed=0"]
    assert len(grids(same)) == 1


def test_a_plan_does_not_depend_on_earlier_ones() -> None:
    """Equal settings may have different JSON, as 0.0 and -0.0 have."""
    decays = [
        {str(cell.as_json()["spec"]["optimizer"]["weight_decay"]) for cell in plan.cells.values()}
        for plan in (plan_with(f"optimizer.weight_decay={text}") for text in ("0.0", "-0.0"))
    ]
    assert decays == [{"0.0"}, {"-0.0"}]


# Differences


def test_differences_name_each_leaf() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": "x", "gone": 0}
    new = {"a": {"b": 2, "c": [1, 3]}, "d": "x", "new": {"e": 1}}
    assert differences(old, new) == [
        "a.b: 1 -> 2",
        "a.c: [1, 2] -> [1, 3]",
        "gone: 0 -> None",
        "new: None -> {'e': 1}",
    ]
    assert differences(old, old) == []


def test_differences_between_two_plans() -> None:
    def stage2(plan: Plan) -> dict[str, Any]:
        return plan.cells[numbers(plan)["stage2", "refilled", "wrn-10-1", 0]].as_json()

    assert differences(stage2(plan_with()), stage2(plan_with("stage2.lambd=50"))) == [
        "spec.stage2.lambd: 10.0 -> 50.0"
    ]


# What was published


BUNDLES = sorted((ROOT / "experiments" / "results").glob("*.jsonl"))


def stand_in(digest: str, size: int, classes: int) -> Dataset:
    """Return images without content; a plan depends on nothing of its data but digest and sizes."""
    n = 100 * classes
    images = ImageSet(np.zeros((n, size, size, 3), np.uint8), np.arange(n) % classes)
    names = tuple(str(c) for c in range(classes))
    dataset = replace(DATA, class_names=names, train=images, validation=images, test=images)
    vars(dataset)["digest"] = digest  # it is cached there
    return dataset


@pytest.mark.parametrize("bundle", BUNDLES, ids=[b.stem for b in BUNDLES])
def test_committed_cells_keep_their_fingerprints(bundle: Path) -> None:
    """A changed fingerprint would train every committed number anew. The command under each table
    plans just the cells behind it. Only the digits are at hand on every machine."""
    header, *cells = (json.loads(line) for line in bundle.read_text().splitlines())
    _, _, file, *sets = shlex.split(header["command"])
    experiment = read(ROOT / file, [word for word in sets if word != "--set"])
    ((digest, size),) = {
        (cell["spec"]["data"]["digest"], cell["spec"]["data"].get("image_size", 8))
        for cell in cells
    }
    name = experiment.dataset.name
    classes = 100 if name == "tiny_imagenet" else 10
    dataset = load(experiment.dataset) if name == "digits" else stand_in(digest, size, classes)
    assert dataset.digest == digest
    planned = make_plan(experiment, dataset).cells
    assert list(planned) == [cell["fingerprint"] for cell in cells]
    assert len(cells) >= 8
