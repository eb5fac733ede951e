"""ReFilled harness: reproduces the tables of a knowledge-distillation paper.

For Python: `results`, `compare` and `load_student` (harness.api), which are imported on first use.
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
