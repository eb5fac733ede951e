"""Everything that this project uses of MLflow beyond its documented interface.

`tests/test_mlflow_private.py` reports by name what a release of MLflow has taken away.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

# Module -> what is used of it.
USED = {
    "mlflow.store.db.base_sql_model": ["Base"],
    "mlflow.store.db.utils": ["_initialize_tables"],
    "mlflow.store.db_migrations": ["versions"],
    "mlflow.system_metrics.system_metrics_monitor": ["SystemMetricsMonitor"],
}


def create_tables(path: Path) -> None:
    """Create all tables of MLflow in a new SQLite file.

    `MlflowClient` would do so, too, but keeps the file open and takes no path with a '?' or a '%'.
    """
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(path)))
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()


def required_tables() -> set[str]:
    """Return the names of the tables without which MLflow would set a database up anew."""
    import mlflow.store.db.utils  # noqa: F401 (it imports all modules that define tables)
    from mlflow.store.db.base_sql_model import Base

    return set(Base.metadata.tables)


def migrations() -> ScriptDirectory:
    """Return the migrations of MLflow's database, by which its versions are known."""
    import mlflow.store.db_migrations
    from alembic.script import ScriptDirectory

    return ScriptDirectory(mlflow.store.db_migrations.__path__[0])


def system_metrics_monitor(uri: str) -> SystemMetricsMonitor:
    """Return MLflow's monitor of this machine, not started, so that it samples when asked."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    return SystemMetricsMonitor("", tracking_uri=uri)
