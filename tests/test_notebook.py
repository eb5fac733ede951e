"""The code of docs/notebook.ipynb and of README.md runs, after a grid that was trained."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from helpers import ROOT, Output, Patch

from harness.experiment.file import read

NOTEBOOK = json.loads((ROOT / "docs/notebook.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names(finished: Path) -> dict[str, Any]:
    """Return the variables of the notebook after it has run on the tiny grid."""
    names: dict[str, Any] = {}
    with Patch.context() as patch:
        patch.chdir(finished)
        matplotlib.use("agg")
        for cell in CODE:
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= {"EXPERIMENT": "experiments/tiny.yaml", "BASELINE": "plain", "WHERE": {}}
                names["COMMITTED"] = False
    return names


def test_every_cell_runs(names: dict[str, Any]) -> None:
    assert set(names["finals"].method) == {"plain", "kd", "refilled"}
    (axis,) = names["figure"].axes
    drawn = {text.get_text() for text in axis.get_yticklabels()}
    assert drawn == set(names["finals"].label)
    for line in axis.lines:
        assert len(line.get_xdata()) == 1
    assert names["model"].class_names == tuple("0123456789")
    assert float(names["probabilities"].sum()) == pytest.approx(1)
    plt.close("all")


def test_its_outputs_are_those_of_one_run_without_an_error() -> None:
    """GitHub shows them: of all cells, in their order."""
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {o["output_type"] for o in outputs} <= {"execute_result", "display_data"}
    assert sum("image/png" in o["data"] for o in outputs) == 2
    assert str(ROOT) not in json.dumps(NOTEBOOK)


def html_cells(html: str) -> list[str]:
    """Return the texts of a table's cells."""
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)


def test_its_stored_numbers_are_the_committed_ones(monkeypatch: Patch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    n_tables = 0
    for cell in CODE:
        source = "".join(cell["source"])
        if "matplotlib" in source:
            break  # what follows is a picture, or needs the weights of a network
        *statements, last = ast.parse(source).body
        exec(compile(ast.Module(statements, []), "cell", "exec"), names)
        if not isinstance(last, ast.Expr):
            exec(ast.unparse(last), names)
            continue
        table = eval(ast.unparse(last), names)
        (output,) = cell["outputs"]
        stored = html_cells("".join(output["data"]["text/html"]))
        assert stored == html_cells(table.to_html()) and len(stored) > 10
        n_tables += 1
    assert n_tables == 2


def test_training_from_python(finished: Path, monkeypatch: Patch, capsys: Output) -> None:
    """On cells that are trained already."""
    page = (ROOT / "docs" / "python.md").read_text().partition("## Training\n")[2]
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    definitions, call, body = code.partition("\nrun_experiment(")
    names: dict[str, Any] = {}
    exec(definitions, names)
    names |= {"EXPERIMENT": read(finished / "experiments" / "tiny.yaml")}
    monkeypatch.chdir(finished)
    monkeypatch.setitem(names, "run_experiment", lambda *_, **__: None)
    exec(call + body, names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all("'last': " in line for line in lines)
