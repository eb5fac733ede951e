"""The only way to MLflow: a client with explicit run ids, opened once, for one experiment."""

from __future__ import annotations

import contextlib
import getpass
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.common import database, locks
from harness.common.errors import UserError
from harness.common.redaction import without_password
from harness.track import database_file
from harness.track.asking import Asking, BoundedClient
from harness.track.environment import check_uri, is_server, prepare_environment, tracking_uri
from harness.track.system_metrics import SystemMetrics, is_requested

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


PARENT = "mlflow.parentRunId"  # the tag of a run below another


class Connection(Asking):
    """The connection to one experiment at one tracking server.

    Attributes:
        name: What users call the tracker.
        address: The server, without a password.
        experiment_id: MLflow's id of the experiment, once the connection is open.
    """

    name = "MLflow"

    def __init__(self, experiment: str, lock_folder: Path, uri: str | None = None) -> None:
        """Keep where to connect to, and open nothing.

        Args:
            experiment: The experiment's name.
            lock_folder: Where commands keep out of each other's way, unless the database is a file.
            uri: The server or database; by default MLFLOW_TRACKING_URI.
        """
        self.experiment, self.lock_folder = experiment, lock_folder
        self.uri = uri or tracking_uri()
        self.address = without_password(self.uri)
        self.experiment_id = ""
        self._client: MlflowClient | None = None
        self._system: SystemMetrics | None = None

    def check(self) -> None:
        """Check the settings without asking any server.

        Raises:
            UserError: The address itself is wrong, or system metrics are requested but impossible.
        """
        check_uri(self.uri)
        is_requested()

    def log_system_metrics(self, run_ids: Iterable[str]) -> None:
        """Log system metrics to the runs that stand for the command, if the user asked for them."""
        if self._system is not None and self._client is not None:
            self._system.log(self._client, run_ids)

    @property
    def is_open(self) -> bool:
        """Whether the server has answered."""
        return self._client is not None

    def open(self, prepare: Callable[[MlflowClient], None]) -> MlflowClient:
        """Return the client; the first call creates database and experiment if they are missing.

        Args:
            prepare: Called once, under the lock; finds or creates parent runs.

        Raises:
            UserError: The experiment was deleted in MLflow, or the database cannot be used.
            Exception: Whatever MLflow raises if the server cannot be used.
        """
        if self._client is None:
            with self.exclusive():
                with self.asking():
                    client = cast("MlflowClient", _TimedClient(self, make_client(self.uri)))
                self.experiment_id = find_experiment(client, self.experiment, self.uri)
                prepare(client)
            if is_requested():
                self._system = SystemMetrics(self.uri)
            self._client = client
        return self._client

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep others from changing in between what the block reads and then changes.

        This holds on this machine, and for every host that uses the same PostgreSQL database.

        Raises:
            UserError: The database does not answer.
        """
        with self.locked(), contextlib.ExitStack() as stack:
            if database.is_postgres(self.uri):
                lock = database.Lock(self.uri, "harness mlflow", "MLFLOW_TRACKING_URI")
                stack.callback(lock.release)
                with self.asking():
                    lock.acquire(wait=True)
            yield

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock among the commands on this machine."""
        with contextlib.ExitStack() as stack:
            with self.asking():
                stack.enter_context(locked(self.uri, self.lock_folder))
            yield


@contextlib.contextmanager
def locked(uri: str, folder: Path) -> Iterator[None]:
    """Hold a lock beside a database file, which several stores may share; otherwise in `folder`."""
    file, path = folder / ".mlflow.lock", database_file.sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock")
    with locks.locked(file):
        yield


