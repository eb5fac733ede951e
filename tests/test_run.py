"""`harness run` with real processes: reuse, stopping, being killed, failing, running twice."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import (
    HANG,
    SLOW,
    Interrupted,
    Output,
    call,
    cells,
    end_processes_in,
    epochs_of,
    has_epochs,
    mlflow_client,
    one_error_line,
    processes_in,
    role,
    runs_in,
    snapshot,
    start,
    wait_until,
    weights,
    write_experiment,
)
from training import same_state

from harness.cli import main
from harness.store import CellDir, Store
from harness.store.teacher_cache import FOLDER, cached_files

OPTIONS = ("--no-bar", "--device", "cpu", "--jobs", "2")
KINDS = {"supervised", "kd", "stage1", "stage2"}


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an empty database, for runs in this process (which imports MLflow once)."""
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    end_processes_in(tmp_path)


def run_here(folder: Path, file: Path, *more: str, store: str = "runs") -> int:
    """`harness run` in this process. The path is absolute because its children start where this
    process did."""
    return main(["run", str(file), "--store", str(folder / store), *OPTIONS, *more])


def journal_is_sound(cell: CellDir, epochs: int) -> None:
    assert epochs_of(cell) == list(range(1, epochs + 1)), cell.events()
    assert cell.events()[-1]["event"] == "end"


# -- a finished run --------------------------------------------------------------------------------


def test_a_run_trains_every_cell(finished: Path) -> None:
    done = cells(finished)
    assert done.keys() == KINDS
    for cell in done.values():
        journal_is_sound(cell, 2)
        assert cell.manifest.attempts == 1
        left = {p.name for p in cell.path.iterdir()}
        assert {"cell.json", "journal.jsonl", "manifest.json", "model.pt"} <= left
        assert not {name for name in left if "checkpoint" in name or "tmp" in name}


def test_the_second_run_has_nothing_to_do(finished_copy: Path) -> None:
    before = snapshot(finished_copy)
    again = call(finished_copy, "run", "experiments/tiny.yaml", *OPTIONS)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stderr
    assert snapshot(finished_copy) == before, "it changed files"


def test_teacher_outputs_are_cached_and_freed(finished: Path, finished_copy: Path) -> None:
    store = finished_copy / "runs"
    kept = cached_files(store / FOLDER)
    assert {p.name for p in kept} == {"epoch-1", "epoch-2", "unaugmented"}
    assert {cell.options.teacher_cache for cell in cells(finished).values()} == {20 * 10**9}
    before = {p: d for p, d in snapshot(finished_copy).items() if FOLDER not in p}
    done = call(finished_copy, "gc")
    assert done.returncode == 0 and "0.2 MB " in done.stdout
    assert snapshot(finished_copy) == before
    options = ("--teacher-cache", "0", "--set", "kd.temperature=2")
    again = call(finished_copy, "run", "experiments/tiny.yaml", *OPTIONS, *options)
    assert again.returncode == 0 and not (store / FOLDER).exists()


def test_a_changed_setting_trains_only_what_depends_on_it(
    finished: Path, folder: Path, capsys: Output
) -> None:
    shutil.copytree(finished / "runs", folder / "runs")
    file = write_experiment(folder / "tiny.yaml")
    before = snapshot(folder / "runs")
    assert run_here(folder, file, "--set", "stage2.lambd=1") == 0
    out = capsys.readouterr().out
    assert "4 cells, 3 done before, 1 to train" in out
    end = out[out.index("tiny: 4 done, in ") :].splitlines()
    assert [line.split()[0] for line in end[3:7]] == ["Teacher", "Student", "KD", "ReFilled"]
    sets = f"{file} --set stage2.lambd=1 "
    assert [line.partition(sets)[0].strip() for line in end if sets in line] == [
        f"harness {command}" for command in ("tables --print", "report")
    ]
    after = snapshot(folder / "runs")
    assert not {p for p in before if before[p] != after[p] and "mlflow" not in p}


