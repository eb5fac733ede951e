"""Copies the journals of a plan's cells into MLflow; safe to repeat and to kill at any moment.

Training processes never talk to MLflow. The orchestrator does, with one client and explicit run
ids. A metric keeps the journal's own time stamp, and MLflow stores equal rows (key, time, step,
value) once, so sending a line twice leaves one row.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.canonical_json import flatten
from harness.plan import Plan
from harness.store import CellDir, Store
from harness.track.cell_run import describe_cell, log_data_set, log_events, log_results
from harness.track.client import (
    PARENT,
    Connection,
    children,
    end_run,
    log_params,
    log_tags,
    mlflow_name,
    source_tags,
)
from harness.track.environment import DEFAULT_URI
from harness.track.grid_run import SummaryBuilder, find_grid_run, publish_summary, save_views
from harness.track.lost_runs import find_lost
from harness.track.places import list_tags
from harness.track.run_fields import end_of, status_of
from harness.track.sync_state import (
    NOTHING_SENT,
    SYNC_FILE,
    OpenCells,
    SyncState,
    current_training,
    has_unsent,
    read_sync_state,
    record_sent,
    sync_key,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

N_CELLS = "result.cells"  # tag of a grid's run: how many cells its summary covers
CELLS = "cells"  # tag of a grid's run: a digest of the cells that have places in its lists


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
        self._open = OpenCells(plan, store)

    # -- what needs no MLflow ---------------------------------------------------------------------

    def sent(self, directory: CellDir) -> SyncState:
        """Return the record of what was sent of this cell.

        It is empty if that went to a database that has since been deleted (a new one has another
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
        for fingerprint, directory in self._open.look():
            sent = NOTHING_SENT if is_new_database else self.sent(directory)
            if sent.status == "FINISHED":
                self._open.finish(fingerprint, for_good=self._lost is not None)
            elif has_unsent(directory, sent):
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

    def end_grid(self, build: SummaryBuilder | None) -> None:
        """End the finished grid's run, which shows the result if there is something that builds it.

        A summary that covers more cells stays: a later run of fewer seeds or methods, or somebody
        else's, takes nothing away.
        """
        client = self.connect()
        if build is not None:
            self._publish_summary(client, build)
        # The next command may have nothing to do, and would leave it running after a kill.
        end_run(client, self._parent_id, "FINISHED")
        state = SyncState(parent=self._parent_id, cells=self._cells, has_summary=build is not None)
        record_sent(self.store.root / SYNC_FILE, self.key, state)

    def _publish_summary(self, client: MlflowClient, build: SummaryBuilder) -> None:
        with self.server.exclusive():  # a smaller and a larger grid may finish at once
            n_covered = client.get_run(self._parent_id).data.tags.get(N_CELLS, "0")
            if int(n_covered) <= len(self.plan.cells):
                with tempfile.TemporaryDirectory() as folder:
                    summary = build(self.plan, self.server.experiment_id, Path(folder))
                    publish_summary(client, self._parent_id, summary, self._ended)
                client.set_tag(self._parent_id, N_CELLS, str(len(self.plan.cells)))

    @property
    def _ended(self) -> int:
        """When the last cell ended, in milliseconds since 1970."""
        journals = (self.store.directory(f).events() for f in self.plan.cells)
        return max(int(end_of(events) * 1000) for events in journals if events)

    def is_grid_ended(self, has_summary: bool) -> bool:
        """Return whether the grid's run has ended with just these cells.

        Args:
            has_summary: Whether it must show their result, too.
        """
        recorded = read_sync_state(self.store.root / SYNC_FILE, self.key)
        if self._parent_id not in ("", recorded.parent):
            return False
        is_shown = bool(recorded.has_summary) or not has_summary
        return recorded.cells == self._cells and is_shown

    @property
    def _cells(self) -> str:
        """A digest of the plan's cells."""
        return hashlib.sha256(" ".join(sorted(self.plan.cells)).encode()).hexdigest()

    def close(self, finished: bool) -> None:
        """End the grid's own run with the command."""
        if self.server.is_open:
            status = "FINISHED" if finished else "KILLED"
            end_run(self.connect(), self._parent_id, status)

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
            log_data_set(client, run_id, self.plan, whole)
            log_params(client, run_id, flatten(resolved), known=run.data.params)
        self._parent_id = run_id
        if run.data.tags.get(CELLS) != self._cells:
            self._arrange(client, run)

    def _arrange(self, client: MlflowClient, grid: Run) -> None:
        """Give the runs that are there already their places among those of this plan."""
        wanted = {
            self.sent(self.store.directory(fingerprint)).run_id: tags
            for fingerprint, tags in self._list_tags.items()
        }
        for run in children(client, self.server.experiment_id, grid.info.run_id):
            tags = wanted.get(run.info.run_id, {})
            if tags.items() - run.data.tags.items():
                log_tags(client, run.info.run_id, tags)
        save_views(client, grid, self.plan)
        client.set_tag(grid.info.run_id, CELLS, self._cells)

    @cached_property
    def _list_tags(self) -> dict[str, dict[str, str]]:
        return list_tags(self.plan)

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
        directory = self._open.watch(fingerprint)
        status = status_of(directory)  # before the events: it may end meanwhile
        events = current_training(directory)
        started = str(events[0]["time"])
        sent = self.sent(directory)
        if sent.started != started:
            self._end_superseded(client, directory, started)
            sent = NOTHING_SENT
        run_id = self._find_run(client, fingerprint, started, sent.run_id)
        if sent.run_id != run_id:
            sent = NOTHING_SENT
            describe_cell(
                client, run_id, self.plan, fingerprint, directory, self._list_tags[fingerprint]
            )
            self._record_sent(directory, run_id, started, lines=0, status="RUNNING")
        elif sent.status != "RUNNING" and status == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        log_events(client, run_id, events, sent.lines or 0, status)
        if status != "RUNNING":
            end = int(end_of(events) * 1000)
            if status == "FINISHED":
                log_results(client, run_id, self.plan, fingerprint, directory, end)
            client.set_terminated(run_id, status, end)
        self._record_sent(directory, run_id, started, lines=len(events), status=status)

    def _end_superseded(self, client: MlflowClient, directory: CellDir, started: str) -> None:
        """End the run of an earlier training of a cell, if the last one sent was not this one.

        It may seem to run, as a training does not say at once whether it goes on or begins anew.
        """
        earlier = read_sync_state(directory / SYNC_FILE, self.key)
        is_other = earlier.parent == self._parent_id and earlier.started != started
        if is_other and earlier.run_id and self._exists(client, earlier.run_id):
            end = client.get_run(earlier.run_id).info.end_time
            client.set_terminated(earlier.run_id, "KILLED", end)

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
