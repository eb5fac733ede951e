"""docker/compose.yaml end to end, as plain processes (tests/compose.py): PostgreSQL, MLflow,
optuna-dashboard and the trainer, with their own commands, health checks and stop signals."""

import json
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compose
import pytest
from compose import Stack
from helpers import (
    HANG,
    TUNING,
    WITH_RAY,
    captured,
    epochs_of,
    needs_ray,
    wait_until,
    write_experiment,
)
from postgres import PASSWORD

from harness.store import Store

OPTIONS = ("--no-bar", "--device", "cpu")


def fetch(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=HANG) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@dataclass(frozen=True)
class Story:
    """The services as they were seen, from their start to their end."""

    databases: list[str]
    run_status: int
    tune_status: int
    ray_status: int | None
    printed: str
    mlflow_runs: dict[str, int]  # experiment -> finished runs in PostgreSQL
    sizes: list[int]  # of the weights in the volume of artifacts
    hosts: dict[str, int]  # Host header -> status of MLflow's API
    studies: Any
    stopped: dict[str, int]  # service -> status
    checkpoints: int
    logs: str
    left: list[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("compose")
    work = folder / "work"
    write_experiment(work / "experiments" / "tiny.yaml")
    write_experiment(work / "experiments" / "tuning" / "tiny.yaml", TUNING)
    slow = {"name": "slow", "training": {"epochs": 300}, "methods": ["plain"]}
    write_experiment(work / "experiments" / "slow.yaml", **slow)
    brief = {"name": "on-ray", "training": {"epochs": 1}, "methods": ["plain"], "seeds": [0, 1]}
    write_experiment(work / "experiments" / "on-ray.yaml", **brief)
    with Stack(folder, RAY_CPUS="1") as stack:
        stack.up("postgres", "mlflow", "optuna-dashboard")
        names = stack.postgres.sql("select datname from pg_database where not datistemplate")
        with open(folder / "logs" / "trainer", "w") as log:
            run = ("harness", "run", "experiments/tiny.yaml", *OPTIONS)
            run_status = stack.run("trainer", *run, output=log)
            tune = ("harness", "tune", "experiments/tuning/tiny.yaml", *OPTIONS)
            tune_status = stack.run("trainer", *tune, output=log)
            ray_status = None
            if WITH_RAY:
                stack.up("ray-head", "ray-worker")
                # Its health check is the head's: it may pass before the worker has joined.
                assert wait_until(lambda: "runtime started" in stack.log("ray-worker"))
                on_ray = ("harness", "run", "experiments/on-ray.yaml", "--executor", "ray")
                ray_status = stack.run("ray-head", *on_ray, "--no-bar", output=log)
            api = f"http://127.0.0.1:{stack.port('mlflow')}/api/2.0/mlflow/experiments/search"
            port = stack.port("mlflow")
            hosts = [f"mlflow:{port}", f"localhost:{port}", "localhost:9000", "127.0.0.1:1"]
            hosts += ["example.org", f"mlflow.example.org:{port}", f"10.0.0.1:{port}", "localhost"]
            answers = {host: fetch(f"{api}?max_results=1", host)[0] for host in hosts}
            dashboard = f"http://127.0.0.1:{stack.port('optuna-dashboard')}/api/studies"
            studies = json.loads(fetch(dashboard)[1])
            finished = stack.postgres.sql(
                "select e.name, count(*) from runs r join experiments e using (experiment_id) "
                "where r.status = 'FINISHED' group by e.name",
                "mlflow",
            )
            slow_run = ("harness", "run", "experiments/slow.yaml", *OPTIONS)
            trainer = stack.popen("trainer", *slow_run, stdout=log, stderr=log)
            running = stack.processes | {"trainer": trainer}
            stack.processes["trainer"] = trainer
            assert wait_until(lambda: unfinished(work)), stack.log("trainer")
            ray = ("ray-worker", "ray-head") if ray_status is not None else ()
            order = ("trainer", *ray, "optuna-dashboard", "mlflow")
            for name in order:
                stack.stop(name)
    return Story(
        databases=[str(name) for (name,) in names],
        run_status=run_status,
        tune_status=tune_status,
        ray_status=ray_status,
        printed=stack.log("trainer"),
        mlflow_runs={str(name): int(str(n)) for name, n in finished},
        sizes=[p.stat().st_size for p in (folder / "volumes" / "mlartifacts").rglob("model.pt")],
        hosts=answers,
        studies=studies,
        stopped={name: running[name].returncode for name in order},
        checkpoints=sum((d / "checkpoint.pt").exists() for d in Store(work / "runs").all()),
        logs="".join(stack.log(name) for name in order),
        left=[p.name for p in work.iterdir()],
    )


def unfinished(work: Path) -> bool:
    cells = Store(work / "runs").all()
    return any(epochs_of(d) and not d.is_done and not d.pause_after for d in cells)


def test_the_init_script_makes_both_databases(story: Story) -> None:
    assert {"mlflow", "optuna"} <= set(story.databases)


def test_runs_are_in_postgres_and_weights_on_the_volume(story: Story) -> None:
    assert (story.run_status, story.tune_status) == (0, 0), story.printed
    assert story.mlflow_runs["tiny"] == 5  # four cells and the grid
    assert len(story.sizes) >= 4 and min(story.sizes) > 100_000
    assert not [name for name in story.left if name.startswith("mlflow.db")]  # no local database


@needs_ray
def test_a_grid_on_the_ray_cluster(story: Story) -> None:
    assert story.ray_status == 0, story.printed
    assert "2 to train with 2 jobs" in story.printed, "a core of the head and one of the worker"
    assert story.mlflow_runs["on-ray"] == 3  # two cells and the grid


def test_the_dashboard_lists_the_study(story: Story) -> None:
    (study,) = story.studies["study_summaries"]
    assert study["study_name"] == "tiny/plain"
    assert story.mlflow_runs["tiny-tuning"] >= 3


def test_mlflow_refuses_other_hosts(story: Story) -> None:
    allowed = [host for host, status in story.hosts.items() if status == 200]
    refused = [host for host, status in story.hosts.items() if status == 403]
    assert len(allowed) == 4 and len(refused) == 4
    assert all(host.partition(":")[0] in ("mlflow", "localhost", "127.0.0.1") for host in allowed)


def test_each_service_stops_by_itself(story: Story) -> None:
    assert -9 not in story.stopped.values(), story.stopped
    assert story.stopped["trainer"] == 130 and story.checkpoints == 1


def test_no_log_has_the_password(story: Story) -> None:
    assert "tiny: 4 done" in story.logs  # the logs are there
    assert PASSWORD not in story.logs


def test_s3_in_the_place_of_the_volume(tmp_path: Path) -> None:
    """The profile's own command and secret, against moto's S3."""
    import boto3
    from mlflow import MlflowClient
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "someone", "aws_secret_access_key": "only-for-tests"}
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        s3.create_bucket(Bucket="somewhere")
        where = {"S3_ARTIFACTS": "s3://somewhere/mlflow", "S3_ENDPOINT_URL": endpoint}
        with Stack(tmp_path, **where, S3_REGION="us-east-1") as stack:
            lines = ["[default]", *(f"{key} = {value}" for key, value in keys.items())]
            (tmp_path / "secrets" / "s3_credentials").write_text("\n".join(lines))
            stack.up("postgres", "mlflow-s3")
            client = MlflowClient(stack.environment("trainer")["MLFLOW_TRACKING_URI"])
            run = client.create_run(client.create_experiment("tiny"))
            client.log_text(run.info.run_id, "hello", "a.txt")
            (found,) = s3.list_objects_v2(Bucket="somewhere")["Contents"]
            assert found["Key"].startswith("mlflow/") and found["Key"].endswith("/a.txt")
            assert client.list_artifacts(run.info.run_id)[0].path == "a.txt"
            assert "only-for-tests" not in stack.log("mlflow-s3")
    finally:
        server.stop()


def test_an_entrypoint_without_a_password_changes_nothing() -> None:
    code = "import os; print('PGPASSWORD' in os.environ)"
    command = [*compose.entrypoint(), sys.executable, "-c", code]
    done = captured(command, env={"PATH": os.environ["PATH"]})
    assert done.stdout == "False\n", done.stderr
