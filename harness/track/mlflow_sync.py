"""Copies the journals of a plan's cells into MLflow; safe to repeat and to kill at any moment.

Training processes never talk to MLflow. One MlflowClient with explicit run ids does, in the
orchestrator. A metric keeps the journal's own time stamp, and MLflow stores the same (key, time,
step, value) once, so sending a line twice leaves one row.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.plan import Entry, Plan, canonical
from harness.store import CellDir, Store, write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
MAX_METRICS = 1000  # MLflow's limit for one log_batch
BEST_ON_TEST_NOTE = "chosen by looking at the test set: it measures the leak and is no result"


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def prepare_environment() -> None:
    """Before MLflow is imported: no telemetry, few retries (a dead server must not stop training
    for minutes), and no chatter between the lines of the display. What the user set stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def metric_name(stage: str, result: str) -> str:
    """`stage2/test_accuracy`, `stage1/ncm_train_centers`, ..."""
    return f"{stage}/{'test_accuracy' if result == 'accuracy' else result}"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {k: v for key, sub in value.items() for k, v in flatten(sub, f"{prefix}{key}.").items()}


def current_training(directory: CellDir) -> list[dict[str, Any]]:
    """The journal's events since the training that counts began. One that began anew, as its
    checkpoint was lost, has every epoch again: it is another MLflow run."""
    events = directory.events()
    first = start = 0
    seen = False
    for i, event in enumerate(events):
        if event["event"] == "start":
            start = i
        elif event["event"] == "epoch" and event["epoch"] == 1:
            first, seen = (start if seen else 0), True
    return events[first:]