def test_a_run_on_two_devices(folder: Path, capsys: Output) -> None:
    """Two names of the CPU stand for two GPUs: other slots, the same cells."""
    file = write_experiment(folder / "tiny.yaml")
    line = ["run", str(file), "--store", str(folder / "runs"), "--no-bar", "--device"]
    assert main([*line, "cpu:0,cpu:1"]) == 0
    assert "4 to train with 2 jobs on cpu:0, cpu:1" in capsys.readouterr().out
    starts = {kind: [e for e in c.events() if "slot" in e] for kind, c in cells(folder).items()}
    slots = {kind: start["slot"] for kind, (start,) in starts.items()}
    assert slots.keys() == KINDS
    assert {slots["kd"], slots["stage1"]} == {"cpu:0", "cpu:1"}, "they wait for the teacher alone"
    assert main([*line, "cpu"]) == 0 and "nothing to do" in capsys.readouterr().out


# -- stopping and going on -------------------------------------------------------------------------


def clock_of_epochs(store: Path, limit: float, epochs: int, stopped: set[Path]) -> Iterator[float]:
    """A scheduler's clock: 0 at its start, then just before `limit`, and at `limit` once each cell
    is in its middle. So cells are stopped there, on a fast machine as on a slow one."""
    yield 0.0
    while True:
        n_epochs = {cell.path: len(cell.epochs()) for cell in Store(store).all()}
        middle = {path for path, n in n_epochs.items() if 0 < n < epochs} - stopped
        stopped.update(middle)
        yield limit if middle else limit - 0.05


def test_max_time_stops_and_the_next_call_ends_with_the_same_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_experiment(
        folder / "slow.yaml",
        SLOW,
        methods=["refilled"],
        training={"epochs": 8},
        stage1={"epochs": 8, "select_every": 2},
        stage2={"epochs": 8},
    )
    assert run_here(folder, file, store="whole") == 0

    stopped: set[Path] = set()
    statuses = []
    while not statuses or statuses[-1] == 3:
        assert len(statuses) < 20, statuses
        clock = clock_of_epochs(folder / "runs", 3600, 8, stopped)
        now = SimpleNamespace(monotonic=lambda clock=clock: next(clock))
        monkeypatch.setattr("harness.execute.scheduler.time", now)
        statuses.append(run_here(folder, file, "--max-time", "1h"))
    assert statuses[0] == 3 and statuses[-1] == 0, statuses

    attempts = 0
    for cell in cells(folder).values():
        journal_is_sound(cell, 8)
        attempts = max(attempts, cell.manifest.attempts)
        whole = CellDir(folder / "whole" / cell.path.name)
        assert cell.manifest.results == whole.manifest.results
        assert same_state(weights(cell), weights(whole))
    assert attempts > 1, "no cell was stopped in its middle: this test saw nothing"


def test_ctrl_c_ends_soon_and_leaves_no_process(interrupted: Interrupted) -> None:
    assert interrupted.status == 130
    assert interrupted.left == {}
    # Ctrl-C reaches the cells too; they leave it to the orchestrator, which asks them to stop.
    assert set(interrupted.last_events.values()) <= {"start", "stopped", "end"}
    assert max(map(len, interrupted.before.values())) >= 1
    assert min(map(len, interrupted.before.values())) < 12


def test_after_ctrl_c_the_next_call_goes_on(interrupted: Interrupted) -> None:
    assert interrupted.next_status == 0
    done = cells(interrupted.folder)
    assert done.keys() == KINDS
    for kind, cell in done.items():
        journal_is_sound(cell, 12 if kind in ("supervised", "kd") else 2)
    kept = interrupted.before["supervised"]
    assert epochs_of(done["supervised"])[: len(kept)] == kept
    assert done["supervised"].manifest.attempts == 2


def test_sigterm_ends_like_ctrl_c(folder: Path) -> None:
    file = write_experiment(folder / "slow.yaml", SLOW | {"training": {"epochs": 200}})
    process = start(folder, "run", str(file), *OPTIONS)
    assert wait_until(lambda: has_epochs(folder)), process.communicate()
    process.terminate()  # this process only, as `kill` and batch systems do
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 130, (out, err)
    assert wait_until(lambda: not processes_in(folder)), processes_in(folder)
    assert cells(folder)["supervised"].events()[-1]["event"] == "stopped"


