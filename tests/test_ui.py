"""`harness ui`: MLflow's server, and what it says to open."""

import json
import os
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG, Output, mlflow_client, processes_in, refusal, start, wait_until

from harness.track.saved_views import first_views
from harness.track.ui import MAX_OTHERS, what_to_open


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=HANG) as answer:
            return answer.read().decode()
    except OSError:
        return ""


@pytest.fixture
def here(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return here


# -- the server ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_runs_and_ends_with_all_its_processes(
    finished_copy: Path, number: signal.Signals
) -> None:
    port = free_port()
    process = start(finished_copy, "ui", "--port", str(port))
    try:
        assert wait_until(lambda: "<html" in ask(port, "/"))
        content = ask(port, "/api/2.0/mlflow/experiments/search", {"max_results": 10})
        assert "tiny" in {e["name"] for e in json.loads(content)["experiments"]}
    finally:
        os.kill(process.pid, number)
    process.communicate(timeout=HANG)
    assert process.returncode == 0
    assert wait_until(lambda: not processes_in(finished_copy)), processes_in(finished_copy)


def test_on_a_busy_port(here: Path, empty_database: Path, capsys: Output) -> None:
    (here / "mlflow.db").write_bytes(empty_database.read_bytes())
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        line = refusal(capsys, "ui", "--port", str(port))
    assert line.startswith("error: --port: ") and str(port) in line


def test_without_a_database(here: Path, capsys: Output) -> None:
    assert refusal(capsys, "ui").startswith("error: mlflow.db: ")
    assert list(here.iterdir()) == []


def test_of_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:1")
    line = refusal(capsys, "ui")
    assert line.startswith("error: MLFLOW_TRACKING_URI: ") and "secret" not in line
    assert "http://somebody:***@127.0.0.1:1" in line


# -- what to open ----------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path, empty_database: Path) -> Any:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    return mlflow_client(tmp_path)


def grid_run(client: Any, experiment: str, name: str, start: int, end: int) -> str:
    run = client.create_run(experiment, start_time=start, run_name=name, tags={"kind": "grid"})
    client.set_terminated(run.info.run_id, end_time=end)
    return str(run.info.run_id)


def test_the_grid_worked_on_last_comes_first(client: Any) -> None:
    ids = [client.create_experiment(f"e{i}") for i in range(MAX_OTHERS + 3)]
    resumed = grid_run(client, ids[0], "resumed", 1_000, 900_000)
    for i, experiment in enumerate(ids[1:]):
        grid_run(client, experiment, f"grid {i}", 2_000 + i, 3_000 + i)
    client.create_run(ids[0], start_time=10**9, run_name="a cell", tags={"kind": "kd"})
    first, *pages, others = what_to_open(client, "http://x")
    assert "resumed" in first
    assert [line.split()[-1] for line in pages] == [
        url for _, url in first_views("http://x", ids[0], resumed)
    ]
    assert "grid 4, grid 3, grid 2 and 2 more" in others


def test_a_database_without_grids(client: Any) -> None:
    (line,) = what_to_open(client, "http://x")
    assert "http" not in line
