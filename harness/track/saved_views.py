"""Saved views of MLflow's web pages, and the addresses to open first.

MLflow keeps a view of an experiment's runs as one experiment tag, and an address names the tag.
MLflow 3.17 reads JSON with `name`, `createdAt` and `state`, which is JSON again. Earlier versions
read the fields of `state` from the top level: they find the cells there, and choose the charts
themselves. A version that finds no view opens the experiment's page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, quote_plus

COMPACT = (",", ":")  # JSON separators; in the oldest MLflow allowed a tag holds 5,000 characters
TAG = "mlflow.sharedViewState."
# Runs first, not traces. Newer versions read the kind from the address instead.
KIND = {"mlflow.experimentKind": "custom_model_development"}
WORKFLOW = "workflowType=machine_learning"

# Column of the table of cells -> width in pixels; together they fill a window of 1400 pixels.
NAME_COLUMN = {"attributes.`Run Name`": 300, "runDateAndNestInfo": 70}  # MLflow shows both here
TASK_COLUMNS = {"tags.`overlap`": 75, "tags.`shots`": 65}  # if the experiment has tasks
COLUMNS = {
    "tags.`method`": 120,
    "tags.`student`": 95,
    "tags.`stage`": 80,
    "tags.`seed`": 60,
    "metrics.`test_accuracy`": 120,
    "metrics.`test_ncm`": 95,
    "tags.`selected_epoch`": 120,
}
# Tags of a cell's run: its place in lists, and the pages of curves that show it, as ",0,,2,".
PLACE, PAGES = "place", "pages"
# Section -> metric -> chart. MLflow leaves out metrics that no run has, and adds charts of all
# other metrics below.
SECTIONS = {
    "Classifiers: students, and last stages": {
        "validation/accuracy": "LINE",
        "loss/ce": "LINE",
        "train/accuracy": "LINE",
    },
    "First stages: embeddings": {"validation/ncm_train_centers": "LINE", "loss/relation": "LINE"},
    "Final numbers": {"test_accuracy": "BAR", "test_ncm": "BAR"},
}
# A curve is the mean of the runs with equal values of these tags: the mean over seeds.
GROUPS, TASK_GROUPS = ["method", "student", "stage"], ["overlap", "shots"]
MOST_LINKS = 8  # to pages of curves, in a description


def experiment_tags(
    parent_run_id: str,
    grid: str,
    created: int,
    with_tasks: bool = False,
    curves: Sequence[str] = ("",),
) -> dict[str, str]:
    """Return the experiment tags that hold the views of one of its grids.

    Args:
        parent_run_id: The grid's run.
        grid: The grid's name, for MLflow's list of saved views.
        created: The grid's start in milliseconds since 1970.
        with_tasks: Whether its cells have overlap and shots.
        curves: The titles of its pages of curves; "" for the only one.
    """
    cells = cells_state(parent_run_id, NAME_COLUMN | (TASK_COLUMNS if with_tasks else {}) | COLUMNS)
    groups = GROUPS + (TASK_GROUPS if with_tasks and len(curves) == 1 else [])
    views = {("Cells", _key("cells", parent_run_id)): cells}
    for page, title in enumerate(curves):
        chosen = cells | {"searchFilter": _of_page(parent_run_id, page)} if title else cells
        name = f"Curves ({title})" if title else "Curves"
        views[name, _key("curves", parent_run_id, page)] = curves_state(chosen, groups)
    return KIND | {
        f"{TAG}{key}": json.dumps(
            {
                "name": f"{name} of {grid}",
                "createdAt": created,
                "state": json.dumps(state, separators=COMPACT),
                **cells,
            },
            separators=COMPACT,
        )
        for (name, key), state in views.items()
    }


def first_views(
    base_url: str, experiment_id: str, parent_run_id: str, curves: Sequence[str] = ("",)
) -> list[tuple[str, str]]:
    """Return the pages to open first as (title, address): the cells, their curves, the result."""
    runs = f"{base_url.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?{WORKFLOW}"
    result = runs.replace("/runs?", f"/runs/{parent_run_id}?")
    shared = f"{runs}&viewStateShareKey="
    pages = [
        (
            f"curves, {title}" if title else "curves by epoch",
            f"{shared}{_key('curves', parent_run_id, page)}&compareRunsMode=CHART",
        )
        for page, title in enumerate(curves)
    ]
    cells = "cells and accuracies", f"{shared}{_key('cells', parent_run_id)}"
    return [cells, *pages, ("result of the grid", result)]


def experiment_note(
    description: str,
    experiment_id: str,
    parent_run_id: str,
    grid: str,
    curves: Sequence[str] = ("",),
) -> str:
    """Return an experiment's description with links to its views.

    MLflow 3.17 opens its pages for language models at an experiment's bare address, with the first
    line of the description above them.
    """
    links = ", ".join(
        f"[{what}]({url.removeprefix('/')})"
        for what, url in first_views("", experiment_id, parent_run_id, curves[:MOST_LINKS])
    )
    way = f"The runs are under *Model training* (top left), of {grid}: {links}"
    return f"{way}\n\n{description}".strip()


def runs_page(experiment_id: str, conditions: dict[str, str]) -> str:
    """Return the address, on the same server, that lists the runs with these tags.

    It is short, as a table full of links must fit into a tag. The runs are sorted by seed: by time,
    MLflow would show the grid's run instead. "%" in a tag's value stands for any characters.
    """
    words = [f"tags.{k}{' LIKE ' if '%' in v else '='}'{v}'" for k, v in conditions.items()]
    search = quote_plus(" and ".join(words), safe="='")
    runs = f"#/experiments/{quote(experiment_id)}/runs"
    return f"{runs}?{WORKFLOW}&searchFilter={search}&orderByKey=tags.seed"


def cells_state(parent_run_id: str, columns: dict[str, int]) -> dict[str, Any]:
    """Return the view of a grid's cells, sorted by their places (`harness.track.places`).

    By time, MLflow would show the grid's run and hide the cells below it.
    """
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
        "orderByKey": f"tags.`{PLACE}`",
        "orderByAsc": True,
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "SHOW_ALL",
    }


def curves_state(cells: dict[str, Any], groups: list[str]) -> dict[str, Any]:
    """Return the view of the charts in `SECTIONS`, with one curve per group of cells."""
    keys = [{"mode": "tag", "groupByData": tag} for tag in groups]
    return cells | {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
        "compareRunCharts": [
            _chart(metric, kind, str(i))
            for i, charts in enumerate(SECTIONS.values())
            for metric, kind in charts.items()
        ],
        "compareRunSections": [
            {"uuid": str(i), "name": name, "display": True, "isReordered": True, "columns": 2}
            for i, name in enumerate(SECTIONS)
        ],
        "isAccordionReordered": True,  # else MLflow sorts further sections into ours
    }


def _chart(metric: str, kind: str, section: str) -> dict[str, Any]:
    line = {
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
    }
    return {
        "uuid": metric,
        "metricSectionId": section,
        "type": kind,
        "metricKey": metric,
        "deleted": False,
        "isGenerated": False,
        **(line if kind == "LINE" else {}),
    }


def _of_page(parent_run_id: str, page: int) -> str:
    return f"tags.`mlflow.parentRunId` = '{parent_run_id}' and tags.`{PAGES}` LIKE '%,{page},%'"


def _key(view: str, parent_run_id: str, page: int = 0) -> str:
    return f"{view}-{parent_run_id[:8]}" + (f"-{page}" if page else "")