def test_sigkill_leaves_no_orphan_and_the_next_call_goes_on(folder: Path) -> None:
    n_epochs = 60  # a cell of seconds: on a loaded machine the kill may come late
    file = write_experiment(
        folder / "slow.yaml", SLOW, methods=["plain"], training={"epochs": n_epochs}
    )
    process = start(folder, "run", str(file), *OPTIONS)
    assert wait_until(lambda: has_epochs(folder, 2)), process.communicate()
    process.kill()
    process.communicate()
    assert wait_until(lambda: not processes_in(folder)), processes_in(folder)
    (cell,) = cells(folder).values()
    seen = epochs_of(cell)
    assert not cell.is_done and 2 <= len(seen) < n_epochs
    with open(cell / "journal.jsonl", "a") as journal:
        journal.write('{"event":"epoch","epoch":99,"lo')  # as a power cut leaves it

    assert run_here(folder, file) == 0
    journal_is_sound(cell, n_epochs)
    assert cell.manifest.attempts == 2


# -- failing ---------------------------------------------------------------------------------------


def test_a_killed_cell_fails_alone_and_the_next_call_repairs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    file = write_experiment(folder / "slow.yaml", SLOW, stage1={"epochs": 2000})
    killed = []

    def kill_stage1() -> None:
        def pid() -> int | None:
            cell = cells(folder).get("stage1")
            text = (cell / "lease").read_text() if cell and cell.epochs() else ""
            found = re.search(r'"pid":(\d+)', text)
            return int(found[1]) if found else None

        wait_until(pid)
        killed.append(pid())
        os.kill(killed[0] or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_stage1)
    killer.start()
    status = run_here(folder, file)
    killer.join()
    output = capsys.readouterr()
    assert status == 1 and killed[0] != os.getpid()
    assert "2 done, 1 failed, 1 skipped" in output.out
    line = one_error_line(output.err)
    assert "stage1" in line and "killed by signal 9" in line and "log.txt" in line
    done = {kind for kind, cell in cells(folder).items() if cell.is_done}
    assert done == {"supervised", "kd"} and "stage2" not in cells(folder)

    # The repair, shorter: the first 2000 epochs would be another cell.
    partial = cells(folder)["stage1"]
    seen = len(epochs_of(partial))

    def until_it_went_on() -> float:
        return 3600.0 * (len(epochs_of(partial)) > seen)

    clock = SimpleNamespace(monotonic=until_it_went_on)
    monkeypatch.setattr("harness.execute.scheduler.time", clock)
    assert run_here(folder, file, "--max-time", "1h") == 3
    assert len(epochs_of(partial)) > seen
    assert epochs_of(partial) == list(range(1, len(epochs_of(partial)) + 1))


def test_a_diverging_cell_names_itself_and_its_log(folder: Path, capsys: Output) -> None:
    file = write_experiment(folder / "tiny.yaml")
    assert run_here(folder, file, "--set", "training.lr=1e9") == 1
    output = capsys.readouterr()
    line = one_error_line(output.err)
    assert "teacher wrn-10-1 s0" in line and "lower the learning rate" in line
    assert str(cells(folder)["supervised"] / "log.txt") in line
    assert "1 failed, 3 skipped" in output.out and "harness verdicts" not in output.out
    assert set(cells(folder)) == {"supervised"}, "children of a failed cell were prepared"


# -- twice at once ---------------------------------------------------------------------------------


@pytest.fixture
def twice(folder: Path) -> Iterator[Path]:
    file = write_experiment(folder / "tiny.yaml", training={"epochs": 6})
    both = [start(folder, "run", str(file), *OPTIONS) for _ in range(2)]
    outputs = [p.communicate(timeout=HANG) for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    yield folder
    assert not processes_in(folder)


def test_two_runs_at_once_train_every_cell_once(twice: Path) -> None:
    done = cells(twice)
    assert done.keys() == KINDS
    for kind, cell in done.items():
        journal_is_sound(cell, 6 if kind in ("supervised", "kd") else 2)
        assert cell.manifest.attempts == 1
    runs = runs_in(mlflow_client(twice), "tiny")
    assert sorted(role(r) for r in runs) == ["grid", "kd", "stage1", "stage2", "teacher"]
    assert {r.info.status for r in runs} == {"FINISHED"}
