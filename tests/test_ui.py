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

from harness.track import ui
from harness.track.grid_run import CURVES
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
    first, *lines = what_to_open(client, "http://x")
    assert "resumed" in first
    own = [url for _, url in first_views("http://x", ids[0], resumed)]
    assert [line.split()[-1] for line in lines[:3]] == own
    assert "2 more" in lines[3]
    names = [f"grid {i}" for i in range(MAX_OTHERS + 1, 1, -1)]
    assert [line.rpartition(" ")[0].strip() for line in lines[4:]] == names
    cells = {url.rpartition("viewStateShareKey=")[0] for url in own[:1]}
    assert not cells & {line.split()[-1] for line in lines[4:]}, "each leads to its own cells"
    assert all("#/experiments/" in line and "=cells-" in line for line in lines[4:])


def test_the_pages_of_a_grid_are_all_listed(client: Any) -> None:
    run = grid_run(client, client.create_experiment("e"), "grid", 1_000, 2_000)
    client.set_tag(run, CURVES, '["shots 5", "shots 20"]')
    lines = what_to_open(client, "http://x")
    assert ["curves, shots 5" in line for line in lines].count(True) == 1
    assert len(lines) == 5 and lines[3].split()[:3] == ["curves,", "shots", "20"]


def test_the_first_page_can_be_opened(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    grid_run(client, client.create_experiment("e"), "grid", 1_000, 2_000)
    opened: list[str] = []
    monkeypatch.setattr(ui.webbrowser, "open", lambda url: opened.append(url) is None)
    monkeypatch.setattr(ui, "_client", lambda uri: client)
    assert ui.print_pages("http://x", opens=False) == 0 and not opened
    assert ui.print_pages("http://x", opens=True) == 0
    assert len(opened) == 1 and opened[0] in capsys.readouterr().out and "=cells-" in opened[0]


def test_a_database_without_grids(client: Any) -> None:
    (line,) = what_to_open(client, "http://x")
    assert "http" not in line