def make_client(uri: str) -> MlflowClient:
    """Return MLflow's client, with the model registry at the same address.

    It is called under the lock, as it creates a database file. PostgreSQL is tried first: MLflow
    itself would try for minutes.

    Raises:
        UserError: The database is of another version, or does not answer.
        Exception: Whatever else keeps it from being used.
    """
    prepare_environment(uri)
    path = database_file.sqlite_path(uri)
    if path is not None:
        database_file.prepare(path, uri)
    elif database.is_postgres(uri):
        database.connect(uri, "MLFLOW_TRACKING_URI").close()
        uri = database.with_timeouts(uri)
    from mlflow import MlflowClient

    client = MlflowClient(uri, registry_uri=uri)
    return (
        cast("MlflowClient", BoundedClient(client, without_password(uri)))
        if is_server(uri)
        else client
    )


class _TimedClient:
    """MLflow's client, which notes how long a call waits: it may never return."""

    def __init__(self, connection: Connection, client: MlflowClient) -> None:
        self._connection, self._client = connection, client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            with self._connection.asking():
                return method(*arguments, **keywords)

        return call


def find_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Return the id of the experiment, which is created if it is missing.

    Raises:
        UserError: It was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=_artifacts(name, uri))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise UserError(
            f"MLflow: experiment {name!r} is deleted at {without_password(uri)}; restore it there "
            "(`mlflow experiments restore`) or change the experiment's name"
        )
    _warn_of_lost_artifacts(experiment.artifact_location, name, uri)
    return experiment.experiment_id


def _artifacts(name: str, uri: str) -> str | None:
    """Return where to keep an experiment's artifacts; None if the server decides."""
    if is_server(uri):
        return None
    return database_file.artifacts_of(database_file.sqlite_path(uri) or Path("mlflow.db"), name)


def _warn_of_lost_artifacts(location: str, name: str, uri: str) -> None:
    """Warn if a database names a folder of artifacts that was made on another machine or moved."""
    expected, folder = _artifacts(name, uri), location.removeprefix("file://")
    is_file = expected is not None and location.startswith("file:")
    if is_file and location != expected and not Path(folder).exists():
        print(
            f"warning: MLflow: experiment {name!r} keeps its artifacts in {folder}, where it "
            "was made, not here",
            file=sys.stderr,
        )


MAX_METRICS, MAX_PARAMS = 1000, 100  # MLflow's limits for one log_batch
MAX_PARAM_LENGTH = 500  # characters that MLflow keeps
GIT_COMMIT = "mlflow.source.git.commit"


def source_tags() -> dict[str, str]:
    """Return the tags of a new run that fill MLflow's own columns for user and source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = ""
    tags = {"mlflow.source.name": "harness", "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.user": user} if user else {})


def mlflow_name(key: str) -> str:
    """Return a key that MLflow accepts, which forbids plus and @: `tuned.kd-both.study`."""
    return re.sub(r"[^\w ./:-]", "-", key)


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """Log any number of metrics."""
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


def end_run(client: MlflowClient, run_id: str, status: str, end: int | None = None) -> None:
    """End a run, but never before it started: the clock may have been set back meanwhile.

    Args:
        client: MLflow's client.
        run_id: The run.
        status: Its status from now on.
        end: In milliseconds since 1970, by default now.
    """
    start = client.get_run(run_id).info.start_time
    client.set_terminated(run_id, status, max(start, end or int(time.time() * 1000)))


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, object]) -> None:
    """Set tags in one call: each call costs a commit or a round trip to the server."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


def log_params(
    client: MlflowClient, run_id: str, values: dict[str, Any], known: Collection[str] = ()
) -> None:
    """Log any number of params, cut to the length that MLflow keeps.

    Those in `known` are left out: the run has them, and MLflow refuses to change a param.
    """
    from mlflow.entities import Param

    named = {mlflow_name(key): str(value)[:MAX_PARAM_LENGTH] for key, value in values.items()}
    params = [Param(key, value) for key, value in named.items() if key not in known]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])


def children(client: MlflowClient, experiment_id: str, parent_id: str) -> Iterable[Run]:
    """Yield the runs below a run, without deleted ones."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{PARENT}` = '{parent_id}'", page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
