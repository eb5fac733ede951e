"""CPU, memory, disk, network and GPUs beside the training, where MLflow's users look for them.

Measured by MLflow's own monitors, sent by this project's client as all else: a server that is away
for a while ends nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.track.environment import require_package

if TYPE_CHECKING:
    from mlflow import MlflowClient

WANTED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own switch


def is_requested() -> bool:
    """Whether the user asked for them.

    Raises:
        UserError: the switch has another value, or psutil is missing.
    """
    value = os.environ.get(WANTED, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise UserError(f"{WANTED}: {value!r} is neither true nor false; correct it")
    if value in ("false", "0"):
        return False
    require_package("psutil", WANTED, extra="system", otherwise=", or unset it")
    return True


class SystemMetrics:
    """Samples this machine whenever it is asked, but not more often than MLflow would. A load is
    that between two samples: the first is taken here, once MLflow is at hand."""

    def __init__(self, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor("", tracking_uri=uri)
        self._next = 0.0
        self._sample()

    def log(self, client: MlflowClient, run_ids: Iterable[str]) -> None:
        """A value each of what MLflow's page *System metrics* shows, if it is time for one."""
        from mlflow.entities import Metric

        now = time.time()
        if now < self._next:
            return
        # The step is the time, too: a later command of the same run goes on after this one.
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
