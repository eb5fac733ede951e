"""Saved views of MLflow's web pages, and the addresses to open first.

MLflow keeps a view of an experiment's runs as one experiment tag, and an address names the tag.
MLflow 3.17 reads JSON with `name`, `createdAt` and `state`, which is JSON again. Earlier versions
read the fields of `state` from the top level: they find the cells there, and choose the charts
themselves. A version that finds no view opens the experiment's page.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus

COMPACT = (",", ":")  # JSON separators; in the oldest MLflow allowed a tag holds 5,000 characters
TAG = "mlflow.sharedViewState."
# Runs first, not traces. Newer versions read the kind from the address instead.
KIND = {"mlflow.experimentKind": "custom_model_development"}
WORKFLOW = "workflowType=machine_learning"

# Column of the table of cells -> width in pixels; together they fill a window of 1400 pixels.
COLUMNS = {
    "attributes.`Run Name`": 215,
    "runDateAndNestInfo": 132,
    "metrics.`test_accuracy`": 120,
    "metrics.`test_ncm`": 95,
    "tags.`student`": 110,
    "tags.`method`": 110,
    "tags.`stage`": 95,
    "tags.`seed`": 70,
    "tags.`selected_epoch`": 115,
}
# Further columns if the experiment has tasks.
TASK_COLUMNS = {"tags.`overlap`": 75, "tags.`shots`": 75}
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


def experiment_tags(
    parent_run_id: str, grid: str, created: int, with_tasks: bool = False
) -> dict[str, str]:
    """Return the experiment tags that hold the views of one of its grids.

    Args:
        parent_run_id: The grid's run.
        grid: The grid's name, for MLflow's list of saved views.
        created: The grid's start in milliseconds since 1970.
        with_tasks: Whether its cells have overlap and shots.
    """
    cells = cells_state(parent_run_id, COLUMNS | (TASK_COLUMNS if with_tasks else {}))
    groups = GROUPS + (TASK_GROUPS if with_tasks else [])
    views = {"cells": cells, "curves": curves_state(cells, groups)}
    return KIND | {
        f"{TAG}{_key(view, parent_run_id)}": json.dumps(
            {
                "name": f"{view.capitalize()} of {grid}",
                "createdAt": created,
                "state": json.dumps(state, separators=COMPACT),
                **cells,
            },
            separators=COMPACT,
        )
        for view, state in views.items()
    }


def first_views(base_url: str, experiment_id: str, parent_run_id: str) -> list[tuple[str, str]]:
    """Return the pages to open first as (title, address): the cells, their curves, the result."""
    runs = f"{base_url.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs"
    cells, curves = (f"viewStateShareKey={_key(v, parent_run_id)}" for v in ("cells", "curves"))
    return [
        ("cells and accuracies", f"{runs}?{WORKFLOW}&{cells}"),
        ("curves by epoch", f"{runs}?{WORKFLOW}&{curves}&compareRunsMode=CHART"),
        ("result of the grid", f"{runs}/{parent_run_id}?{WORKFLOW}"),
    ]


def experiment_note(description: str, experiment_id: str, parent_run_id: str, grid: str) -> str:
    """Return an experiment's description with links to its views.

    MLflow 3.17 opens its pages for language models at an experiment's bare address, with the first
    line of the description above them.
    """
    links = ", ".join(
        f"[{what}]({url.removeprefix('/')})"
        for what, url in first_views("", experiment_id, parent_run_id)
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
    """Return the view of a grid's cells, sorted by name.

    That puts the seeds of a method and student together. By time, MLflow would show the grid's run
    and hide the cells below it.
    """
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
        "orderByKey": "tags.`mlflow.runName`",
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


def _key(view: str, parent_run_id: str) -> str:
    return f"{view}-{parent_run_id[:8]}"
