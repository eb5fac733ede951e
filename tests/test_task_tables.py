"""Tables, pages and figures of experiments whose students learn several tasks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bundles import TASKS, accuracy_of, as_text, planned, task_bundle, without_training
from looks import cut_off, overprinted, told_apart_by_colour_alone
from matplotlib.figure import Figure

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.bundle_fields import TrialsPart, TunedPart
from harness.analysis.figures import FIGURES, by_task, draw_all, drawable
from harness.analysis.figures.base import MANY_TASKS, default_settings
from harness.analysis.figures.by_task import against, panels_of, places, points
from harness.analysis.methods_page import methods_page
from harness.analysis.statistics import estimate
from harness.analysis.tables.accuracy import accuracy_tables, final_tables, leak_blocks
from harness.analysis.tables.caption import (
    caption,
    describe_evaluation,
    describe_tasks,
    tuning_budget,
)
from harness.analysis.tables.pages import link_to_runs, results_page
from harness.analysis.tables.result_table import DASH, Cell, ResultTable
from harness.analysis.tables.rows import (
    MOST_COLUMNS,
    Row,
    column_groups,
    columns_of,
    epochs_of,
    rows_of,
    select,
)
from harness.analysis.tables.runs import anchors, sections
from harness.common.errors import UserError
from harness.data import load
from harness.experiment.file import parse
from harness.experiment.tasks import Task, Tasks
from harness.plan import Plan

NARROW, WIDE = "wrn-10-1", "wrn-10-2"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture(scope="module")
def text(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> str:
    return without_training(plan, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def bundle(text: str) -> Bundle:
    return read_bundle(Path("cross.jsonl"), text)


def row_of(bundle: Bundle, label: str) -> Row:
    (row,) = (r for r in rows_of(bundle) if r.label == label)
    return row


def row_texts(bundle: Bundle, label: str) -> list[str]:
    """The texts of one row of the table."""
    (table,) = accuracy_tables(bundle)
    (row,) = (row for row in table.rows if row[0].text == label)
    return [cell.text for cell in row]


# -- the bundle ------------------------------------------------------------------------------------


def test_entries_have_their_tasks_as_numbers(plan: Plan, text: str) -> None:
    _, *lines = (json.loads(line) for line in text.splitlines())
    for line in lines:
        found = [{k: e[k] for k in ("overlap", "shots") if k in e} for e in line["entries"]]
        assert found == [e.dimensions for e in plan.entries_of(line["fingerprint"])]
    every = [e for line in lines for e in line["entries"]]
    assert {e.get("overlap") for e in every} == {2, "all", None}
    assert {e["stage"] for e in every if "overlap" not in e} == {"teacher", "pretrain"}


def test_numbers_can_be_grouped_by_task(bundle: Bundle) -> None:
    groups = bundle.by("method", "task")
    tasks = [Task(2, 5), Task(2, None), Task(None, 5), Task(None, None)]
    assert {task for method, task in groups if method == "plain"} == {*tasks}
    assert {n.task for n in bundle.numbers if n.stage == "pretrain"} == {None}


def test_numbers_stay_whole_without_all(tmp_path: Path) -> None:
    tasks = {"classes": 5, "overlap": [0, 2], "shots": 5}
    found = task_bundle(tmp_path, tasks=tasks, methods=["plain", "teacher_ncm"], seeds=[0])
    assert [c.words["overlap"] for c in columns_of(found)][:2] == ["overlap 0", "overlap 2"]
    said = "\n".join(caption(found))
    assert re.search(r"students [^;.]* 25 train", said), "without the teacher's images"


def test_classes_have_names_where_all_tasks_have_the_same(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.class_names is None
    same = task_bundle(tmp_path, tasks={"classes": 4, "overlap": 3}, methods=["plain", "finetune"])
    assert same.class_names == ["1", "2", "3", "4"], "the students', not the teacher's"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("overlap", -1),
        ("overlap", "some"),
        ("overlap", True),
        ("overlap", 2.0),
        ("shots", [5]),
        ("overlap", 4),  # no such task in line 1
        ("shots", 7),
    ],
)
def test_a_wrong_task_is_refused(text: str, field: str, value: Any) -> None:
    header, *lines = (json.loads(line) for line in text.splitlines())
    index = next(i for i, line in enumerate(lines) if field in line["entries"][0])
    lines[index]["entries"][0][field] = value
    with pytest.raises(UserError, match=f"line {index + 2} (has a wrong field: .*{field}|is of a)"):
        read_bundle(Path("x.jsonl"), as_text([header, *lines]))


def test_other_wrong_fields_are_refused(text: str) -> None:
    header, *lines = (json.loads(line) for line in text.splitlines())
    changed = json.loads(json.dumps(lines))
    changed[0]["manifest"]["evaluation_seconds"] = "1"
    with pytest.raises(UserError, match=r"line 2 .*evaluation_seconds"):
        read_bundle(Path("x.jsonl"), as_text([header, *changed]))
    changed = json.loads(json.dumps(lines))
    changed[0]["spec"]["data"]["digest"] = 7
    with pytest.raises(UserError, match=r"line 2 .*spec\.data\.digest"):
        read_bundle(Path("x.jsonl"), as_text([header, *changed]))
    changed = [
        line | {"entries": [e for e in line["entries"] if "overlap" not in e]} for line in lines
    ]
    with pytest.raises(UserError, match="no student of a task"):
        read_bundle(Path("x.jsonl"), as_text([header, *changed]))
    header["experiment"]["tasks"] = {"classes": 1}
    with pytest.raises(UserError, match=r"line 1 .*experiment\.tasks\.classes"):
        read_bundle(Path("x.jsonl"), as_text([header, *lines]))


# -- columns and numbers ---------------------------------------------------------------------------


def test_a_column_is_a_student_and_a_task(bundle: Bundle) -> None:
    columns = columns_of(bundle)
    tasks = [Task(2, 5), Task(2, None), Task(None, 5), Task(None, None)]
    assert [(c.student, c.task) for c in columns] == [(s, t) for s in (NARROW, WIDE) for t in tasks]
    assert columns[0].label == f"{NARROW}, overlap 2, shots 5"
    assert columns[-1].label == f"{WIDE}, overlap all, shots all"


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"students": TASKS["students"][:1], "tasks": {"shots": [5, 9]}}, ["shots 5", "shots 9"]),
        ({"tasks": {"classes": 5, "overlap": 2}, "methods": ["plain"]}, [NARROW, WIDE]),
        ({"tasks": None}, [NARROW, WIDE]),
        ({"tasks": None, "students": TASKS["students"][:1]}, [NARROW]),
    ],
)
def test_a_label_shows_what_differs(
    tmp_path: Path, changes: dict[str, Any], labels: list[str]
) -> None:
    found = task_bundle(tmp_path, **{"methods": ["plain"], "seeds": [0]} | changes)
    assert [c.label for c in columns_of(found)] == labels


def test_every_number_is_of_its_own_cells(plan: Plan, bundle: Bundle) -> None:
    """Looked up in the plan."""
    (table,) = accuracy_tables(bundle)
    for row, (label, _, *cells) in zip(rows_of(bundle), table.rows, strict=True):
        assert label.text == row.label
        for column, cell in zip(columns_of(bundle), cells, strict=True):
            own = {
                e.fingerprint
                for e in plan.entries
                if (e.stage, e.method) == (row.stage, row.method)
                and (e.student == column.student or row.stage in ("teacher", "teacher_ncm"))
                and e.task in (None, column.task)
            }
            expected = Cell.percent(estimate([accuracy_of(f, row.result) for f in sorted(own)]))
            assert cell.text == expected.text, (row.label, column.label)


def test_a_method_without_the_task_has_no_number(bundle: Bundle) -> None:
    _, _, *cells = row_texts(bundle, "KD")
    assert [cell == DASH for cell in cells] == [True, True, False, False] * 2
    assert "KD, wrn-10-1, overlap 2, shots 5" not in sections(bundle)


def test_what_is_the_teachers_is_the_same_everywhere(bundle: Bundle) -> None:
    teacher, readout, pretrained = (
        row_texts(bundle, label)[2:]
        for label in ("Teacher", "Teacher NCM", "Fine-tuning after stage 1: the teacher's task")
    )
    assert len(set(teacher)) == 1
    assert readout[:4] == readout[4:] and len(set(readout)) == 4
    assert len(set(pretrained[:4])) == len(set(pretrained[4:])) == 1
    assert len(set(pretrained)) == 2, "each student has its own"


def test_epochs_stand_beside_each_row(bundle: Bundle) -> None:
    (table,) = accuracy_tables(bundle)
    assert table.head[1] == "epochs"
    assert {label.text: epochs.text for label, epochs, *_ in table.rows} == {
        "Teacher": "10",
        "Student": "10",
        "Student, epochs of both stages": "17",
        "KD": "10",
        "Teacher NCM": "0",
        "Fine-tuning after stage 1: the teacher's task": "10",
        "Fine-tuning (upper bound)": "10 + 10",
        "ReFilled (tuple) after stage 1: NCM, centres from train": "7",
        "ReFilled (tuple) after stage 1: NCM, centres from the evaluated set": "7",
        "ReFilled (tuple)": "7 + 10",
    }


# -- several tables --------------------------------------------------------------------------------


def test_few_columns_are_one_table_without_a_title(bundle: Bundle) -> None:
    (table,) = accuracy_tables(bundle)
    assert table.head[2:] == [c.label for c in columns_of(bundle)] and table.title == ""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """2 students x 3 overlaps x 4 shots."""
    tasks = {"classes": 5, "overlap": [5, 2, 0], "shots": [5, 9, 20, "all"]}
    return task_bundle(
        tmp_path_factory.mktemp("many"),
        tasks=tasks,
        methods=["plain", "kd", "teacher_ncm"],
        seeds=[0],
    )


def test_many_columns_are_a_table_a_student_and_overlap(many: Bundle) -> None:
    tables = accuracy_tables(many)
    assert [t.title for t in tables] == [
        f"{student}, overlap {n}" for student in (NARROW, WIDE) for n in ("all", 2, 0)
    ]
    assert {tuple(t.head[2:]) for t in tables} == {("shots 5", "shots 9", "shots 20", "shots all")}
    groups = column_groups(columns_of(many))
    assert [c for g in groups for c in g.columns] == columns_of(many)
    labels = {tuple(row[0].text for row in t.rows) for t in tables}
    assert labels == {("Teacher", "Student", "KD", "Teacher NCM")}
    assert [t.head[0] for t in final_tables(many)] == [t.title for t in tables]


@pytest.mark.parametrize(
    ("tasks", "titles", "widths"),
    [
        ({"classes": 5, "overlap": [5, 4, 3, 2, 1]}, [NARROW, WIDE], [5, 5]),
        ({"shots": list(range(1, 13))}, [NARROW] * 2 + [WIDE] * 2, [6, 6, 6, 6]),
    ],
)
def test_no_table_is_too_wide(
    tmp_path: Path, tasks: dict[str, Any], titles: list[str], widths: list[int]
) -> None:
    changes = {"tasks": tasks, "methods": ["plain"], "seeds": [0]}
    tables = column_groups(columns_of(task_bundle(tmp_path, **changes)))
    assert [t.title for t in tables] == titles
    assert [len(t.columns) for t in tables] == widths and max(widths) <= MOST_COLUMNS


def test_students_without_tasks_are_never_split(bundle: Bundle) -> None:
    columns = [c for c in columns_of(bundle) if c.task == Task(2, 5)] * 6
    plain = [type(c)(c.student, None, {"student": c.student}) for c in columns]
    assert len(column_groups(plain)) == 1 and len(plain) > MOST_COLUMNS


# -- the page of results ---------------------------------------------------------------------------


def test_headings_and_targets_are_unique(tmp_path: Path) -> None:
    methods = ["plain", "plain@both", "plain@2", "kd", "kd@2.5", "kd@25", "teacher_ncm"]
    changes = {"methods": methods, "students": TASKS["students"][:1], "seeds": [0]}
    found = task_bundle(tmp_path, **changes)
    page = results_page(found)
    headings = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert headings == list(anchors(found)) and len(set(headings)) == len(headings)
    for label in ("Student", "Student, epochs of both stages", "Student, 2 x epochs"):
        assert f"{label}, overlap 2, shots 5" in headings
    (table,) = accuracy_tables(found, link_to_runs(found))
    targets = {cell.link for row in table.rows for cell in row} - {""}
    assert targets == {f"#{target}" for target in anchors(found).values()}
    assert len(targets) == len(headings)
    equal = "#kd-25-x-epochs-overlap-all-shots-5"
    assert {equal, f"{equal}-1"} <= targets


def test_a_heading_names_what_a_number_depends_on(bundle: Bundle) -> None:
    headings = list(sections(bundle))
    assert headings.count("Teacher") == 1
    assert [h for h in headings if h.startswith("Teacher NCM")] == [
        f"Teacher NCM, overlap {o}, shots {s}" for o in (2, "all") for s in (5, "all")
    ]
    assert [h for h in headings if "the teacher's task" in h] == [
        f"Fine-tuning after stage 1: the teacher's task, {s}" for s in (NARROW, WIDE)
    ]


def test_all_three_accuracies_name_the_task(bundle: Bundle) -> None:
    """Whose cells have no look at the test set in their journals are listed: none is known."""
    (table,) = leak_blocks(bundle)
    assert isinstance(table, ResultTable) and table.head[1] == "student, task"
    whose = [(row[0].text, row[1].text) for row in table.rows]
    assert len(set(whose)) == len(whose) == len(sections(bundle))
    assert ("Teacher", "wrn-16-2") in whose and ("Teacher NCM", "overlap 2, shots 5") in whose
    assert ("KD", f"{WIDE}, overlap all, shots 5") in whose


# -- what stands under a table ---------------------------------------------------------------------


def test_the_caption_has_digest_networks_and_sizes(plan: Plan, bundle: Bundle) -> None:
    text = "\n".join(caption(bundle))
    (digest,) = {c.config.data.digest for c in plan.cells.values()}
    assert re.findall(r"digest `(\w+)`", text) == [digest[:12]]
    assert all(name in text for name in ("wrn-16-2", NARROW, WIDE))
    sizes = {
        of_task: {
            n.cell.manifest.data.train for n in bundle.numbers if (n.task is not None) == of_task
        }
        for of_task in (False, True)
    }
    assert min(sizes[True]) == 25, "5 shots of 5 classes"
    assert re.search(rf"teacher \d+ test, {max(sizes[False])} train", text)
    assert f"25 to {max(sizes[True])} train" in text.partition("students ")[2]


def test_every_setting_of_tasks_is_described() -> None:
    sections: list[dict[str, Any]] = [
        {"classes": 5},
        {"order": "random", "order_seed": 3, "classes": 5},
        {"order": [3, 1, 4, 0, 5], "classes": 2},
        {"shots": [5], "shots_seed": 8},
        {"shots": [5]},
        {"classes": 6, "new": 3, "shots": [0, 5]},
        {"classes": 6, "overlap": 4},
    ]
    texts = [describe_tasks(Tasks.model_validate(section)) for section in sections]
    assert len({*texts}) == len(sections)
    for section, text in zip(sections, texts, strict=True):
        numbers = {
            str(section[k]) for k in ("classes", "new", "order_seed", "shots_seed") if k in section
        }
        assert numbers <= {*re.findall(r"\d+", text)}
        assert ("Overlap" in text) == ("overlap" in section)


def test_unknown_times_are_not_guessed(text: str) -> None:
    """Training takes 9 of 10 seconds of the cells that know it."""
    header, *lines = (json.loads(line) for line in text.splitlines())

    def described() -> str:
        return describe_evaluation(read_bundle(Path("x"), as_text([header, *lines])))

    assert "90 %" in described() and "every 5 epochs" in described()
    del lines[0]["manifest"]["evaluation_seconds"]
    assert "90 %" in described() and f"{len(lines) - 1} of {len(lines)}" in described()
    for line in lines[1:]:
        del line["manifest"]["evaluation_seconds"]
    header["experiment"]["protocol"]["evaluate_every"] = 1
    assert described() == ""


def test_trials_of_each_task() -> None:
    tuned = TunedPart(trials=None, tasks=[TrialsPart(trials=30), TrialsPart(trials=40)])
    (line,) = tuning_budget(["plain"], {"plain": tuned})
    assert line.endswith("trials: plain 30 to 40 for each of 2 tasks.")


# -- incremental -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def incremental(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return task_bundle(
        tmp_path_factory.mktemp("incremental"),
        tasks={"classes": 6, "new": 3, "shots": [0, 5, "all"]},
        students=TASKS["students"][:1],
        methods=["plain", "teacher_ncm", "finetune", "refilled"],
    )


def test_old_and_new_classes_stand_under_each_method(incremental: Bundle) -> None:
    labels = [row.label for row in rows_of(incremental)]
    assert [x for x in labels if "after stage" not in x] == [
        "Teacher",
        *(
            f"{method}{what}"
            for method in (
                "Student",
                "Teacher NCM",
                "Fine-tuning (upper bound)",
                "ReFilled (tuple)",
            )
            for what in ("", ": old classes", ": new classes")
        ),
    ]
    finals = [row for row in rows_of(incremental) if row.is_final]
    assert [row.result for row in finals] == ["accuracy"] * 4, "one result a method"
    for row in rows_of(incremental):
        for column in columns_of(incremental):
            chosen = select(incremental, row, column)
            assert len(chosen) == 2
            for r in chosen:
                assert r.selected == accuracy_of(r.cell.fingerprint, row.result)
    old = row_of(incremental, "ReFilled (tuple): old classes")
    assert epochs_of(incremental, old) == "7 + 10"
    assert "accuracy on their test images" in "\n".join(caption(incremental))


# -- figures ---------------------------------------------------------------------------------------


def test_all_stands_where_it_is(bundle: Bundle, incremental: Bundle) -> None:
    panels = panels_of(bundle, "overlap")
    titles = [f"{student}, shots {n}" for student in (NARROW, WIDE) for n in (5, "all")]
    assert [p.title for p in panels] == titles
    assert all(places(bundle, p, "overlap") == [2, 5] for p in panels)
    for panel in panels_of(bundle, "shots"):
        train = {
            n.cell.manifest.data.train for n in bundle.numbers if n.task == panel.columns[1].task
        }
        assert places(bundle, panel, "shots") == [5, train.pop() / 5]
    (panel,) = panels_of(incremental, "shots")
    assert not panels_of(incremental, "overlap")
    labels = load(parse(TASKS).dataset).train.labels
    assert places(incremental, panel, "shots") == [0, 5, pytest.approx((labels < 6).sum() / 6)]


def test_trainings_of_the_teachers_task_say_nothing_of_the_shots(tmp_path: Path) -> None:
    """With settings for each task they are entries of the task, of the teacher's images."""
    tuned = {"finetune": {"tasks": [{"shots": n, "settings": {}} for n in (5, "all")]}}
    bundle = task_bundle(
        tmp_path,
        tasks={"classes": 5, "shots": [5, "all"]},
        students=TASKS["students"][:1],
        methods=["finetune", "plain"],
        tuned=tuned,
    )
    (panel,) = panels_of(bundle, "shots")
    labels = load(parse(TASKS).dataset).train.labels
    assert places(bundle, panel, "shots") == [5, pytest.approx((labels < 5).sum() / 5)]
    assert against(bundle, "shots")


