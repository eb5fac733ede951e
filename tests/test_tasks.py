"""Tasks of an experiment: which classes and images teacher and students have, what is one cell and
what is another, and what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import call, changed, one_error_line, wrong

from harness.cell import Cell
from harness.common.errors import UserError
from harness.data import Augmentation, Dataset, ImageSet, load
from harness.data.views import View, apply
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse, read
from harness.experiment.sources import apply_overrides
from harness.experiment.tasks import Task, Tasks, TaskViews, class_order
from harness.methods import parse_method
from harness.plan import Plan, TableEntry, make_plan, task_views

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")  # of toy animals, 7 classes
PER_CLASS = {"train": 12, "validation": 5, "test": 6}


def toy() -> Dataset:
    """Image i is of one colour: its number, over all parts."""
    random, parts, first = np.random.RandomState(0), {}, 0
    for part, count in PER_CLASS.items():
        labels = random.permutation(np.repeat(np.arange(len(NAMES)), count)).astype(np.int64)
        numbers = np.arange(first, first + len(labels), dtype=np.uint8)
        parts[part] = ImageSet(np.tile(numbers[:, None, None, None], (1, 2, 2, 3)), labels)
        first += len(labels)
    return Dataset(
        "toy", NAMES, **parts, mean=(0.1,) * 3, std=(0.2,) * 3, augmentation=Augmentation(0, False)
    )


DATA = toy()
LABELS = np.concatenate([DATA.train.labels, DATA.validation.labels, DATA.test.labels])
RAW: dict[str, Any] = {
    "name": "cross",
    "dataset": {"name": "digits", "validation": 100, "test": 1400},
    "network": {"network": "wide_resnet", "dropout": 0.0},
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["plain", "kd", "teacher_ncm", "probe", "finetune", "refilled"],
    "training": {"epochs": 4},
    "stage1": {"epochs": 6},
    "stage2": {"epochs": 2},
    "tasks": {"classes": 3, "overlap": [3, 1, 0], "shots": [5, "all"]},
    "seeds": [0, 1],
}


def experiment(*assignments: str, **changes: Any) -> Experiment:
    return parse(apply_overrides(RAW | changes, list(assignments)))


def plan_with(*assignments: str, data: Dataset = DATA, **changes: Any) -> Plan:
    return make_plan(experiment(*assignments, **changes), data)


def views(**tasks: Any) -> TaskViews:
    return TaskViews(Tasks(**tasks), DATA)


def numbers(part: ImageSet | None) -> list[int]:
    """Which images these are."""
    return part.images[:, 0, 0, 0].tolist()


# Which classes


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("order", ["labels", "random", (5, 2, 0, 6, 1, 4, 3)])
def test_splits_are_those_of_a_plain_loop(n: int, order: Any) -> None:
    """Every overlap of n classes; labels, and their meaning, counted by hand."""
    found = views(classes=n, overlap=[*range(n + 1)][::-1], order=order, order_seed=3)
    classes = class_order(found.tasks, NAMES)
    assert sorted(classes) == list(range(7))
    teacher = apply(DATA, found.teacher())
    assert teacher.class_names == tuple(NAMES[classes[i]] for i in range(n))
    for overlap in range(n + 1):
        expected = []
        for place in range(len(classes)):
            if n - overlap <= place < 2 * n - overlap:
                expected.append(classes[place])
        task = Task(None if overlap == n else overlap)
        assert task in found.tasks.all
        seen = apply(DATA, found.student(task, seed=4))
        assert seen.class_names == tuple(NAMES[c] for c in expected)
        shared = set(seen.class_names) & set(teacher.class_names)
        assert len(shared) == overlap and len(expected) == n
        for part in ("train", "validation", "test"):
            images = getattr(seen, part)
            by_hand = [i for i in numbers(getattr(DATA, part)) if LABELS[i] in expected]
            assert numbers(images) == by_hand
            # The student's label i is class order[shift + i].
            for label, number in zip(images.labels, by_hand, strict=True):
                assert classes[n - overlap + label] == LABELS[number]


def test_orders() -> None:
    assert class_order(Tasks(), NAMES) == [0, 1, 2, 3, 4, 5, 6]
    drawn = [class_order(Tasks(order="random", order_seed=s), NAMES) for s in range(3)]
    assert drawn == [np.random.RandomState(s).permutation(7).tolist() for s in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    mixed = Tasks(order=("cat", 0, "gnu"))
    assert class_order(mixed, NAMES) == [2, 0, 6]
    assert TaskViews(mixed, DATA).teacher() == View(classes=(2, 0, 6)), "all that it lists"
    assert views(classes=7).teacher() == View() == views().teacher(), "all of them are no view"


def test_an_order_is_read_from_a_file_beside_the_experiment(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "classes.yaml").write_text('order: ["7", 1, "0", 9, 3, 2]\n')
    tasks = {"classes": 3, "overlap": [0], "order": "classes.yaml"}
    (folder / "x.yaml").write_text(yaml.safe_dump(changed(RAW, tasks=tasks, methods=["plain"])))
    found = read(folder / "x.yaml")  # RAW names no folder: relative to the experiment's
    assert found.tasks is not None and found.tasks.order == ("7", 1, "0", 9, 3, 2)
    digits = load(found.dataset)
    assert task_views(found, digits).teacher() == View(classes=(7, 1, 0))
    assert task_views(found, digits).student(Task(0), 0) == View(classes=(9, 3, 2))
    (folder / "other.yaml").write_text("order: [2, 1, 0]\n")
    other = read(folder / "x.yaml", ["tasks.order=other.yaml", "tasks.overlap=all"])
    assert other.tasks is not None and other.tasks.order == (2, 1, 0)
    listed = RAW | {"tasks": tasks | {"order": ["7", 1, "0", 9, 3, 2]}, "methods": ["plain"]}
    same = [list(make_plan(e, digits).cells) for e in (found, parse(listed))]
    assert same[0] == same[1], "the file's name is no part of a cell"

    for text in ("order: 5\n", "classes: [1]\n", "order: [1]\nmore: 2\n", "- 1\n", None):
        if text is None:
            (folder / "classes.yaml").unlink()
        else:
            (folder / "classes.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"^{folder / 'classes.yaml'}: "):
            read(folder / "x.yaml")
    for text in ("order: [1, 1]\n", "order: [1, {}]\n"):
        (folder / "classes.yaml").write_text(text)
        with pytest.raises(UserError, match=r"^tasks\.order: "):
            read(folder / "x.yaml")


@pytest.mark.parametrize("shots", [0, 1, 4, "all"])
def test_incremental_tasks(shots: int | str) -> None:
    """All new classes whole, of each old one so many images, all of both in validation and test."""
    order = (5, 2, 0, 6, 1, 4, 3)
    found = views(classes=3, new=2, shots=[shots], order=order)
    (task,) = found.tasks.all
    assert apply(DATA, found.teacher()).class_names == ("fox", "cat", "ant")
    view = found.student(task, seed=1)
    seen = apply(DATA, view)
    assert seen.class_names == ("fox", "cat", "ant", "gnu", "bee")
    expected = 12 if shots == "all" else shots
    assert np.bincount(seen.train.labels, minlength=5).tolist() == [expected] * 3 + [12, 12]
    assert np.bincount(seen.validation.labels).tolist() == [5] * 5
    assert np.bincount(seen.test.labels).tolist() == [6] * 5
    assert [order[label] for label in seen.train.labels] == LABELS[numbers(seen.train)].tolist()
    assert view.groups == {"old": [0, 1, 2], "new": [3, 4]}
    assert View(classes=(1, 2)).groups == {} == View().groups


# Which images


def test_shots_are_nested_seeded_and_the_same_in_every_task() -> None:
    allowed = {*numbers(DATA.train)}
    found = views(classes=3, overlap=[3, 2, 1, 0], shots=[5, 10])
    drawn: dict[tuple[int, int], dict[int, set[int]]] = {}
    for seed in (0, 1):
        for shots in (5, 10):
            of_class: dict[int, set[int]] = {}
            for overlap in (None, 2, 1, 0):
                part = apply(DATA, found.student(Task(overlap, shots), seed)).train
                assert np.bincount(part.labels).tolist() == [shots] * 3
                for c in {*LABELS[numbers(part)]}:
                    mine = {i for i in numbers(part) if LABELS[i] == c}
                    assert of_class.setdefault(c, mine) == mine, "another task, other images"
            drawn[seed, shots] = of_class
            assert {*range(6)} == of_class.keys()
    for seed in (0, 1):
        for c in range(6):
            assert drawn[seed, 5][c] < drawn[seed, 10][c] <= allowed
    assert any(drawn[0, 5][c] != drawn[1, 5][c] for c in range(6))


def test_shots_may_have_a_seed_of_their_own() -> None:
    free = views(classes=3, shots=[5])
    fixed = views(classes=3, shots=[5, "all"], shots_seed=9)
    few, every = Task(None, 5), Task()
    assert [free.student(few, s).shots_seed for s in (0, 7)] == [0, 7]
    assert [fixed.student(few, s).shots_seed for s in (0, 7)] == [9, 9]
    assert fixed.student(every, 7) == fixed.teacher(), "nothing is drawn: nothing is seeded"


def test_few_images_are_training_images_under_every_protocol() -> None:
    """12 training and 5 validation images per class; only a teacher trains on the latter, too."""
    last = "protocol={preset: strict, selection: last}"
    students = []
    for protocol in (last, last.replace("}", ", train_on: train+validation}")):
        fits = plan_with("tasks.shots=[12]", protocol, methods=["plain", "kd"])
        with pytest.raises(UserError, match=r"^tasks\.shots: class '...' has 12 training images"):
            plan_with("tasks.shots=[13]", protocol)
        students.append({e.fingerprint for e in fits.entries if e.method == "plain"})
    assert students[0] == students[1]
    of_kd = {e.stage: fits.cells[e.fingerprint].config.protocol.train_on for e in fits.entries}
    assert of_kd == {"teacher": "train+validation", "student": "train", "kd": "train"}


def test_each_part_of_each_task_has_its_own_digest() -> None:
    found = views(classes=3, overlap=[3, 2, 1, 0], shots=[5, 10, "all"])
    seen = {}
    for task in found.tasks.all:
        for seed in (0, 1):
            view = found.student(task, seed)
            digest = apply(DATA, view).digest
            assert seen.setdefault(view, digest) == digest
    assert len(seen) == 4 * (2 * 2 + 1)
    assert len({*seen.values(), DATA.digest}) == len(seen) + 1
    view = found.student(Task(1, 5), 0)
    whole = apply(DATA, view)
    for part in ("train", "validation", "test"):
        images = getattr(whole, part)
        turned = replace(images, labels=images.labels[::-1].copy())
        assert (turned.labels != images.labels).any()
        assert replace(whole, **{part: turned}).digest != whole.digest


# What is one cell


def entries(plan: Plan, **wanted: Any) -> list[TableEntry]:
    return [e for e in plan.entries if all(getattr(e, k) == v for k, v in wanted.items())]


def cell_of(plan: Plan, **wanted: Any) -> Cell:
    (entry,) = entries(plan, **wanted)
    return plan.cells[entry.fingerprint]


def test_one_teacher_a_seed_teaches_every_task() -> None:
    plan = plan_with()
    teachers = {e.seed: e.fingerprint for e in entries(plan, stage="teacher")}
    assert len(teachers) == 2 == len({*teachers.values()})
    assert all(e.task is None for e in entries(plan, stage="teacher"))
    assert plan.cells[teachers[0]].config.data.view.as_json() == {"classes": [0, 1, 2]}
    for entry in plan.entries:
        cell = plan.cells[entry.fingerprint]
        if named_needs(entry.method):
            role = "initial" if entry.method in ("teacher_ncm", "probe") else "teacher"
            assert cell.upstream[role] == teachers[entry.seed]
        elif entry.method == "plain":
            assert cell.upstream == {}


def named_needs(method: str) -> bool:
    return method != "teacher" and bool(parse_method(method).needs)


def test_plain_at_full_overlap_is_the_teacher_and_so_is_what_finetune_begins_with() -> None:
    plan = plan_with()
    for seed in (0, 1):
        (teacher,) = entries(plan, stage="teacher", seed=seed)
        (full,) = entries(plan, method="plain", seed=seed, task=Task())
        (begun,) = entries(plan, stage="pretrain", seed=seed)
        assert teacher.fingerprint == full.fingerprint == begun.fingerprint
        assert begun.task is None and begun.name == f"finetune wrn-10-1 pretrain s{seed}"
        tuned = entries(plan, stage="finetune", seed=seed)
        assert [e.task for e in tuned] == experiment().tasks.all
        for entry in tuned:
            assert plan.cells[entry.fingerprint].upstream == {"initial": teacher.fingerprint}
        few = entries(plan, method="plain", seed=seed, task=Task(None, 5))
        assert few[0].fingerprint != full.fingerprint
    # Of another network, one cell for all tasks still.
    other = plan_with("students.0.width=2")
    (begun,) = entries(other, stage="pretrain", seed=0)
    (teacher,) = entries(other, stage="teacher", seed=0)
    (full,) = entries(other, method="plain", seed=0, task=Task())
    assert teacher.fingerprint != begun.fingerprint == full.fingerprint


def test_students_of_the_teacher_itself_are_one_cell_and_an_entry_each() -> None:
    two = [{"depth": 10, "width": 1}, {"depth": 10, "width": 2}]
    plan = plan_with(students=two)
    for method in ("teacher_ncm", "probe"):
        for task in experiment().tasks.all:
            pair = entries(plan, method=method, task=task, seed=0)
            assert [e.student for e in pair] == ["wrn-10-1", "wrn-10-2"]
            assert pair[0].fingerprint == pair[1].fingerprint
            cell = plan.cells[pair[0].fingerprint]
            assert cell.config.network == plan.experiment.teacher


def test_a_cell_has_the_view_of_its_task() -> None:
    plan = plan_with("tasks.order=[6, 5, 4, 3, 2, 1, 0]")
    for entry in plan.entries:
        view = plan.cells[entry.fingerprint].config.data.view.as_json()
        if entry.task is None:
            assert view == {"classes": [6, 5, 4]}
            continue
        shift = 0 if entry.task.overlap is None else 3 - entry.task.overlap
        expected: dict[str, Any] = {"classes": [6 - shift, 5 - shift, 4 - shift]}
        if entry.task.shots:
            expected |= {"shots": 5} | ({"shots_seed": 1} if entry.seed else {})
        assert view == expected


def test_names_of_runs_are_distinct_and_say_the_task() -> None:
    names = [e.name for e in plan_with("methods=[plain, plain@both, kd@2, kd, finetune]").entries]
    assert len(set(names)) == len(names)
    assert {"teacher wrn-10-1 s0", "student wrn-10-1 overlap 1 shots 5 s1"} < {*names}
    assert {"kd@2 wrn-10-1 overlap all shots all s0"} < {*names}
    assert {"plain@both wrn-10-1 overlap 0 shots all s1"} < {*names}


@pytest.mark.parametrize(
    ("assignment", "n_new"),
    [
        # of each seed: plain, teacher_ncm, probe, finetune, stage 1 and 2, with 5 shots and all
        ("tasks.overlap=[3, 2, 1, 0]", 2 * 2 * 6),
        # and kd where the classes are shared
        ("tasks.shots=[5, 10, all]", 2 * (3 * 6 + 1)),
    ],
)
def test_a_longer_list_adds_its_own_cells_alone(assignment: str, n_new: int) -> None:
    old, new = plan_with(), plan_with(assignment)
    assert old.cells.keys() < new.cells.keys()
    assert len(new.cells) - len(old.cells) == n_new
    assert {*old.entries} < {*new.entries}
    assert old.experiment.grid == new.experiment.grid


def test_the_grid_is_that_of_the_classes_and_their_order() -> None:
    grids = []
    for assignment in ("classes=4", "order=random", "order_seed=1", "shots_seed=1", "new=2"):
        tasks = {"classes": 3}
        grids.append(experiment(f"tasks.{assignment}", tasks=tasks, methods=["plain"]).grid)
    grids.append(experiment("tasks={classes: 3}").grid)
    grids.append(parse({k: v for k, v in RAW.items() if k != "tasks"}).grid)
    assert len({*grids}) == len(grids)
    assert experiment("tasks={classes: 3}").grid == experiment().grid, "lists may grow"
    assert experiment("tasks.order=labels").grid == experiment().grid, "a default, written out"


def test_without_tasks_nothing_is_said_of_them() -> None:
    plain = parse({k: v for k, v in RAW.items() if k != "tasks"})
    assert "tasks" not in plain.model_dump()
    plan = make_plan(plain, DATA)
    assert all(e.task is None and e.dimensions == {} for e in plan.entries)
    assert not any(c.config.data.view != View() for c in plan.cells.values())
    # All classes and all images: the same cells, whether or not somebody says so.
    said = make_plan(parse(RAW | {"tasks": {"classes": 7}}), DATA)
    assert [*said.cells] == [*plan.cells]
    assert parse(RAW | {"tasks": {}}).tasks == Tasks()


def test_a_task_and_its_dimensions() -> None:
    for task in (Task(), Task(2), Task(0, 0), Task(None, 5)):
        assert Task.from_dimensions(task.dimensions) == task
    assert Task(2, None).dimensions == {"overlap": 2, "shots": "all"}
    assert Task(0, 5).words == ["overlap 0", "shots 5"]
    twice = Tasks(classes=3, overlap=(3, "all", 1))
    assert twice.all == [Task(), Task(1)], "3 of 3 are all"
    assert twice.only(Task(1)).all == [Task(1)]


# Which methods


def test_methods_of_the_same_classes_are_left_out_where_they_differ() -> None:
    plan = plan_with()
    assert {e.task for e in entries(plan, method="kd")} == {Task(), Task(None, 5)}
    for method in ("plain", "teacher_ncm", "probe", "refilled"):
        assert {e.task for e in entries(plan, method=method)} == {*plan.experiment.tasks.all}


def refusal(*assignments: str, **changes: Any) -> str:
    """Return the one-line error of an experiment, or of its plan."""
    return wrong(lambda: plan_with(*assignments, **changes))


@pytest.mark.parametrize("method", ["kd", "dkd", "kd+vid", "kd@2"])
def test_a_method_of_the_same_classes_needs_them_somewhere(method: str) -> None:
    for tasks, remedy in (
        ({"classes": 3, "overlap": [2, 0]}, f"add overlap all or drop {method!r}"),
        ({"classes": 3, "new": 2}, f"need the same classes; drop {method!r}"),
    ):
        message = refusal(tasks=tasks, methods=["plain", method])
        assert message.startswith(f"methods: {method!r} compares logits") and remedy in message


# Longer methods


def test_longer_methods_are_cells_of_that_many_epochs() -> None:
    """Both stages together have 8 epochs; the milestones keep their shares."""
    plan = plan_with("methods=[plain, plain@both, kd@2.5, refilled]", "training.milestones=[2, 3]")
    spec = cell_of(plan, method="plain@both", task=Task(0, 5), seed=0).config.as_json()
    assert (spec["training"]["epochs"], spec["training"]["milestones"]) == (8, [4, 6])
    alone = plan_with("methods=[plain]", "training={epochs: 8, milestones: [4, 6]}")
    for task in experiment().tasks.all:
        for seed in (0, 1):
            long = cell_of(plan, method="plain@both", task=task, seed=seed)
            assert long == cell_of(alone, method="plain", task=task, seed=seed)
    spec = cell_of(plan, method="kd@2.5", task=Task(), seed=0).config.as_json()
    assert (spec["training"]["epochs"], spec["training"]["milestones"]) == (10, [5, 8])
    (teacher,) = entries(plan, stage="teacher", seed=0)
    assert plan.cells[teacher.fingerprint].epochs == 4, "teachers stay"
    assert cell_of(plan, method="plain", task=Task(0), seed=0).epochs == 4


def test_longer_methods_may_be_written_as_mappings() -> None:
    both = [{"method": "plain", "epochs": "both"}, {"method": "kd", "epochs": 2}, "kd@3.0"]
    assert experiment(methods=both).methods == ("plain@both", "kd@2", "kd@3")
    labels = [parse_method(m).label for m in ("plain@both", "kd@2", "kd@0.5")]
    assert labels == ["Student, epochs of both stages", "KD, 2 x epochs", "KD, 0.5 x epochs"]
    # What names it, reads back as itself.
    for name in ("kd@2.3456789", "kd@0.001", "plain@both", "kd+vid@2"):
        assert parse_method(parse_method(name).name) == parse_method(name)


def test_both_reads_the_stages_it_is_named_for() -> None:
    """Sections of a method that is not there are used, then."""
    short = parse(RAW | {"methods": ["plain@both"]})
    assert {"stage1", "stage2"} < short.model_dump().keys()
    assert short.for_method("plain@both").training.epochs == 8
    assert "stage1" not in parse(RAW | {"methods": ["plain@2"]}).model_dump()


def test_settings_of_a_longer_method_are_its_own() -> None:
    tuned = {"kd@2": {"settings": {"kd": {"alpha": 0.5}, "training": {"lr": 0.03}}}}
    plan = plan_with(methods=["kd", "kd@2"], tuned=tuned)
    long = cell_of(plan, method="kd@2", task=Task(), seed=0).config.as_json()
    short = cell_of(plan, method="kd", task=Task(), seed=0).config.as_json()
    assert (long["kd"]["alpha"], long["training"]["lr"], long["training"]["epochs"]) == (
        0.5,
        0.03,
        8,
    )
    assert (short["kd"]["alpha"], short["training"]["lr"]) == (0.9, 0.1)
    both = plan_with(
        methods=["plain@both"], tuned={"plain@both": {"settings": {"training": {"lr": 0.03}}}}
    )
    spec = cell_of(both, method="plain@both", task=Task(0), seed=0).config.as_json()
    assert (spec["training"]["lr"], spec["training"]["epochs"]) == (0.03, 8)


def test_settings_of_one_task_are_its_own() -> None:
    own = {"overlap": 1, "shots": 5, "settings": {"stage2": {"lambd": 7}}}
    common = {"stage2": {"lambd": 3, "tau2": 1}}
    tuned = {"refilled": {"settings": common, "tasks": [own]}}
    plan, before = plan_with(tuned=tuned), plan_with(tuned={"refilled": {"settings": common}})
    for task in experiment().tasks.all:
        spec = cell_of(plan, stage="stage2", task=task, seed=1).config.sections["stage2"]
        assert (spec.lambd, spec.tau2) == (7 if task == Task(1, 5) else 3, 1)
    others = {e for e in plan.entries if e not in before.entries}
    assert {(e.stage, e.task) for e in others} == {("stage2", Task(1, 5))}
    assert plan.experiment.grid != before.experiment.grid


# How often it is measured


def test_a_rhythm_changes_what_it_is_about_and_its_default_nothing() -> None:
    one, same = plan_with(), plan_with("protocol.evaluate_every=1")
    assert [*one.cells] == [*same.cells]
    assert one.experiment.grid == same.experiment.grid
    assert not any("evaluate_every" in c.config.as_json()["protocol"] for c in one.cells.values())
    rare = plan_with("protocol.evaluate_every=3")
    for entry in rare.entries:
        is_measured = entry.stage not in ("stage1", "probe", "teacher_ncm")
        found = rare.cells[entry.fingerprint].config.as_json()["protocol"].get("evaluate_every")
        assert found == (3 if is_measured else None), entry.name
    assert rare.experiment.protocol_label == "strict(evaluate_every=3)"


# What is refused

WRONG_VALUES = {
    "tasks": ["[3]"],
    "tasks.classes": ["1", "8", "2.5"],
    "tasks.overlap": ["4", "-1", "some", "true", "[1.5]", "[]", "[1, 1]"],
    "tasks.shots": ["13", "0", "[3, 3]"],
    "tasks.order": ["[1, 2, 1]", "[cat, 2, 3]", "[cat, dgo, bee]", "[0, 1, 7]", "[0, 1, -1]",
                    "[0, 1.5]", "[0, true]", "[]", "alphabet"],
    "tasks.order_seed": ["-1"],
    "tasks.shots_seed": ["x"],
    "tasks.overlaps": ["2"],
    "published": ["x.csv"],
    "methods": ["[refilled@both]", "[finetune@2]", "[teacher_ncm@2]", "[kd@1]", "[kd@1.0000001]",
                "[kd@0]", "[kd@-2]", "[kd@x]", "[kdd@2]", "[kd@2, kd@2.0]", "[{epochs: both}]"],
    "protocol.evaluate_every": ["0"],
}  # fmt: skip
WRONG_ELSEWHERE = {
    "tasks={overlap: [1]}": "tasks.overlap",
    "tasks={classes: 5, overlap: [2]}": "tasks.overlap",
    "tasks={classes: 3, new: 0}": "tasks.new",
    "tasks={classes: 3, new: 5}": "tasks.new",
    "tasks={classes: 7, new: 1}": "tasks.new",
    "tasks={new: 1}": "tasks.new",
    "tasks={classes: 3, new: 1, overlap: 2}": "tasks.overlap",
    "tasks={classes: 3, new: 1, shots: 13}": "tasks.shots",
    "tasks.order=[0, 1, 2, 3, 4]": "tasks.overlap",  # two tasks of three classes need six
    "tasks.order=[5, 6]": "tasks.classes",
    "tuned={plain: {tasks: [{overlap: 2, settings: {}}]}}": "tuned.plain.tasks",
}
REFUSED = WRONG_ELSEWHERE | {f"{f}={v}": f for f, values in WRONG_VALUES.items() for v in values}


@pytest.mark.parametrize("assignment", REFUSED)
def test_a_refusal_names_the_field(assignment: str) -> None:
    methods = ["plain"] if assignment.startswith(("tasks", "tuned")) else RAW["methods"]
    assert refusal(assignment, methods=methods).startswith(f"{REFUSED[assignment]}: ")


def test_a_refusal_names_the_nearest() -> None:
    assert "'overlap'" in refusal("tasks.overlaps=2")
    assert "'dog'" in refusal("tasks.order=[cat, dgo, bee]")


def test_tuned_tasks_must_exist() -> None:
    changes = {"methods": ["plain"], "tuned": {"plain": {"tasks": [{"settings": {}}]}}}
    without = {k: v for k, v in RAW.items() if k != "tasks"}
    with pytest.raises(UserError, match=r"^tuned\.plain\.tasks: no task of this experiment has"):
        parse(without | changes)
    assert parse(RAW | changes).tuned


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "cross.yaml"
    path.write_text(yaml.safe_dump(RAW))
    yield path


@pytest.mark.parametrize(
    "assignments",
    [
        ("tasks.classes=6", "tasks.overlap=[1]", "methods=[plain]"),
        ("tasks.order=['10', 1, 2]",),
        ("tasks.order=none.yaml",),
        ("tasks.overlaps=2",),
    ],
)
def test_the_command_line_refuses_with_status_2(file: Path, assignments: tuple[str, ...]) -> None:
    sets = [word for a in assignments for word in ("--set", a)]
    done = call(file.parent, "plan", file.name, *sets)
    assert done.returncode == 2, done.stdout
    assert one_error_line(done.stderr)


def test_a_file_may_name_longer_methods_that_a_command_leaves_out(tmp_path: Path) -> None:
    """The sections that `both` reads stay allowed then, like the section of any method."""
    path, both = tmp_path / "x.yaml", {"method": "plain", "epochs": "both"}
    path.write_text(yaml.safe_dump(RAW | {"methods": [both, "refilled"]}))
    assert read(path).methods == ("plain@both", "refilled")
    assert read(path, ["methods=[plain]"]).methods == ("plain",)
    path.write_text(yaml.safe_dump(RAW | {"methods": [both]}))
    assert read(path).methods == ("plain@both",)
    path.write_text(yaml.safe_dump(RAW | {"methods": [{"method": "plain", "epochs": 2}]}))
    with pytest.raises(UserError, match=r"^stage1: no method of this experiment uses it"):
        read(path)
