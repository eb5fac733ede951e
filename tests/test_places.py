"""Places of a grid's runs in MLflow's lists, and its pages of curves."""

from pathlib import Path

import pytest
from training import tiny

from harness.plan import Plan
from harness.track import places
from harness.track.places import list_tags, pages_of_curves
from harness.track.places import places as places_of

TASKS = "tasks={classes: 5, overlap: [5, 2], shots: [4]}"
METHODS = "methods=[refilled, plain, pixels_ncm]"


def names(plan: Plan) -> list[str]:
    """Return the names of the cells in the order of their places."""
    order = places_of(plan)
    assert len(set(order.values())) == len(plan.cells)
    return [plan.name_of(f) for f in sorted(order, key=order.__getitem__)]


def test_baselines_come_first_and_seeds_stay_together(tmp_path: Path) -> None:
    plan = tiny(tmp_path, METHODS, "seeds=[3, 1]", "teacher={depth: 10, width: 2}").plan
    found = names(plan)
    assert found[:2] == ["teacher wrn-10-2 s3", "teacher wrn-10-2 s1"]
    assert [name.split()[0] for name in found[2:]] == [
        *("student", "student", "pixels_ncm", "pixels_ncm"),
        *("refilled", "refilled", "refilled", "refilled"),
    ]
    assert [name.split()[-1] for name in found] == ["s3", "s1"] * 5


def test_further_seeds_move_no_run(tmp_path: Path) -> None:
    few = places_of(tiny(tmp_path, METHODS, TASKS, "seeds=[3, 1]").plan)
    more = places_of(tiny(tmp_path, METHODS, TASKS, "seeds=[3, 1, 2]").plan)
    assert len(more) > len(few) and few.items() <= more.items()


def test_tasks_stay_together(tmp_path: Path) -> None:
    plan = tiny(tmp_path, METHODS, TASKS, "teacher={depth: 10, width: 2}").plan
    tasks = [name.partition("overlap ")[2][:1] for name in names(plan)]
    assert tasks == sorted(tasks, key=["", "a", "2"].index) and {*tasks} == {"", "a", "2"}


def test_each_task_has_a_page_with_its_teacher(tmp_path: Path) -> None:
    plan = tiny(tmp_path, METHODS, TASKS, "teacher={depth: 10, width: 2}").plan
    pages = pages_of_curves(plan)
    assert [page.title for page in pages] == ["overlap all, shots 4", "overlap 2, shots 4"]
    for page in pages:
        stages = sorted(plan.name_of(cell).split()[0] for cell in page.cells)
        assert stages == ["refilled", "refilled", "student", "teacher"], "no floors: they have none"
    tags = list_tags(plan)
    (teacher,) = pages[0].cells & pages[1].cells
    assert tags[teacher]["pages"] == ",0,,1,"
    for number, page in enumerate(pages):
        tagged = {cell for cell, tag in tags.items() if f",{number}," in tag["pages"]}
        assert tagged == page.cells


def test_a_grid_without_tasks_has_one_page(tmp_path: Path) -> None:
    (page,) = pages_of_curves(tiny(tmp_path, "methods=[plain, refilled]").plan)
    assert page.title == ""


@pytest.mark.parametrize(
    ("most", "titles"),
    [
        (10, [""]),
        (9, ["wrn-10-1", "wrn-10-2"]),
        (6, ["wrn-10-1", "wrn-10-2"]),
        (5, ["wrn-10-1, 1 of 2 seeds", "wrn-10-2, 1 of 2 seeds"]),
    ],
)
def test_no_page_has_more_runs_than_mlflow_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, titles: list[str]
) -> None:
    monkeypatch.setattr(places, "MOST_RUNS", most)
    students = "students=[{depth: 10, width: 1}, {depth: 10, width: 2}]"
    plan = tiny(
        tmp_path, "methods=[plain, kd]", students, "seeds=[0, 1]", "teacher={depth: 16, width: 1}"
    ).plan
    assert len(plan.cells) == 10
    pages = pages_of_curves(plan)
    assert [page.title for page in pages] == titles
    assert all(len(page.cells) <= most for page in pages)
    assert all(any("teacher" in plan.name_of(cell) for cell in page.cells) for page in pages), (
        "beside its students"
    )
