"""Copies the journals of a plan's cells into MLflow; safe to repeat and to kill at any moment.

Training processes never talk to MLflow. One MlflowClient with explicit run ids does, in the
orchestrator. A metric keeps the journal's own time stamp, and MLflow stores the same (key, time,
step, value) once, so sending a line twice leaves one row.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.database import Lock, is_postgres, with_timeouts, without_password
from harness.plan import Entry, Plan, canonical
from harness.store import CellDir, Store, write_atomically
from harness.track.environment import DEFAULT_URI, prepare_environment, tracking_uri
from harness.track.grid_run import Page, find_experiment, find_grid_run, log_params, present
from harness.track.registry import WEIGHTS, register

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS = 1000  # MLflow's limit for one log_batch
N_CELLS = "result.cells"  # tag of a grid's run
PRESENTED = "mlflow.json"  # in the store: grids whose MLflow run shows their result
BEST_ON_TEST_NOTE = "chosen by looking at the test set: it measures the leak and is no result"


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


class Heard:
    """MLflow's client, which notes when the server last answered: a call to one that is stuck may
    never return."""

    def __init__(self, tracker: Tracker, client: MlflowClient) -> None:
        self._tracker, self._wrapped = tracker, client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._wrapped, name)

        def calling(*arguments: Any, **keywords: Any) -> Any:
            try:
                return method(*arguments, **keywords)
            finally:
                self._tracker.heard = time.monotonic()

        return calling


class Tracker:
    """Sends one plan's cells to one tracking server."""

    remedy = "`harness sync` with the same file"  # when MLflow is behind

    def __init__(self, plan: Plan, store: Store, uri: str | None = None) -> None:
        self.plan, self.store = plan, store
        self.uri = uri or tracking_uri()
        self.place = without_password(self.uri)
        self.key = f"{self.place} {plan.experiment.name} {plan.grid}"
        self.heard = 0.0  # when MLflow last answered, as time.monotonic()
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

            uri = self.uri
            with self._locked(), contextlib.ExitStack() as stack:
                if is_postgres(uri):  # other hosts may be about to create the same
                    lock = Lock(uri, "harness mlflow", "MLFLOW_TRACKING_URI")
                    stack.callback(lock.release)
                    lock.acquire(wait=True)
                    uri = with_timeouts(uri)
                client = cast("MlflowClient", Heard(self, MlflowClient(uri)))
                self._experiment_id = find_experiment(client, self.plan.experiment.name, self.place)
                self._parent_id = self._find_parent(client)
            self._client = client
        return self._client

    def present(self, page: Page) -> None:
        """Show the result of the finished grid on its run, unless one of more cells stands there:
        a later run of fewer seeds or methods, or somebody else's, takes nothing away."""
        client = self.connect()
        shown = client.get_run(self._parent_id).data.tags.get(N_CELLS, "0")
        if int(shown) <= len(self.plan.cells):
            with tempfile.TemporaryDirectory() as folder:
                text, files = page(self.plan, self._experiment_id, Path(folder))
                present(client, self._parent_id, text, files)
            client.set_tag(self._parent_id, N_CELLS, str(len(self.plan.cells)))
        known = self._presented() | {self.key: {"parent": self._parent_id, "cells": self._cells}}
        write_atomically(self.store.root / PRESENTED, canonical(known).encode())

    @property
    def is_presented(self) -> bool:
        """Whether the grid's run shows the result of just these cells."""
        return self._presented().get(self.key, {}).get("cells") == self._cells

    @property
    def _cells(self) -> str:
        return hashlib.sha256(" ".join(sorted(self.plan.cells)).encode()).hexdigest()

    def _presented(self) -> dict[str, Any]:
        try:
            return json.loads((self.store.root / PRESENTED).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def close(self, finished: bool) -> None:
        """The grid's own run ends with the orchestrator."""
        if self._client is not None:
            self._client.set_terminated(self._parent_id, "FINISHED" if finished else "KILLED")

    def _find_parent(self, client: MlflowClient) -> str:
        run_id, is_new = find_grid_run(client, self._experiment_id, self.plan, self.uri)
        if is_new:
            resolved = self.plan.experiment.model_dump(mode="json")
            log_params(client, run_id, flatten(resolved))
            client.log_dict(run_id, resolved, "experiment.resolved.json")
            first = next(iter(self.plan.cells.values()))
            self._log_data_set(client, run_id, first.spec["data"])
        return run_id

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
        cell, entry = self.plan.cells[fingerprint], self.plan.entries_of(fingerprint)[0]
        for key, value in self._tags(entry).items():
            client.set_tag(run_id, key, value)
        log_params(client, run_id, flatten(cell.spec))
        self._log_data_set(client, run_id, cell.spec["data"])
        client.log_artifact(run_id, str(self.store.directory(fingerprint) / "cell.json"))

    def _log_data_set(self, client: MlflowClient, run_id: str, data: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        # MLflow allows 36 characters for a digest; the whole one is among the parameters.
        label = self.plan.experiment.dataset.label
        dataset = Dataset(label, data["digest"][:32], "harness", canonical(data))
        client.log_inputs(run_id, [DatasetInput(dataset, [])])

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
        protocol = self.plan.experiment.protocol
        reported, results = protocol.reported, manifest["results"]
        metrics = []
        for stage in sorted({e.stage for e in self.plan.entries_of(fingerprint)}):
            for result, values in results.items():
                name = metric_name(stage, result)
                metrics.append(Metric(name, values[reported], when, manifest["epochs"]))
                metrics += [
                    Metric(f"{name}_{form}", value, when, manifest["epochs"])
                    for form, value in values.items()
                ]
        shown = results.get("accuracy") or results.get(protocol.ncm_result)
        if shown:
            column = round(shown[reported], 4)  # as the tables show it
            metrics.append(Metric("test_accuracy", column, when, manifest["epochs"]))
        client.log_batch(run_id, metrics=metrics)
        client.set_tag(run_id, "selected_epoch", str(manifest["selected_epoch"]))
        client.log_artifact(run_id, str(directory / "model.pt"), WEIGHTS)
        if (directory / "predictions.npz").exists():
            client.log_artifact(run_id, str(directory / "predictions.npz"))
        kinds = {e.stage for e in self.plan.entries_of(fingerprint)}
        if "teacher" in kinds and self.plan.cells[fingerprint].kind != "imported":
            register(client, self.plan, fingerprint, client.get_run(run_id), directory)
