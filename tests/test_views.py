"""The saved views of MLflow's pages, and their addresses."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from harness.plan import display_role
from harness.track.saved_views import (
    KIND,
    SECTIONS,
    TAG,
    experiment_note,
    experiment_tags,
    first_views,
    runs_page,
)

RUN = "0123456789abcdef0123456789abcdef"


def query(url: str) -> dict[str, list[str]]:
    """Return the parameters of an address, which MLflow puts behind the #."""
    return parse_qs(urlsplit(urlsplit(url).fragment).query)


def test_an_address_names_a_tag_that_is_set() -> None:
    tags = experiment_tags(RUN, "grid Digits 01fc95", 1700000000000)
    views = first_views("http://127.0.0.1:5000/", "7", RUN)
    assert all(url.startswith("http://127.0.0.1:5000/#/experiments/7/runs") for _, url in views)
    assert all(query(url)["workflowType"] == ["machine_learning"] for _, url in views)
    named = [TAG + query(url)["viewStateShareKey"][0] for _, url in views[:2]]
    assert tags.keys() == {*named, *KIND}
    assert views[2][1].startswith(f"http://127.0.0.1:5000/#/experiments/7/runs/{RUN}?")


@pytest.mark.parametrize("view", ["cells", "curves"])
def test_a_view_says_the_same_to_old_and_new_versions(view: str) -> None:
    value = json.loads(experiment_tags(RUN, "grid Digits", 5)[f"{TAG}{view}-{RUN[:8]}"])
    assert value["name"] == f"{view.capitalize()} of grid Digits" and value["createdAt"] == 5
    state = json.loads(value["state"])
    of_cells = {k: v for k, v in state.items() if "compareRun" not in k}
    for key in ("groupBy", "isAccordionReordered"):
        of_cells.pop(key, None)
    assert of_cells.items() <= value.items()
    assert RUN in value["searchFilter"]
    assert ("compareRunCharts" in state) == (view == "curves")


def test_tasks_have_columns_where_there_are_any() -> None:
    def columns(with_tasks: bool) -> list[str]:
        tags = experiment_tags(RUN, "grid Digits", 5, with_tasks)
        state = json.loads(json.loads(tags[f"{TAG}cells-{RUN[:8]}"])["state"])
        assert state["columnOrder"] == list(state["columnWidths"]) == state["selectedColumns"]
        return list(state["selectedColumns"])

    name, created, *others = columns(False)
    assert columns(True) == [name, created, "tags.`overlap`", "tags.`shots`", *others]
    assert "tags.`student`" in others


@pytest.mark.parametrize("with_tasks", [False, True])
def test_curves_are_means_over_seeds_in_a_section_a_stage(with_tasks: bool) -> None:
    tags = experiment_tags(RUN, "grid Digits", 5, with_tasks)
    state = json.loads(json.loads(tags[f"{TAG}curves-{RUN[:8]}"])["state"])
    keys = state["groupBy"]["groupByKeys"]
    tasks = ["overlap", "shots"] if with_tasks else []
    assert [k["groupByData"] for k in keys] == ["method", "student", "stage", *tasks]
    assert {k["mode"] for k in keys} == {"tag"}
    names = {s["uuid"]: s["name"] for s in state["compareRunSections"]}
    placed = {c["metricKey"]: names[c["metricSectionId"]] for c in state["compareRunCharts"]}
    assert placed == {metric: name for name, metrics in SECTIONS.items() for metric in metrics}
    assert list(names.values()) == list(SECTIONS)


def test_pages_of_curves_have_the_runs_that_their_tags_name() -> None:
    titles = ["shots 5", "shots 20"]
    tags = experiment_tags(RUN, "grid Digits", 5, True, titles)
    views = first_views("http://x", "7", RUN, titles)
    assert [title for title, _ in views] == [
        *("cells and accuracies", "curves, shots 5", "curves, shots 20", "result of the grid")
    ]
    for page, (title, url) in enumerate(views[1:3]):
        value = json.loads(tags[TAG + query(url)["viewStateShareKey"][0]])
        assert titles[page] in value["name"] and titles[page] in title
        state = json.loads(value["state"])
        assert f"tags.`pages` LIKE '%,{page},%'" in state["searchFilter"]
        assert RUN in state["searchFilter"]
        assert [key["groupByData"] for key in state["groupBy"]["groupByKeys"]] == [
            *("method", "student", "stage")
        ]


def test_an_experiments_description_leads_to_its_views() -> None:
    text = experiment_note("Few images.", "7", RUN, "grid Digits 01fc95")
    first, _, rest = text.partition("\n")
    for what, url in first_views("http://here", "7", RUN):
        assert f"[{what}]({url.removeprefix('http://here/')})" in first
    assert "*Model training* (top left), of grid Digits 01fc95" in first
    assert rest.strip() == "Few images."


def test_a_role_is_a_stage_or_a_longer_method() -> None:
    assert display_role("teacher", "teacher") == "teacher"
    assert (
        display_role("student", "plain") == "student"
        and display_role("stage1", "refilled") == "stage1"
    )
    assert (
        display_role("student", "plain@both") == "plain@both"
        and display_role("kd", "kd@2") == "kd@2"
    )


def test_values_fit_into_a_tag() -> None:
    """In the oldest MLflow allowed, a tag holds 5,000 characters."""
    titles = ["overlap all, shots 20, " + "w" * 60, "overlap 0, shots 20, 11 of 12 seeds"]
    for curves in ([""], titles):
        tags = experiment_tags(RUN, "g" * 250, 1700000000000, True, curves)
        assert max(map(len, tags.values())) < 5000


def test_conditions_survive_an_address() -> None:
    url = runs_page("7", {"roles": "%student%", "student": "wrn-10-1"})
    assert query(url)["searchFilter"] == ["tags.roles LIKE '%student%' and tags.student='wrn-10-1'"]
    assert not set(url) & set(" ()|"), "it stands in a Markdown table"
