"""A tuning in MLflow: a study is a parent run, a trial a child run.

What is sent follows from the study and the journals, so it can be sent again at any time; a metric
keeps the journal's time stamp.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.canonical_json import flatten
from harness.store import Store
from harness.track.client import (
    PARENT,
    Connection,
    children,
    end_run,
    log_params,
    source_tags,
)
from harness.track.grid_run import NOTE
from harness.tune.export import TrialRecord
from harness.tune.trials import TrialKey
from harness.tune.tuning_file import Tuning

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrialView:
    """A trial as MLflow shows it.

    Attributes:
        record: the trial as the study holds it.
        final: fingerprint of the cell whose validation curve is the trial's.
        mean: of the re-run with fresh seeds; None for a trial that was not among the best.
        is_winner: whether its settings are in the tuned file.
    """

    record: TrialRecord
    final: str
    mean: float | None = None
    is_winner: bool = False

    @property
    def key(self) -> TrialKey:
        """The identity of the trial within a tuning."""
        return self.record.method, self.record.trial

    @property
    def is_running(self) -> bool:
        """True until the trial has ended."""
        return self.record.state == "RUNNING"

    @property
    def stamp(self) -> str:
        """A text that changes when the trial's run has to be sent again."""
        return f"{self.record.state} {self.record.value} {self.mean} {self.is_winner}"


class TuneTracker:
    """Sends the trials in `view`, which the orchestrator replaces as they progress."""

    remedy = "the same command"

    def __init__(
        self, tuning: Tuning, store: Store, started: dict[str, str], uri: str | None = None
    ) -> None:
        """Track a tuning.

        `started` maps each method to when its study began, which tells studies of one name apart.
        """
        self.server = Connection(f"{tuning.settings.name}-tuning", store.root, uri)
        self.tuning, self.store, self.started = tuning, store, started
        self.view: tuple[TrialView, ...] = ()
        self._parents: dict[str, str] = {}
        self._children: dict[TrialKey, str] = {}
        self._sent: dict[TrialKey, tuple[str, int]] = {}  # stamp, and number of epochs

    def run_of(self, key: TrialKey) -> str | None:
        """Return the id of a trial's run, or None if it has not been sent."""
        return self._children.get(key)

    def connect(self) -> MlflowClient:
        """Return the client, once the run of every study has been found or created."""
        return self.server.open(self._find_studies)

    def sync(self) -> int:
        """Send what changed since the last call and return the number of trials that did.

        Raises:
            Exception: whatever the server's client raises; the next call sends the rest.
        """
        client, n_sent = self.connect(), 0
        self.server.log_system_metrics(self._parents.values())
        for trial in self.view:
            stamp, n_lines = self._sent.get(trial.key, ("", 0))
            if stamp == trial.stamp and not trial.is_running:
                continue
            lines = self.store.directory(trial.final).epochs()
            if (trial.stamp, len(lines)) != (stamp, n_lines):
                self._send_trial(client, trial, lines)
                self._sent[trial.key] = trial.stamp, len(lines)
                n_sent += 1
        return n_sent

    def close(self, finished: bool) -> None:
        """End the runs of the studies and of open trials, as the orchestrator ends."""
        if not self.server.is_open:
            return
        client = self.connect()
        for trial in self.view:
            if trial.is_running and trial.key in self._children:
                end_run(client, self._children[trial.key], "KILLED")
        for run_id in self._parents.values():
            end_run(client, run_id, "FINISHED" if finished else "KILLED")

    def log_figures(self, figures: Iterable[tuple[str, Path]]) -> None:
        """Log each (method, file) as an artifact of the method's study."""
        client = self.connect()
        for method, path in figures:
            client.log_artifact(self._parents[method], str(path), "figures")

    def _find_studies(self, client: MlflowClient) -> None:
        for method, started in self.started.items():
            name = f"{self.tuning.name}/{method}"
            runs = client.search_runs(
                [self.server.experiment_id],
                f"tags.kind = 'study' and tags.study = '{name}' and tags.started = '{started}'",
            )
            if runs:
                run = runs[0]
                client.update_run(run.info.run_id, status="RUNNING")
                self._read_children(client, method, run.info.run_id)
            else:
                run = self._create_parent(client, method, name, started)
            settings = self.tuning.settings.model_dump(
                mode="json", exclude={"methods", "description"}
            )
            space = {f: v.model_dump(mode="json") for f, v in self.tuning.spaces[method].items()}
            budget = {"trials": self.tuning.n_trials(method), "parameters": len(space)}
            values = flatten({**settings, **budget, "space": space})
            log_params(client, run.info.run_id, values, known=run.data.params)
            self._parents[method] = run.info.run_id

    def _create_parent(self, client: MlflowClient, method: str, name: str, started: str) -> Run:
        task = self.tuning.task
        tags = {
            "kind": "study",
            "study": name,
            "method": method,
            "started": started,
            **({} if task is None else {k: str(v) for k, v in task.dimensions.items()}),
            NOTE: self.tuning.settings.description,
            **source_tags(),
        }
        return client.create_run(self.server.experiment_id, run_name=f"study {name}", tags=tags)

    def _read_children(self, client: MlflowClient, method: str, parent: str) -> None:
        """Note what an earlier orchestrator sent."""
        for run in children(client, self.server.experiment_id, parent):
            key = method, int(run.data.tags["trial"])
            self._children[key] = run.info.run_id
            if run.info.status != "RUNNING":  # else the sender was killed before its last call
                self._sent[key] = run.data.tags.get("stamp", ""), 0

    def _send_trial(
        self, client: MlflowClient, trial: TrialView, lines: list[dict[str, Any]]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run_id, record = self._child(client, trial), trial.record
        metric = self.tuning.settings.metric
        metrics = [
            Metric(metric, line[metric], int(line["time"] * 1000), line["epoch"])
            for line in lines
            if metric in line
        ]
        end = int(lines[-1]["time"] * 1000) if lines else 0
        for name, value in (("value", record.value), ("fresh_seeds_mean", trial.mean)):
            if value is not None:
                metrics.append(Metric(name, value, end, len(lines)))
        tags = {f"cell.{stage}": fingerprint for stage, fingerprint in record.cells.items()}
        tags |= {"state": record.state, "diverged": str(record.diverged), "stamp": trial.stamp}
        tags |= {"winner": str(trial.is_winner)}
        params = [Param(field, str(value)) for field, value in record.params.items()]
        for start in range(0, len(metrics), 500):
            client.log_batch(run_id, metrics=metrics[start : start + 500], params=params)
        # The tags come last, as they say that everything else is there.
        client.log_batch(run_id, params=params, tags=[RunTag(k, v) for k, v in tags.items()])
        if trial.is_running:
            client.update_run(run_id, status="RUNNING")
        else:
            end_run(client, run_id, "FINISHED", end)

    def _child(self, client: MlflowClient, trial: TrialView) -> str:
        """Return the id of the trial's run, which is created if needed."""
        if trial.key not in self._children:
            method, number = trial.key
            run: Run = client.create_run(
                self.server.experiment_id,
                run_name=f"{method} #{number}",
                tags={
                    PARENT: self._parents[method],
                    "kind": "trial",
                    "trial": str(number),
                    **source_tags(),
                    "method": method,
                },
            )
            self._children[trial.key] = run.info.run_id
        return self._children[trial.key]
