"""The one way to MLflow: a client with explicit run ids, opened once, of one experiment."""

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
from harness.track.environment import check_uri, is_server, prepare_environment, tracking_uri
from harness.track.system_metrics import SystemMetrics, is_requested

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


PARENT = "mlflow.parentRunId"  # the tag of a run below another


class Connection:
    """One experiment at one tracking server.

    name: what users call it. address: the server, without a password. last_answer: when it last
    answered, as time.monotonic(). experiment_id: MLflow's, once it is open.
    """

    name = "MLflow"

    def __init__(self, experiment: str, lock_folder: Path, uri: str | None = None) -> None:
        """lock_folder: where commands keep out of each other's way; a database file has its own."""
        self.experiment, self.lock_folder = experiment, lock_folder
        self.uri = uri or tracking_uri()
        self.address = without_password(self.uri)
        self.last_answer = 0.0
        self.experiment_id = ""
        self._client: MlflowClient | None = None
        self._system: SystemMetrics | None = None

    def check(self) -> None:
        """Before anybody is asked.

        Raises:
            UserError: the address itself is wrong, or system metrics are wanted and cannot be had.
        """
        check_uri(self.uri)
        is_requested()

    def log_system_metrics(self, run_ids: Iterable[str]) -> None:
        """On the runs that stand for the command, if the user asked for them."""
        if self._system is not None and self._client is not None:
            self._system.log(self._client, run_ids)

    @property
    def is_open(self) -> bool:
        return self._client is not None

    def open(self, prepare: Callable[[MlflowClient], None]) -> MlflowClient:
        """The client. Database and experiment are created once, whoever comes first.

        Args:
            prepare: called the first time, under the lock; finds or creates parent runs.

        Raises:
            UserError: the experiment was deleted in MLflow, or the database cannot be used.
            Exception: whatever MLflow raises of a server that cannot be used.
        """
        if self._client is None:
            with self.alone():
                client = cast("MlflowClient", _Heard(self, make_client(self.uri)))
                self.experiment_id = find_experiment(client, self.experiment, self.uri)
                prepare(client)
            if is_requested():
                self._system = SystemMetrics(self.uri)
            self._client = client
        return self._client

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """For what is looked at and then changed, once: nobody else on this machine does, nor on
        another host that uses the same database.

        Raises:
            UserError: the database does not answer.
        """
        with self.locked(), contextlib.ExitStack() as stack:
            if database.is_postgres(self.uri):
                lock = database.Lock(self.uri, "harness mlflow", "MLFLOW_TRACKING_URI")
                stack.callback(lock.release)
                lock.acquire(wait=True)
            yield

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.uri, self.lock_folder)


@contextlib.contextmanager
def locked(uri: str, folder: Path) -> Iterator[None]:
    """Beside a database file, which several stores may share; else in `folder`."""
    file, place = folder / ".mlflow.lock", database_file.sqlite_path(uri)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_name(f"{place.name}.lock")
    with locks.locked(file):
        yield


def make_client(uri: str) -> MlflowClient:
    """MLflow's client, after a look whether anybody answers: MLflow itself tries for minutes. Under
    the lock, as a database file is made here. The model registry is always at the same place.

    Raises:
        UserError: the database is of another version, or does not answer.
        Exception: whatever else keeps it from being used.
    """
    prepare_environment(uri)
    file = database_file.sqlite_path(uri)
    if file is not None:
        database_file.prepare(file, uri)
    elif database.is_postgres(uri):
        database.connect(uri, "MLFLOW_TRACKING_URI").close()
        uri = database.with_timeouts(uri)
    from mlflow import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


class _Heard:
    """MLflow's client, which notes when the server last answered: a call to one that is stuck may
    never return."""

    def __init__(self, connection: Connection, client: MlflowClient) -> None:
        self._connection, self._wrapped = connection, client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._wrapped, name)

        def calling(*arguments: Any, **keywords: Any) -> Any:
            try:
                return method(*arguments, **keywords)
            finally:
                self._connection.last_answer = time.monotonic()

        return calling


def find_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment, which is created if there is none.

    Raises:
        UserError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_artifacts(name, uri))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise UserError(
            f"MLflow: experiment {name!r} is deleted at {without_password(uri)}; restore it there "
            "(`mlflow experiments restore`) or change the experiment's name"
        )
    _say_where_artifacts_go(found.artifact_location, name, uri)
    return found.experiment_id


def _artifacts(name: str, uri: str) -> str | None:
    if is_server(uri):  # it keeps artifacts itself
        return None
    return database_file.artifacts_of(database_file.sqlite_path(uri) or Path("mlflow.db"), name)


def _say_where_artifacts_go(location: str, name: str, uri: str) -> None:
    """A database keeps the folder where its experiment was made. After a move that is not here."""
    expected, folder = _artifacts(name, uri), location.removeprefix("file://")
    is_file = expected is not None and location.startswith("file:")
    if is_file and location != expected and not Path(folder).exists():
        print(
            f"warning: MLflow: experiment {name!r} keeps its artifacts in {folder}, where it "
            "was made, not here",
            file=sys.stderr,
        )


MAX_METRICS = 1000  # MLflow's limit for one log_batch
GIT_COMMIT = "mlflow.source.git.commit"


def source_tags() -> dict[str, str]:
    """Of a new run, in MLflow's own columns: who made it, and with what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = ""
    tags = {"mlflow.source.name": "harness", "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.user": user} if user else {})


def mlflow_name(key: str) -> str:
    """As MLflow has it, whose names may have no plus and no @: `tuned.kd-both.study`."""
    return re.sub(r"[^\w ./:-]", "-", key)


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """In as many calls as MLflow's limit asks for."""
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


def log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, object]) -> None:
    """In one call: each costs a commit, or a way to the server and back."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


def log_params(
    client: MlflowClient, run_id: str, values: dict[str, Any], known: Collection[str] = ()
) -> None:
    """Params of any number and length, as far as MLflow keeps them (500 characters).

    Args:
        known: what the run has already and keeps: MLflow refuses to change a param.
    """
    from mlflow.entities import Param

    named = {mlflow_name(key): str(value)[:500] for key, value in values.items()}
    params = [Param(key, value) for key, value in named.items() if key not in known]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


def children(client: MlflowClient, experiment_id: str, parent_id: str) -> Iterable[Run]:
    """The runs below a run that nobody deleted."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{PARENT}` = '{parent_id}'", page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