def test_a_line_is_what_the_table_says(bundle: Bundle) -> None:
    panel = panels_of(bundle, "overlap")[1]  # narrow, shots all
    found = points(bundle, panel, "overlap")
    assert [p.x for p in found["KD"]] == [5], "no number, no point"
    assert [p.x for p in found["Student"]] == [2, 5]
    for label, line in found.items():
        row = row_of(bundle, label)
        for point, column in zip(line, panel.columns[-len(line) :], strict=True):
            values = [n.selected for n in select(bundle, row, column)]
            assert point.estimate == estimate(values) and point.estimate.n == 2


@pytest.mark.parametrize("name", ["overlap", "shots"])
def test_figures_by_task(bundle: Bundle, name: Any) -> None:
    with default_settings():
        figure = FIGURES[name].draw(bundle)
    assert figure.get_suptitle() == f"cross: test accuracy against {name}"
    texts = FIGURES[name].texts(bundle)
    assert "means over n = 2 seeds" in texts.caption.lower()
    assert "teacher, on its own task" in texts.caption and "Data set digits" in texts.caption
    axes = [a for a in figure.axes if a.axison]
    assert len(axes) == 4 and all(name in a.get_xlabel() for a in axes)
    at_ends = [t.get_text() for t in axes[1].texts if t.get_text()]
    by_height = sorted(
        points(bundle, panels_of(bundle, name)[1], name).items(),
        key=lambda item: item[1][-1].estimate.mean,
    )
    assert sorted(at_ends) == sorted(label for label, _ in by_height)
    assert not [t for t in axes[0].texts if t.get_text()], "names stand on the right alone"
    legend = [t.get_text() for box in figure.legends for t in box.get_texts()]
    assert legend == (["KD"] if name == "shots" and "KD" not in at_ends else [])
    ticks = [t.get_text() for t in axes[0].get_xticklabels()]
    assert ticks == (["2", "all"] if name == "overlap" else ["5", "all"])
    assert (axes[0].get_xscale() == "log") == (name == "shots")
    (line,) = [c for c in axes[0].containers if c.get_label() == "Student"]
    panel = panels_of(bundle, name)[0]
    means = [100 * p.estimate.mean for p in points(bundle, panel, name)["Student"]]
    assert line[0].get_ydata() == pytest.approx(means)
    assert not told_apart_by_colour_alone(figure), "readable in grey, too"
    assert not overprinted(figure) and not cut_off(figure)