class Tracker:
    """Sends one plan's cells to one tracking server."""

    def __init__(self, plan: Plan, store: Store, uri: str | None = None) -> None:
        self.plan, self.store = plan, store
        self.uri = uri or tracking_uri()
        self.key = f"{self.uri} {plan.experiment.name} {plan.grid}"
        self._client: MlflowClient | None = None
        self._experiment_id = self._parent_id = ""

    # -- what needs no MLflow ---------------------------------------------------------------------

    def marker(self, directory: CellDir) -> dict[str, Any]:
        """What was sent for this cell: parent, run_id, started, lines, status. Nothing, if
        it went to a database that has been deleted: a new one has another parent run."""
        try:
            sent = json.loads((directory / "mlflow.json").read_text()).get(self.key, {})
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return sent if self._parent_id in ("", sent.get("parent")) else {}

    def _mark(self, directory: CellDir, **fields: Any) -> None:
        path = directory / "mlflow.json"
        try:
            content = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            content = {}
        content[self.key] = {**fields, "parent": self._parent_id}
        write_atomically(path, canonical(content).encode())

    def status_of(self, directory: CellDir) -> str:
        """The MLflow status a cell should have."""
        if directory.is_done:
            return "FINISHED"
        if directory.is_leased:
            return "RUNNING"
        events = directory.events()
        return "FAILED" if events and events[-1]["event"] == "failed" else "KILLED"

    def behind(self) -> list[str]:
        """Fingerprints of the cells whose journal holds more than MLflow does."""
        lost = not self._parent_id and self.uri == DEFAULT_URI and not Path("mlflow.db").exists()
        result = []
        for fingerprint in self.plan.cells:
            directory = self.store.directory(fingerprint)
            sent = {} if lost else self.marker(directory)
            if sent.get("status") == "FINISHED":
                continue
            now = {"lines": len(current_training(directory)), "status": self.status_of(directory)}
            if now["lines"] and now != {key: sent.get(key) for key in now}:
                result.append(fingerprint)
        return result

    # -- MLflow -----------------------------------------------------------------------------------

    def sync(self) -> int:
        """Send what is missing; how many cells were behind.

        Raises:
            UserError: the experiment was deleted in MLflow.
            Exception: whatever the server's client raises; nothing is lost, sync again later.
        """
        client = self.connect()
        if not self.behind():
            return 0
        with self._locked():  # another `harness run` may be about to create the same runs
            behind = self.behind()
            for fingerprint in behind:
                self._send(client, fingerprint)
        return len(behind)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Beside a database file, which several stores may share; else in the store."""
        file = self.store.root / ".mlflow.lock"
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            database.parent.mkdir(parents=True, exist_ok=True)
            file = database.with_name(f"{database.name}.lock")
        with open(file, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def connect(self) -> MlflowClient:
        """Create database, experiment and parent run once, whoever comes first."""
        if self._client is None:
            prepare_environment()
            from mlflow import MlflowClient

            with self._locked():
                client = MlflowClient(tracking_uri=self.uri)
                self._experiment_id = self._find_experiment(client)
                self._parent_id = self._find_parent(client)
            self._client = client
        return self._client

    def close(self, finished: bool) -> None:
        """The grid's own run ends with the orchestrator."""
        if self._client is not None:
            self._client.set_terminated(self._parent_id, "FINISHED" if finished else "KILLED")

    def _find_experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        name = self.plan.experiment.name
        found = client.get_experiment_by_name(name)
        if found is None:
            served = self.uri.startswith(("http://", "https://"))  # it has artifacts of its own
            location = None if served else (Path("mlartifacts").resolve() / name).as_uri()
            try:
                return client.create_experiment(name, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise UserError(
                f"MLflow: experiment {name!r} is deleted at {self.uri}; restore it there "
                "(`mlflow experiments restore`) or change the experiment's name"
            )
        return found.experiment_id

    def _find_parent(self, client: MlflowClient) -> str:
        plan = self.plan
        existing = client.search_runs(
            [self._experiment_id], f"tags.kind = 'grid' and tags.grid = '{plan.grid}'"
        )
        experiment = plan.experiment
        if existing:
            client.update_run(existing[0].info.run_id, status="RUNNING")
            return existing[0].info.run_id
        tags = {
            "kind": "grid",
            "grid": plan.grid,
            "protocol": experiment.protocol.label,
            "mlflow.note.content": experiment.description,
        }
        run = client.create_run(
            self._experiment_id, run_name=f"grid {experiment.name} {plan.grid[:6]}", tags=tags
        )
        settings = flatten(experiment.model_dump(mode="json"))
        self._log_params(client, run.info.run_id, settings)
        client.log_dict(
            run.info.run_id, experiment.model_dump(mode="json"), "experiment.resolved.json"
        )
        return run.info.run_id

    def _log_params(self, client: MlflowClient, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(k, str(v)[:500]) for k, v in values.items()]
        for start in range(0, len(params), 100):
            client.log_batch(run_id, params=params[start : start + 100])

    def _send(self, client: MlflowClient, fingerprint: str) -> None:
        from mlflow.entities import Metric

        directory = self.store.directory(fingerprint)
        status = self.status_of(directory)  # before the events: it may end meanwhile
        events = current_training(directory)
        started = str(events[0]["time"])
        sent = self.marker(directory)
        if sent.get("started") != started:
            sent = {}
        run_id = self._find_run(client, fingerprint, started, sent.get("run_id"))
        if sent.get("run_id") != run_id:
            sent = {}
            self._describe(client, run_id, fingerprint)
            self._mark(directory, run_id=run_id, started=started, lines=0, status="RUNNING")
        elif sent.get("status") != "RUNNING" and status == "RUNNING":
            client.update_run(run_id, status="RUNNING")

        metrics = [
            Metric(name, float(value), int(event["time"] * 1000), event["epoch"])
            for event in events[sent.get("lines", 0) :]
            if event["event"] == "epoch"
            for name, value in event.items()
            if name not in ("event", "time", "epoch")
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
        starts = [e for e in events if e["event"] == "start"]
        if starts:
            for key in ("commit", "dirty", "device"):
                client.set_tag(run_id, key, str(starts[-1][key]))
            client.set_tag(run_id, "attempts", str(len(starts)))
        if status == "FAILED":
            client.set_tag(run_id, "error", events[-1]["error"][:5000])
        if status == "FINISHED":
            self._log_results(client, run_id, fingerprint, events)
        if status != "RUNNING":
            client.set_terminated(run_id, status, int(events[-1]["time"] * 1000))
        self._mark(directory, run_id=run_id, started=started, lines=len(events), status=status)

    def _find_run(
        self, client: MlflowClient, fingerprint: str, started: str, known: str | None
    ) -> str:
        """The training's run below this grid; created if there is none. The same cell trained in
        another store is another run."""
        if known and self._exists(client, known):
            return known
        found = client.search_runs(
            [self._experiment_id],
            f"tags.fingerprint = '{fingerprint}' and tags.started = '{started}' and "
            f"tags.`mlflow.parentRunId` = '{self._parent_id}'",
        )
        if found:
            return found[0].info.run_id
        run = client.create_run(
            self._experiment_id,
            start_time=int(float(started) * 1000),
            run_name=self.plan.name_of(fingerprint),
            tags={
                "mlflow.parentRunId": self._parent_id,
                "fingerprint": fingerprint,
                "started": started,
            },
        )
        return run.info.run_id

    def _exists(self, client: MlflowClient, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _describe(self, client: MlflowClient, run_id: str, fingerprint: str) -> None:
        """Tags, parameters, data set and resolved spec: what never changes for a cell."""
        from mlflow.entities import Dataset, DatasetInput

        cell, entry = self.plan.cells[fingerprint], self.plan.entries_of(fingerprint)[0]
        for key, value in self._tags(entry).items():
            client.set_tag(run_id, key, value)
        self._log_params(client, run_id, flatten(cell.spec))
        data = cell.spec["data"]
        # MLflow allows 36 characters for a digest; the whole one is among the parameters.
        label = self.plan.experiment.dataset.label
        dataset = Dataset(label, data["digest"][:32], "harness", canonical(data))
        client.log_inputs(run_id, [DatasetInput(dataset, [])])
        client.log_artifact(run_id, str(self.store.directory(fingerprint) / "cell.json"))

    def _tags(self, entry: Entry) -> dict[str, str]:
        entries = self.plan.entries_of(entry.fingerprint)
        return {
            "kind": entry.stage,
            "roles": ", ".join(sorted({e.stage for e in entries})),
            "teacher": self.plan.experiment.teacher.label,
            "student": entry.student,
            "method": entry.method,
            "protocol": self.plan.experiment.protocol.label,
            "seed": str(entry.seed),
            "best_on_test": BEST_ON_TEST_NOTE,
        }

    def _log_results(
        self, client: MlflowClient, run_id: str, fingerprint: str, events: list[dict[str, Any]]
    ) -> None:
        """The three accuracies of the cell, and the one its protocol reports, without suffix."""
        from mlflow.entities import Metric

        directory = self.store.directory(fingerprint)
        manifest = directory.manifest
        when = int(events[-1]["time"] * 1000)
        reported = self.plan.experiment.protocol.reported
        metrics = []
        for stage in sorted({e.stage for e in self.plan.entries_of(fingerprint)}):
            for result, values in manifest["results"].items():
                name = metric_name(stage, result)
                metrics.append(Metric(name, values[reported], when, manifest["epochs"]))
                metrics += [
                    Metric(f"{name}_{form}", value, when, manifest["epochs"])
                    for form, value in values.items()
                ]
        client.log_batch(run_id, metrics=metrics)
        client.set_tag(run_id, "selected_epoch", str(manifest["selected_epoch"]))
        client.log_artifact(run_id, str(directory / "model.pt"))
