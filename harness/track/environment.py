"""Which MLflow, and how its client behaves."""

from __future__ import annotations

import logging
import os

DEFAULT_URI = "sqlite:///mlflow.db"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI: a server's address or a database's URL; by default a file here."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def is_server(uri: str) -> bool:
    """Not a database that this process opens itself."""
    return uri.startswith(("http://", "https://"))


def prepare_environment() -> None:
    """Before MLflow is imported: no telemetry, few retries (a dead server must not stop training
    for minutes), and no chatter between the lines of the display. What the user set stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints a traceback for what it raises anyway.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
