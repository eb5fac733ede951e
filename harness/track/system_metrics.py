"""CPU, memory, disk, network and GPUs beside the training, where MLflow's users look for them.

They are measured by MLflow's own monitors, and sent by this project's client like everything else:
a server that is away for a while ends nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.track.environment import require_package
from harness.track.mlflow_private import system_metrics_monitor

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own


def is_requested() -> bool:
    """Return whether the user asked for system metrics.

    Raises:
        UserError: The switch has another value, or psutil is missing.
    """
    value = os.environ.get(SWITCH, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise UserError(f"{SWITCH}: {value!r} is neither true nor false; correct it")
    if value in ("false", "0"):
        return False
    require_package("psutil", SWITCH, extra="system", otherwise=", or unset it")
    return True


class SystemMetrics:
    """Samples this machine when it is asked, but not more often than MLflow would.

    A load is measured between two samples, so the first sample is taken at once.
    """

    def __init__(self, uri: str) -> None:
        """Take the first sample; `uri` is the tracking server."""
        self._monitor = system_metrics_monitor(uri)
        self._next = 0.0
        self._sample()

    def log(self, client: MlflowClient, run_ids: Iterable[str]) -> None:
        """Log what MLflow's page *System metrics* shows, once per sampling interval."""
        from mlflow.entities import Metric

        now = time.time()
        if now < self._next:
            return
        # The step is the time, too, so that a later command of the same run continues the curve.
        metrics = [Metric(k, v, int(1000 * now), int(now)) for k, v in self._sample().items()]
        for run_id in run_ids:
            client.log_batch(run_id, metrics)

    def _sample(self) -> dict[str, float]:
        monitor = self._monitor
        self._next = time.time() + monitor.sampling_interval
        monitor.collect_metrics()
        node = f"{monitor.node_id}/" if monitor.node_id else ""
        values = {f"system/{node}{k}": v for k, v in monitor.aggregate_metrics().items()}
        for each in monitor.monitors:
            each.clear_metrics()
        return values
