"""Train, compare and check knowledge-distillation methods.

An experiment file becomes cells, cells are trained into a store, and everything else is derived
from the store:

    experiment -> plan -> execute -> train -> store -> track (MLflow), analysis (tables, figures)

- `experiment`: what an experiment file may say, and how it is read.
- `methods`, `networks`, `data`: what an experiment can choose from.
- `plan`: the cells of an experiment and the entries of its table, without touching a file;
  `cell`: one of these cells.
- `execute`: decides which cells may run, and runs them on this machine or on a Ray cluster.
- `train`: trains one cell; `distill`: the losses, which depend on nothing else here.
- `store`: the directories of cells. They are the only truth: what follows can be deleted and made
  again.
- `track`: journals to MLflow and other trackers.
- `analysis`: finished cells to bundles, tables, figures, verdicts and the report.
- `tune`: the search for settings, on the validation split only.
- `trained`: trained networks in use.
- `run`, `cli`: what a command does from start to end, and the commands themselves.
- `api`: what `import harness` offers. Nothing is imported before it is used.
- `common`: what every package may use.

Imports never go in a circle, neither between modules nor between packages;
tests/test_architecture.py holds this, and docs/design.md gives the reasons.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import compare, load_student, results

__all__ = ["compare", "load_student", "results"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
