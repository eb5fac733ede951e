"""MLflow still has everything that this project uses beyond its documented interface."""

import importlib
import importlib.util

import pytest

from harness.track.mlflow_private import USED, migrations, required_tables


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in USED.items() for n in names])
def test_a_release_has_not_taken_it_away(module: str, name: str) -> None:
    used = importlib.import_module(module)
    has_module = importlib.util.find_spec(f"{module}.{name}") if hasattr(used, "__path__") else None
    assert hasattr(used, name) or has_module, f"MLflow no longer has {module}.{name}"


def test_it_is_what_it_was() -> None:
    assert {"experiments", "runs", "metrics", "model_versions"} <= required_tables()
    assert migrations().get_revision("451aebb31d03") is not None  # MLflow's first
    assert migrations().get_current_head() not in (None, "451aebb31d03")
