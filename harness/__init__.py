"""ReFilled harness: what trains. `analysis` turns what it leaves behind into tables.

For Python: `results`, `compare`, `load_student` (harness.api). Nothing is imported before it is
used.
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
