"""The one way to MLflow: a client with explicit run ids, opened once, of one experiment."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.database import Lock, is_postgres, with_timeouts, without_password
from harness.errors import UserError
from harness.track.environment import is_server, prepare_environment, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Connection:
    """One experiment at one tracking server.

    place: the server, without a password. heard: when it last answered, as time.monotonic().
    experiment_id: MLflow's, once it is open.
    """

    def __init__(self, experiment: str, lock_folder: Path, uri: str | None = None) -> None:
        """lock_folder: where commands keep out of each other's way; a database file has its own."""
        self.experiment, self.lock_folder = experiment, lock_folder
        self.uri = uri or tracking_uri()
        self.place = without_password(self.uri)
        self.heard = 0.0
        self.experiment_id = ""
        self._client: MlflowClient | None = None

    @property
    def is_open(self) -> bool:
        return self._client is not None

    def open(self, prepare: Callable[[MlflowClient], None]) -> MlflowClient:
        """The client. Database and experiment are created once, whoever comes first.

        Args:
            prepare: called the first time, under the lock; finds or creates parent runs.

        Raises:
            UserError: the experiment was deleted in MLflow.
            Exception: whatever MLflow raises of a server that cannot be used.
        """
        if self._client is None:
            prepare_environment()
            from mlflow import MlflowClient

            uri = self.uri
            with self.locked(), contextlib.ExitStack() as stack:
                if is_postgres(uri):  # other hosts may be about to create the same
                    lock = Lock(uri, "harness mlflow", "MLFLOW_TRACKING_URI")
                    stack.callback(lock.release)
                    lock.acquire(wait=True)
                    uri = with_timeouts(uri)
                client = cast("MlflowClient", _Heard(self, MlflowClient(uri)))
                self.experiment_id = find_experiment(client, self.experiment, self.place)
                prepare(client)
            self._client = client
        return self._client

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Beside a database file, which several stores may share; else in `lock_folder`."""
        file = self.lock_folder / ".mlflow.lock"
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            database.parent.mkdir(parents=True, exist_ok=True)
            file = database.with_name(f"{database.name}.lock")
        with open(file, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


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
                self._connection.heard = time.monotonic()

        return calling


def find_experiment(client: MlflowClient, name: str, place: str) -> str:
    """The id of the experiment, which is created if there is none.

    Raises:
        UserError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # A server keeps artifacts itself.
        location = None if is_server(place) else (Path("mlartifacts").resolve() / name).as_uri()
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise UserError(
            f"MLflow: experiment {name!r} is deleted at {place}; restore it there "
            "(`mlflow experiments restore`) or change the experiment's name"
        )
    return found.experiment_id


def log_params(client: MlflowClient, run_id: str, values: dict[str, Any]) -> None:
    """Params of any number and length, as far as MLflow keeps them (500 characters)."""
    from mlflow.entities import Param

    params = [Param(k, str(v)[:500]) for k, v in values.items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