def test_tasks_that_lie_close_have_their_texts_in_rows(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_task, "WIDTH", 0.2)
    with default_settings():
        figure = FIGURES["shots"].draw(bundle)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["5", "\nall"]


def test_no_shots_at_all_have_a_place_on_the_axis(incremental: Bundle) -> None:
    with default_settings():
        figure = FIGURES["shots"].draw(incremental)
    (axes,) = figure.axes
    assert axes.get_xscale() == "symlog" and "images per old class" in axes.get_xlabel()
    assert -0.5 < axes.get_xlim()[0] < 0
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "5", "all"]


def test_which_figures_a_bundle_of_tasks_has(bundle: Bundle, many: Bundle, tmp_path: Path) -> None:
    names, left_out = drawable(bundle)
    assert names == ["accuracy", "curves-stage1", "curves-stage2"], "two points are no line"
    assert left_out == {"ncm": MANY_TASKS, "confusion": MANY_TASKS}
    names, left_out = drawable(many)
    assert names == ["accuracy", "overlap", "shots"]
    assert f"more than {MOST_COLUMNS}" in left_out["curves-stage2"]
    assert len(draw_all(many, tmp_path)) == 3
    with default_settings():
        panels = FIGURES["accuracy"].draw(many).axes
    titles = [a.get_title().replace("\n", " ") for a in panels if a.axison]
    assert titles.count(f"{NARROW}, overlap 2, shots 9") == 2, "accuracies and differences"
    assert {*titles} == {column.label for column in columns_of(many)}


