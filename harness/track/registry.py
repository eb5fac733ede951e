"""Teachers in MLflow's model registry: one registered model per teacher, one version per seed.

An experiment names one by `teacher: models:/NAME@teacher` (or models:/NAME/VERSION). The version's
tags hold its network and the SHA-256 of its file; a file with another digest is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.canonical_json import canonical
from harness.common.errors import UserError, one_line
from harness.common.metrics import ACCURACY
from harness.common.redaction import without_password
from harness.common.temporary import user_folder
from harness.data import Dataset
from harness.experiment.experiment import Experiment
from harness.experiment.file import is_registered
from harness.networks import NetworkOptions
from harness.plan import TEACHER, Plan
from harness.store import CellDir, Store
from harness.track.client import locked, make_client
from harness.track.database_file import sqlite_path
from harness.track.environment import check_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "teacher"
WEIGHTS = "model"  # the folder among a run's artifacts that holds model.pt


def model_name(plan: Plan, teacher: NetworkOptions) -> str:
    """Return the name of the registered model, such as `digits-wrn-16-2`."""
    return f"{plan.experiment.name}-{teacher.label}"


def register_teacher(
    client: MlflowClient, plan: Plan, fingerprint: str, run: Run, directory: CellDir
) -> None:
    """Register a finished teacher as a version of the registered model, once.

    Every version gets the alias `seed-N`, and the first seed's version `teacher`, too. Among the
    artifacts of the cell's `run` is model.pt.
    """
    from mlflow.exceptions import MlflowException

    from harness.track.mlflow_model import save
    from harness.trained.model import WEIGHTS_FILE, read_model

    experiment, manifest = plan.experiment, directory.manifest
    config = plan.cells[fingerprint].config
    seed = next(e.seed for e in plan.entries_of(fingerprint) if e.stage == TEACHER)
    name = model_name(plan, config.network)
    try:
        client.create_registered_model(
            name,
            description=f"Teachers of the experiment {experiment.name}, one version per seed. "
            f"In an experiment: `teacher: models:/{name}@{ALIAS}`. In Python: "
            f"`mlflow.pytorch.load_model('models:/{name}@{ALIAS}')`, which takes images (B, 3, "
            "height, width) of [0, 1] and gives logits.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    if known:
        version = known[0]
    else:
        model = None
        with contextlib.suppress(UserError):  # older files do not name their network
            model = read_model(directory / WEIGHTS_FILE)
        if model is not None:
            with tempfile.TemporaryDirectory() as folder:
                client.log_artifacts(
                    run.info.run_id, str(save(model, Path(folder, WEIGHTS))), WEIGHTS
                )
        accuracy = manifest.results.get(ACCURACY, {}).get(experiment.protocol.reported)
        accuracy_text = "" if accuracy is None else f", test accuracy {100 * accuracy:.2f} %"
        version = client.create_model_version(
            name,
            f"{run.info.artifact_uri}/{WEIGHTS}",
            run.info.run_id,
            tags={
                "fingerprint": fingerprint,
                "seed": str(seed),
                "sha256": manifest.model_sha256,
                "network": canonical(config.as_json()["network"]),
                "data": experiment.dataset.label,
                "data_digest": config.data.digest,
                **({"view": canonical(view)} if (view := config.data.view.as_json()) else {}),
            },
            description=f"{config.network.label} on {experiment.dataset.label}, seed {seed}"
            f"{accuracy_text}",
        )
    client.set_registered_model_alias(name, f"seed-{seed}", version.version)
    if seed == experiment.seeds[0]:
        client.set_registered_model_alias(name, ALIAS, version.version)


@dataclass(frozen=True)
class RegisteredTeacher:
    """The properties of a registered teacher that an experiment needs.

    Attributes:
        source: models:/NAME/VERSION, which unlike an alias stays the same.
        network: The network's description.
        sha256: The digest of its file.
        data_digest: The digest of the whole data set.
        view: The classes of it that were learned; {} for all.
    """

    source: str
    network: dict[str, Any]
    sha256: str
    data_digest: str
    view: dict[str, Any]


def look_up(uri: str) -> RegisteredTeacher:
    """Return the teacher models:/NAME@ALIAS or models:/NAME/VERSION of the present tracking server.

    Raises:
        UserError: There is no such model, or the harness did not register it.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if not match:
        raise UserError(f"teacher: {uri!r}; write models:/NAME@{ALIAS} or models:/NAME/VERSION")
    name, alias, number = match.groups()
    version = _version(name, alias, number, uri)
    tags = version.tags
    if not {"network", "sha256", "data_digest"} <= tags.keys():
        raise UserError(
            f"teacher: {uri} has no tags network, sha256 and data_digest, as the harness gives its "
            "teachers; download its file and use `harness import-checkpoint`"
        )
    source = f"models:/{name}/{version.version}"
    view = json.loads(tags.get("view", "{}"))
    return RegisteredTeacher(
        source, json.loads(tags["network"]), tags["sha256"], tags["data_digest"], view
    )


