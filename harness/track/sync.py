"""Copies the journals of a plan's cells into MLflow; safe to repeat and to kill at any moment.

Training processes never talk to MLflow. The orchestrator does, with one client and explicit run
ids. A metric keeps the journal's own time stamp, and MLflow stores equal rows (key, time, step,
value) once, so sending a line twice leaves one row.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.canonical_json import canonical, flatten
from harness.methods import IMPORTED
from harness.plan import TEACHER, Counts, Plan
from harness.store import CellDir, Store
from harness.track.client import (
    GIT_COMMIT,
    PARENT,
    Connection,
    log_metrics,
    log_params,
    log_tags,
    mlflow_name,
    source_tags,
)
from harness.track.environment import DEFAULT_URI
from harness.track.grid_run import SummaryBuilder, find_grid_run, publish_summary
from harness.track.lost_runs import find_lost
from harness.track.registry import WEIGHTS, register_teacher
from harness.track.run_fields import epoch_metrics, final_metrics, main_entry, status_of, tags_of
from harness.track.sync_state import (
    NOTHING_SENT,
    SYNC_FILE,
    SyncState,
    current_training,
    has_unsent,
    read_sync_state,
    record_sent,
    sync_key,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

N_CELLS = "result.cells"  # tag of a grid's run: how many cells its summary covers


class Tracker:
    """Sends one plan's cells to one tracking server.

    Attributes:
        server: The connection to the server.
        key: The key of this grid's entries in the files of `harness.track.sync_state`.
        remedy: The command that sends what is missing.
    """

    remedy = "`harness sync` with the same file"

    def __init__(self, plan: Plan, store: Store, uri: str | None = None) -> None:
        """Keep what to send and where; `uri` is by default MLFLOW_TRACKING_URI."""
        self.plan, self.store = plan, store
        experiment = plan.experiment
        self.server = Connection(experiment.name, store.root, uri)
        self.key = sync_key(self.server.address, experiment.name, experiment.grid)
        self._parent_id = ""
        self._lost: set[Path] | None = None  # unknown until MLflow has been asked

    # -- what needs no MLflow ---------------------------------------------------------------------

    def sent(self, directory: CellDir) -> SyncState:
        """Return what was sent of this cell.

        It is nothing if it went to a database that has since been deleted (a new one has another
        parent run), or if MLflow has lost the run.
        """
        if directory.path in (self._lost or ()):
            return NOTHING_SENT
        state = read_sync_state(directory / SYNC_FILE, self.key)
        return state if self._parent_id in ("", state.parent) else NOTHING_SENT

    def _record_sent(
        self, directory: CellDir, run_id: str, started: str, lines: int, status: str
    ) -> None:
        state = SyncState(run_id, self._parent_id, started, lines, status)
        record_sent(directory / SYNC_FILE, self.key, state)
        (self._lost or set()).discard(directory.path)

    def unsent_cells(self) -> list[str]:
        """Return the fingerprints of the cells whose journal holds more than MLflow does."""
        is_new_database = (
            not self._parent_id
            and self.server.uri == DEFAULT_URI
            and not Path("mlflow.db").exists()
        )
        unsent = []
        for fingerprint in self.plan.cells:
            directory = self.store.directory(fingerprint)
            if has_unsent(directory, NOTHING_SENT if is_new_database else self.sent(directory)):
                unsent.append(fingerprint)
        return unsent

    # -- MLflow -----------------------------------------------------------------------------------

    def sync(self) -> int:
        """Send what is missing, and return the number of cells that lacked something.

        Raises:
            UserError: The experiment was deleted in MLflow.
            Exception: Whatever the server's client raises; sync again later.
        """
        client = self.connect()
        self.server.log_system_metrics([self._parent_id])
        self._find_lost(client)
        if not self.unsent_cells():
            return 0
        with self.server.locked():  # another `harness run` may be about to create the same runs
            unsent = self.unsent_cells()
            for fingerprint in unsent:
                self._send(client, fingerprint)
        return len(unsent)

    def connect(self) -> MlflowClient:
        """Return the client, with the grid's run found or created."""
        return self.server.open(self._find_parent)

    def _find_lost(self, client: MlflowClient) -> None:
        """Find out, once per command, what MLflow has lost: it is sent again."""
        if self._lost is None:
            directories = [self.store.directory(fingerprint) for fingerprint in self.plan.cells]
            sent = [(d, s) for d in directories if (s := self.sent(d)) != NOTHING_SENT]
            self._lost = find_lost(client, self.server.experiment_id, self._parent_id, sent)

    def publish_summary(self, build: SummaryBuilder) -> None:
        """Show the result of the finished grid on its run.

        A summary that covers more cells stays: a later run of fewer seeds or methods, or somebody
        else's, takes nothing away.
        """
        client = self.connect()
        with self.server.exclusive():  # a smaller and a larger grid may finish at once
            n_covered = client.get_run(self._parent_id).data.tags.get(N_CELLS, "0")
            if int(n_covered) <= len(self.plan.cells):
                with tempfile.TemporaryDirectory() as folder:
                    summary = build(self.plan, self.server.experiment_id, Path(folder))
                    publish_summary(client, self._parent_id, summary, self._ended)
                client.set_tag(self._parent_id, N_CELLS, str(len(self.plan.cells)))
        state = SyncState(parent=self._parent_id, cells=self._cells)
        record_sent(self.store.root / SYNC_FILE, self.key, state)

    @property
    def _ended(self) -> int:
        """When the last cell ended, in milliseconds since 1970."""
        journals = (self.store.directory(f).events() for f in self.plan.cells)
        return max(int(events[-1]["time"] * 1000) for events in journals if events)

    @property
    def is_summary_published(self) -> bool:
        """Whether the grid's run shows the result of just these cells."""
        published = read_sync_state(self.store.root / SYNC_FILE, self.key)
        is_same_run = self._parent_id in ("", published.parent)
        return is_same_run and published.cells == self._cells

    @property
    def _cells(self) -> str:
        return hashlib.sha256(" ".join(sorted(self.plan.cells)).encode()).hexdigest()

    def close(self, finished: bool) -> None:
        """End the grid's own run with the command."""
        if self.server.is_open:
            status = "FINISHED" if finished else "KILLED"
            self.connect().set_terminated(self._parent_id, status)

    def _find_parent(self, client: MlflowClient) -> None:
        server = self.server
        run, is_new = find_grid_run(client, server.experiment_id, self.plan, server.uri)
        run_id = run.info.run_id
        if is_new:
            self._note_renamed_experiment(client)
        resolved = self.plan.experiment.model_dump(mode="json")
        # The params are sent last: if they are missing, the run is new, or a kill cut it short.
        if {mlflow_name(key) for key in flatten(resolved)} - run.data.params.keys():
            client.log_dict(run_id, resolved, "experiment.resolved.json")
            first = next(iter(self.plan.cells.values()))
            whole = {k: v for k, v in first.config.data.as_json().items() if k != "view"}
            self._log_data_set(client, run_id, whole)
            log_params(client, run_id, flatten(resolved), known=run.data.params)
        self._parent_id = run_id

    def _note_renamed_experiment(self, client: MlflowClient) -> None:
        """Print a note if somebody renamed the experiment in MLflow.

        The renamed one keeps its runs, and a new one of the old name begins empty.
        """
        from mlflow.exceptions import MlflowException

        folders = [self.store.root, *(self.store.directory(f).path for f in self.plan.cells)]
        parents = (read_sync_state(folder / SYNC_FILE, self.key).parent for folder in folders)
        parent = next(filter(None, parents), None)
        try:
            run = client.get_run(parent) if parent else None
        except MlflowException:
            return
        if run is None or run.info.experiment_id == self.server.experiment_id:
            return
        name = client.get_experiment(run.info.experiment_id).name
        print(
            f"note: MLflow: the experiment {self.plan.experiment.name!r} is called {name!r} now "
            "and keeps its runs; all cells are sent to a new one of the old name",
            file=sys.stderr,
        )

    def _send(self, client: MlflowClient, fingerprint: str) -> None:
        from mlflow.entities import Metric

        directory = self.store.directory(fingerprint)
        status = status_of(directory)  # before the events: it may end meanwhile
        events = current_training(directory)
        started = str(events[0]["time"])
        sent = self.sent(directory)
        if sent.started != started:
            sent = NOTHING_SENT
        run_id = self._find_run(client, fingerprint, started, sent.run_id)
        if sent.run_id != run_id:
            sent = NOTHING_SENT
            self._describe(client, run_id, fingerprint)
            self._record_sent(directory, run_id, started, lines=0, status="RUNNING")
        elif sent.status != "RUNNING" and status == "RUNNING":
            client.update_run(run_id, status="RUNNING")

        metrics = [
            Metric(name, value, int(event["time"] * 1000), event["epoch"])
            for event in events[sent.lines or 0 :]
            if event["event"] == "epoch"
            for name, value in epoch_metrics(event).items()
        ]
        log_metrics(client, run_id, metrics)
        starts = [e for e in events if e["event"] == "start"]
        tags: dict[str, object] = {}
        if starts:
            tags |= {key: starts[-1][key] for key in ("commit", "dirty", "device")}
            tags |= {GIT_COMMIT: starts[-1]["commit"]} if starts[-1]["commit"] else {}
            tags["attempts"] = len(starts)
        if status == "FAILED":
            tags["error"] = events[-1]["error"][:5000]
        log_tags(client, run_id, tags)
        if status == "FINISHED":
            self._log_results(client, run_id, fingerprint, events)
        if status != "RUNNING":
            client.set_terminated(run_id, status, int(events[-1]["time"] * 1000))
        self._record_sent(directory, run_id, started, lines=len(events), status=status)

    def _find_run(
        self, client: MlflowClient, fingerprint: str, started: str, known: str | None
    ) -> str:
        """Return the training's run below this grid, which is created if there is none.

        The same cell trained in another store is another run.
        """
        if known and self._exists(client, known):
            return known
        runs = client.search_runs(
            [self.server.experiment_id],
            f"tags.fingerprint = '{fingerprint}' and tags.started = '{started}'",
        )
        for run in runs:
            if run.data.tags.get(PARENT) == self._parent_id:
                return run.info.run_id
        for run in runs:  # somebody deleted the grid's run, and left its cells
            if not self._exists(client, run.data.tags.get(PARENT, "")):
                client.set_tag(run.info.run_id, PARENT, self._parent_id)
                return run.info.run_id
        run = client.create_run(
            self.server.experiment_id,
            start_time=int(float(started) * 1000),
            run_name=self.plan.name_of(fingerprint),
            tags={
                PARENT: self._parent_id,
                "fingerprint": fingerprint,
                "started": started,
                "started_at": datetime.fromtimestamp(float(started), UTC).isoformat(" ", "seconds"),
                **source_tags(),
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
        """Send what never changes for a cell: tags, parameters, data set and description."""
        cell, entry = self.plan.cells[fingerprint], main_entry(self.plan, fingerprint)
        log_tags(client, run_id, tags_of(self.plan, entry))
        log_params(client, run_id, flatten(cell.config.as_json()))
        self._log_data_set(client, run_id, cell.config.data.as_json())
        client.log_artifact(run_id, str(self.store.directory(fingerprint) / "cell.json"))

    def _log_data_set(self, client: MlflowClient, run_id: str, data: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        label, text = self.plan.experiment.dataset.label, canonical(data)
        is_view = "view" in data  # all views of a data set share its digest
        digest = hashlib.sha256(text.encode()).hexdigest() if is_view else data["digest"]
        # MLflow allows 36 characters per digest; the whole digest is among the parameters.
        counts = self.plan.images
        schema = None if counts is None else schema_of(counts)
        profile = None if counts is None else canonical({**counts.parts, "classes": counts.classes})
        dataset = Dataset(label, digest[:32], "harness", text, schema, profile)
        client.log_inputs(run_id, [DatasetInput(dataset, [])])

    def _log_results(
        self, client: MlflowClient, run_id: str, fingerprint: str, events: list[dict[str, Any]]
    ) -> None:
        from mlflow.entities import Metric

        directory = self.store.directory(fingerprint)
        manifest = directory.manifest
        when = int(events[-1]["time"] * 1000)
        numbers = final_metrics(self.plan, fingerprint, manifest)
        metrics = [Metric(name, value, when, manifest["epochs"]) for name, value in numbers.items()]
        log_metrics(client, run_id, metrics)
        log_tags(client, run_id, {"selected_epoch": manifest["selected_epoch"]})
        client.log_artifact(run_id, str(directory / "model.pt"), WEIGHTS)
        if (directory / "predictions.npz").exists():
            client.log_artifact(run_id, str(directory / "predictions.npz"))
        stages = {e.stage for e in self.plan.entries_of(fingerprint)}
        if TEACHER in stages and self.plan.cells[fingerprint].kind != IMPORTED:
            register_teacher(client, self.plan, fingerprint, client.get_run(run_id), directory)


def schema_of(counts: Counts) -> str:
    """Return the schema of images and labels, as MLflow writes that of arrays."""
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(np.uint8), (-1, *counts.image_size, 3), "images")
    labels = TensorSpec(np.dtype(np.int64), (-1,), "labels")
    return json.dumps(TensorDatasetSchema(Schema([images]), Schema([labels])).to_dict())