def names_in(figure: Figure) -> set[str]:
    """Return the names of lines, at their ends and in the legend."""
    at_ends = {t.get_text() for axes in figure.axes for t in axes.texts if t.get_text()}
    return at_ends | {t.get_text() for box in figure.legends for t in box.get_texts()}


def test_curves_leave_out_what_takes_no_steps_and_the_teachers_task(bundle: Bundle) -> None:
    with default_settings():
        last = FIGURES["curves-stage2"].draw(bundle)
        first = FIGURES["curves-stage1"].draw(bundle)
    assert {"Fine-tuning (upper bound)", "ReFilled (tuple)"} <= names_in(last)
    assert "Teacher NCM" not in names_in(last) and names_in(first) == {"ReFilled (tuple)"}
    titles = [a.get_title().replace("\n", " ") for a in last.axes[: len(columns_of(bundle))]]
    assert titles == [c.label for c in columns_of(bundle)]
    assert "25 to " in FIGURES["curves-stage2"].texts(bundle).caption


def test_what_is_tuned_for_each_task_has_a_number_for_each(tmp_path: Path) -> None:
    """Also before it, on the teacher's task; that is still no curve of a student."""
    own = {"overlap": 2, "shots": 5, "settings": {"training": {"lr": 0.02}}}
    plan = planned(tuned={"finetune": {"tasks": [own]}})
    bundle = read_bundle(tmp_path / "x.jsonl", without_training(plan, tmp_path / "runs"))
    row = row_of(bundle, "Fine-tuning after stage 1: the teacher's task")
    found = {
        c.label: {n.cell.fingerprint for n in select(bundle, row, c)} for c in columns_of(bundle)
    }
    assert {len(cells) for cells in found.values()} == {2}, "one a seed"
    narrow = [label for label in found if NARROW in label]
    (other,) = [label for label in narrow if "overlap 2" in label and "shots 5" in label]
    assert all((found[label] == found[other]) == (label == other) for label in narrow)
    with default_settings():
        first = FIGURES["curves-stage1"].draw(bundle)
    assert names_in(first) == {"ReFilled (tuple)"}


# -- the page of methods ---------------------------------------------------------------------------


def test_the_methods_page_knows_bounds_and_longer_methods() -> None:
    page = methods_page()
    assert "- `plain`: a lower bound" in page and "- `probe`, `teacher_ncm`: lower" in page
    assert "- `finetune`: an upper bound" in page
    assert "`plain@both` for those of both stages of `refilled`" in page
    assert f"| `teacher_ncm` | {DASH} | accuracy |" in page
    assert "`probe`, `teacher_ncm` have no epochs" in page