def _version(name: str, alias: str | None, number: str | None, uri: str) -> ModelVersion:
    server = tracking_uri()
    check_uri(server)
    file = sqlite_path(server)
    try:
        if file is not None and not file.exists():
            raise FileNotFoundError(f"there is no {file}")
        with locked(server, user_folder()):
            client = make_client(server)
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(number))
    except Exception as error:
        raise UserError(
            f"teacher: no {uri} at {without_password(server)} ({one_line(error)}); correct the "
            "name, or set MLFLOW_TRACKING_URI to the server that has it"
        ) from None


def download_model(uri: str, folder: Path, field: str) -> Path:
    """Download the files of a registered model.

    Args:
        uri: models:/NAME@ALIAS or models:/NAME/VERSION, at the present tracking server.
        folder: Where to put them.
        field: What a message begins with.

    Returns:
        The path of the files in `folder`.

    Raises:
        UserError: They cannot be fetched.
    """
    server = tracking_uri()
    check_uri(server)
    from mlflow.artifacts import download_artifacts

    try:
        return Path(
            download_artifacts(uri, dst_path=str(folder), tracking_uri=server, registry_uri=server)
        )
    except Exception as error:
        raise UserError(
            f"{field}: cannot fetch {uri} ({one_line(error)}); check the name and "
            "MLFLOW_TRACKING_URI, or try again"
        ) from None


def resolve_teacher(raw: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment's fields with its registered teacher, if it names one, looked up.

    As it asks the tracking server, it is a step between reading a file and checking it.

    Raises:
        UserError: There is no such model, or it is not the file that the experiment expects.
    """
    uri, expected = raw.get("teacher"), raw.get("teacher_checkpoint")
    if not is_registered(uri):
        return raw
    teacher = look_up(str(uri))
    if expected not in (None, teacher.sha256):
        raise UserError(
            f"teacher_checkpoint: {uri} is now {teacher.source} with the SHA-256 {teacher.sha256}, "
            f"not {str(expected)[:12]}...; name the version that you mean, or take the new SHA-256"
        )
    return {
        **raw,
        "teacher": teacher.network,
        "teacher_checkpoint": teacher.sha256,
        "teacher_source": teacher.source,
    }


def fetch_teacher(plan: Plan, store: Store, device: str, dataset: Dataset) -> None:
    """Put the plan's registered teacher, if it has one, into the store unless it is there.

    Raises:
        UserError: It cannot be fetched, or its file is not the one that was registered.
    """
    source = plan.experiment.teacher_source
    if source is None:
        return
    ((fingerprint, cell),) = plan.imported_teachers.items()  # no pairs: one teacher for all
    if store.directory(fingerprint).is_done:
        return
    from harness.execute.child import in_child
    from harness.networks.published_file import sha256_of

    teacher = look_up(source)
    if teacher.data_digest != cell.config.data.digest:
        print(
            f"warning: teacher: {source} was trained on other data or another split; it may have "
            "seen images that this experiment tests on",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as folder:
        path = download_model(source, Path(folder), "teacher")
        files = [p for p in path.rglob("*") if p.suffix in (".pt", ".pth")]
        if len(files) != 1:
            raise UserError(
                f"teacher: {source} holds {len(files)} files of weights (.pt, .pth), not one; "
                "register it with one"
            )
        digest, expected = sha256_of(files[0]), str(cell.config.checkpoint)
        if digest != expected:
            raise UserError(
                f"teacher: the file of {source} has the SHA-256 {digest[:12]}..., not "
                f"{expected[:12]}... as registered; it was changed: name another version"
            )
        text = in_child(_add, files[0], plan.experiment, dataset, store, device)
    print(f"teacher: {source}, {text.splitlines()[1]}")
    if teacher.view != cell.config.data.view.as_json():
        print(
            f"warning: teacher: {source} has learned other classes than the first of this "
            "experiment's tasks; make classes and order in tasks those that it was trained with",
            file=sys.stderr,
        )


def _add(path: Path, experiment: Experiment, dataset: Dataset, store: Store, device: str) -> str:
    """Put a file into the store as a teacher, in a child process, as a device measures it."""
    from harness.trained.import_checkpoint import add_teacher, read_published

    return add_teacher(read_published(path, experiment.teacher), experiment, dataset, store, device)
