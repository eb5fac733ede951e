"""docker/kuberay.yaml, as far as its text tells: there is no Kubernetes here."""

import shlex
from typing import Any

import compose
import pytest
import typer.main
import yaml
from helpers import ROOT
from packaging.requirements import Requirement

from harness.cli import app
from harness.cli.options import run_options
from harness.execute.ray.cluster import n_cells_that_fit

OBJECTS = list(yaml.safe_load_all((ROOT / "docker" / "kuberay.yaml").read_text()))
SETTINGS, CLAIM, JOB = OBJECTS
CLUSTER = JOB["spec"]["rayClusterSpec"]
HEAD, (WORKERS,) = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
GROUPS = {"head": HEAD, "workers": WORKERS}


def pod(group: str) -> dict[str, Any]:
    return GROUPS[group]["template"]["spec"]


def container(group: str) -> dict[str, Any]:
    (only,) = pod(group)["containers"]
    return only


def test_its_objects() -> None:
    kinds = [("v1", "ConfigMap"), ("v1", "PersistentVolumeClaim"), ("ray.io/v1", "RayJob")]
    assert [(o["apiVersion"], o["kind"]) for o in OBJECTS] == kinds
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "MLFLOW_TRACKING_URI" in SETTINGS["data"]
    assert all(isinstance(value, str) for value in SETTINGS["data"].values())
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert JOB["spec"]["backoffLimit"] > 0, "--max-time ends with 3, a failure to KubeRay"
    for group in GROUPS.values():
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
    assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]


def test_ray_and_the_images_are_ours() -> None:
    lines = (ROOT / "requirements-dev.lock").read_text().splitlines()
    locked = {Requirement(line).name: line.partition("==")[2] for line in lines}
    assert CLUSTER["rayVersion"] == locked["ray"]
    services = compose.read(*compose.FILES, compose.DOCKER / "compose.gpu.yaml")["services"]
    assert {container(group)["image"] for group in GROUPS} == {services["trainer"]["image"]}


def context_of_the_command() -> typer.Context:
    """Return the command's context for the words of the entrypoint."""
    program, name, *words = shlex.split(JOB["spec"]["entrypoint"])
    assert program == "harness"
    command = typer.main.get_command(app).commands[name]
    return command.make_context(name, words)


def test_the_command_fits_the_cluster() -> None:
    context = context_of_the_command()
    assert (ROOT / context.params["file"]).is_file()
    options = run_options(context)
    assert (options.max_seconds or 0) > 3600
    cluster = options.cluster
    assert cluster is not None and cluster.address == "auto"
    limits = container("workers")["resources"]["limits"]
    worker = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
    assert n_cells_that_fit([worker], cluster.cpus, cluster.gpus) == 2, (
        "the cores for a GPU's cells"
    )
    assert HEAD["rayStartParams"]["num-cpus"] == HEAD["rayStartParams"]["num-gpus"] == "0"


@pytest.mark.parametrize("group", GROUPS)
def test_pods(group: str) -> None:
    its, ours = pod(group), container(group)
    assert ours["envFrom"] == [{"configMapRef": {"name": SETTINGS["metadata"]["name"]}}]
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for v in its["volumes"]
        if "persistentVolumeClaim" in v
    ]
    assert claims == [CLAIM["metadata"]["name"]]
    mounts = {m["mountPath"]: m["name"] for m in ours["volumeMounts"]}
    assert set(mounts.values()) == {v["name"] for v in its["volumes"]}
    # As in compose.yaml: what a container writes is on a volume, for its root is read-only.
    trainer = compose.read()["services"]["trainer"]
    volumes = [v.split(":")[1] for v in trainer["volumes"] if isinstance(v, str)]
    for path in (*volumes, *trainer["tmpfs"], "/dev/shm"):
        assert any(f"{path}/".startswith(f"{mount}/") for mount in mounts), path
    assert mounts["/work/runs"] == mounts["/work/data"] == "work"
    (shm,) = (v for v in its["volumes"] if v["name"] == mounts["/dev/shm"])
    assert shm["emptyDir"]["medium"] == "Memory"
    size = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
    assert int(GROUPS[group]["rayStartParams"]["object-store-memory"]) < size
    for probe in ("readinessProbe", "livenessProbe"):
        assert ours[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}


@pytest.mark.parametrize("group", GROUPS)
def test_closed_as_in_compose(group: str) -> None:
    security = pod(group)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert str(security["runAsUser"]) == compose.defaults()["HARNESS_UID"]
    assert container(group)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
