"""Journals -> TensorBoard and W&B: complete, repeatable, and never in the way of a training."""

import json
import re
import shutil
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    ROOT,
    call,
    cells,
    one_error_line,
    refusal,
    snapshot,
    wait_until,
    write_experiment,
)

from harness.cli import main
from harness.experiment.file import read
from harness.run import session
from harness.run.grid import plan_of
from harness.store import CellDir, Store
from harness.track import mirrors
from harness.track.mirror import EpochMetrics, Mirror, Run, Sink
from harness.track.run_fields import epoch_metrics

FILE = "experiments/tiny.yaml"


@pytest.fixture
def folder(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished store, this process beside it, and no account of W&B."""
    monkeypatch.chdir(finished_copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished_copy / 'mlflow.db'}")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(finished_copy / "no-netrc"))
    return finished_copy


class Recorder(Sink):
    """A sink that records what it is told, or refuses it."""

    name, address = "Recorder", "here"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.lines: dict[str, list[EpochMetrics]] = {}
        self.ended: dict[str, tuple[str, dict[str, float]]] = {}
        self.runs: dict[str, Run] = {}

    def send(self, run: Run, lines: Sequence[EpochMetrics]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody there")
        self.runs[run.key] = run
        self.lines.setdefault(run.key, []).extend(lines)

    def end(self, run: Run, status: str, results: Any) -> None:
        self.ended[run.key] = status, dict(results.metrics) if results else {}


def mirror_of(folder: Path, sink: Recorder) -> Mirror:
    return Mirror(plan_of(read(folder / FILE)), Store(folder / "runs"), sink, "kept")


def rewrite(cell: CellDir, events: list[dict[str, Any]]) -> None:
    (cell / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


# -- what is sent ----------------------------------------------------------------------------------


def test_every_epoch_and_result_of_every_cell_is_sent_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Recorder()
    assert mirror_of(folder, sink).sync() == 4
    for kind, cell in cells(folder).items():
        fingerprint = cell.path.name
        (key,) = [k for k, r in sink.runs.items() if r.tags["fingerprint"].startswith(fingerprint)]
        assert [line.epoch for line in sink.lines[key]] == [1, 2]
        for line, event in zip(sink.lines[key], cell.epochs(), strict=True):
            assert (line.time, line.metrics) == (event["time"], epoch_metrics(event))
            assert "lr" in line.metrics and "epoch" not in line.metrics
        status, results = sink.ended[key]
        assert status == "FINISHED"
        final = cell.manifest.results
        name = "ncm_train_centers" if kind == "stage1" else "accuracy"
        assert results[f"test_{'ncm' if kind == 'stage1' else 'accuracy'}"] == pytest.approx(
            final[name]["selected"], abs=1e-4
        )
        assert sink.runs[key].started == cell.events()[0]["time"]
    kd = next(run for run in sink.runs.values() if run.tags["method"] == "kd")
    assert kd.name == "kd wrn-10-1 s0" and kd.tags["student"] == "wrn-10-1"
    assert kd.config["kd.temperature"] and kd.group.startswith("tiny-")
    other = Recorder()
    again = mirror_of(folder, other)
    assert again.sync() == 0 and not other.runs
    monkeypatch.setattr(CellDir, "events", lambda self: pytest.fail("read once more"))
    assert again.sync() == 0, "of a finished cell nothing is read again and again"


def test_a_run_goes_on_where_it_was(folder: Path) -> None:
    """The journal has grown since the last sync, or its status has changed."""
    cell, sink = cells(folder)["kd"], Recorder()
    events, manifest = cell.events(), cell / "manifest.json"
    kept = manifest.read_bytes()
    manifest.unlink()
    rewrite(cell, events[:2])  # start, first epoch
    assert mirror_of(folder, sink).sync() == 4
    (key,) = [k for k, run in sink.runs.items() if run.tags["method"] == "kd"]
    assert sink.ended[key] == ("KILLED", {})
    rewrite(cell, events)
    manifest.write_bytes(kept)
    assert mirror_of(folder, sink).sync() == 1
    assert [line.epoch for line in sink.lines[key]] == [1, 2]
    assert sink.ended[key][0] == "FINISHED"


def test_a_training_that_began_anew_is_another_run(folder: Path) -> None:
    cell, sink = cells(folder)["kd"], Recorder()
    assert mirror_of(folder, sink).sync() == 4
    rewrite(cell, [event | {"time": event["time"] + 10} for event in cell.events()])
    assert mirror_of(folder, sink).sync() == 1
    keys = [k for k, run in sink.runs.items() if run.tags["method"] == "kd"]
    assert len(keys) == 2 and all(len(sink.lines[key]) == 2 for key in keys)


def test_what_somebody_deleted_is_sent_again(folder: Path) -> None:
    sink = Recorder()
    mirror_of(folder, sink).sync()
    (place,) = (folder / "runs" / "kept").glob("*/kd_*")
    shutil.rmtree(place)
    assert mirror_of(folder, Recorder()).sync() == 1


@pytest.mark.parametrize("failures", [1, 10_000])
def test_a_tracker_that_fails_is_one_warning(
    failures: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SYNC_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(session, name, 0.01)
    monkeypatch.setattr(session.time, "sleep", lambda _: None)
    sink = Recorder(failures)
    (sync,) = session.start_tracking(mirror_of(folder, sink))
    assert wait_until(lambda: sink.failures < failures)
    sync.finish(lambda: session.finish_tracking(sync, True))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("warning: Recorder at here ") and "nobody there" in line
    assert "harness sync" in line and "--tracker kept" in line
    assert len(sink.ended) == (4 if failures == 1 else 0)


# -- which trackers --------------------------------------------------------------------------------


TOY = """
from harness.track.mirror import Sink


class Toy(Sink):
    name, address = "Toy", "a text file"

    def send(self, run, epochs):
        with open(run.folder / "toy.txt", "a") as file:
            file.writelines(f"{epoch} {metrics['lr']}\\n" for epoch, _, metrics in epochs)

    def end(self, run, status, results):
        (run.folder / "end.txt").write_text(f"{status} {sorted(results.metrics)[0]}")


SINK = Toy
"""


def test_a_new_tracker_is_one_file_that_needs_no_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "toy.py").write_text(TOY)
    monkeypatch.setattr(mirrors, "__path__", [*mirrors.__path__, str(folder / "plugins")])
    assert mirrors.tracker_names() == ["tensorboard", "toy", "wandb"]
    assert main(["sync", FILE, "--tracker", "toy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 cells sent to Toy"
    (place,) = (folder / "runs/toy").glob("*/kd_*")
    rows = [f"{line['epoch']} {line['lr']}" for line in cells(folder)["kd"].epochs()]
    assert (place / "toy.txt").read_text().splitlines() == rows
    assert (place / "end.txt").read_text() == "FINISHED kd/test_accuracy"


def test_an_unknown_tracker(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "run", FILE, "--tracker", "tensorbord")
    assert line.startswith("error: --tracker: ") and "'tensorboard'" in line


def test_a_tracker_whose_package_is_missing_names_an_extra_of_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    before = snapshot(folder)
    for name in mirrors.tracker_names():
        monkeypatch.setitem(sys.modules, name, None)
        line = refusal(capsys, "run", FILE, "--tracker", name)
        (extra,) = re.findall(r"refilled-harness\[(.+)\]", line)
        assert line.startswith("error: --tracker: ") and extra in project["optional-dependencies"]
    assert snapshot(folder) == before


# -- TensorBoard -----------------------------------------------------------------------------------


def scalars(place: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Return (step, value, time) by name, as TensorBoard would show a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(place), size_guidance={"scalars": 0})
    found.Reload()
    names = found.Tags()["scalars"]
    return {n: [(e.step, e.value, e.wall_time) for e in found.Scalars(n)] for n in names}


def test_tensorboard_shows_the_journal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", FILE, "--tracker", "tensorboard"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 cells sent to TensorBoard"
    places = {p.name.partition("_")[0]: p for p in (folder / "runs/tensorboard").glob("*/*_*")}
    assert len(places) == 3, "stages of refilled, kd, and the teacher"
    shown, cell = scalars(places["kd"]), cells(folder)["kd"]
    for event in cell.epochs():
        for name, value in epoch_metrics(event).items():
            (point,) = [p for p in shown[name] if p[0] == event["epoch"]]
            assert point[1] == pytest.approx(value, rel=1e-6) and point[2] == event["time"]
    (final,) = shown["test_accuracy"]
    assert (final[0], final[2]) == (2, cell.events()[-1]["time"])
    assert final[1] == pytest.approx(cell.manifest.results["accuracy"]["selected"], abs=1e-4)
    text = b"".join(p.read_bytes() for p in places["kd"].glob("events.*"))
    for word in (b"_hparams_/experiment", b"kd.temperature", b"wrn-10-1"):
        assert word in text

    before = snapshot(folder / "runs/tensorboard")
    assert main(["run", FILE, "--tracker", "tensorboard"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert snapshot(folder / "runs/tensorboard") == before
    shutil.rmtree(places["kd"])
    assert main(["sync", FILE, "--tracker", "tensorboard"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 cells sent to TensorBoard"
    assert scalars(places["kd"]) == shown


def test_tensorboard_forgets_a_training_that_another_one_replaces(folder: Path) -> None:
    assert main(["sync", FILE, "--tracker", "tensorboard"]) == 0
    cell = cells(folder)["kd"]
    rewrite(cell, [event | {"time": event["time"] + 10} for event in cell.events()])
    assert main(["sync", FILE, "--tracker", "tensorboard"]) == 0
    (place,) = (folder / "runs/tensorboard").glob("*/kd_*")
    times = {p[2] for p in scalars(place)["lr"]}
    assert times == {event["time"] for event in cell.epochs()}


def test_run_sends_while_it_trains(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path)
    write_experiment(tmp_path / "tiny.yaml", methods=["plain"], training={"epochs": 1})
    done = call(
        tmp_path, "run", "tiny.yaml", "--no-bar", "--device", "cpu", "--tracker", "tensorboard"
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    (place,) = (tmp_path / "runs/tensorboard").glob("*/*_*")
    assert [p[0] for p in scalars(place)["lr"]] == [1]


# -- W&B -------------------------------------------------------------------------------------------


def chunks(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file of W&B: LevelDB's log format after a header of seven bytes."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # the rest of a block that no header fits in
            position += 32768 - position % 32768
            continue
        size, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def records(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """Return the records that W&B would send: offline run -> kind -> records."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[str, list[Any]]] = {}
    for file in sorted((folder / "runs/wandb").glob("offline-run-*/*.wandb")):
        of_run = found.setdefault(file.stem.removeprefix("run-"), {})
        for data in chunks(file.read_bytes()):
            record = Record.FromString(data)
            kind = record.WhichOneof("record_type")
            of_run.setdefault(kind, []).append(getattr(record, kind))
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


# Each sync gets its own process, for whose whole life W&B keeps its settings and a server.
def sync_to_wandb(folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return call(folder, "sync", FILE, "--tracker", "wandb", **env)


SWEEP = {
    f"WANDB_{name}": "other" for name in ("RUN_ID", "SWEEP_ID", "NAME", "RUN_GROUP", "PROJECT")
}


def test_wandb_has_the_journal(folder: Path) -> None:
    done = sync_to_wandb(folder, WANDB_MODE="offline", WANDB_RESUME="must", **SWEEP)
    assert done.stdout.splitlines()[-1] == "4 cells sent to W&B" and not done.stderr, done
    cell, found = cells(folder)["kd"], records(folder)
    assert len(found) == 4
    (of_run,) = [v for k, v in found.items() if k.startswith(cell.path.name)]
    run = of_run["run"][0]
    assert (run.project, run.display_name) == ("tiny", "kd wrn-10-1 s0")
    assert run.run_group.startswith("tiny-") and run.job_type == "kd"
    config = values(run.config.update)
    assert config["method"] == "kd" and config["kd.temperature"] == 4.0
    for row, event in zip(of_run["history"], cell.epochs(), strict=True):
        shown = values(row.item)
        assert shown["_step"] == event["epoch"]
        assert all(shown[k] == pytest.approx(v) for k, v in epoch_metrics(event).items())
    summary = {k: v for part in of_run["summary"] for k, v in values(part.update).items()}
    final = cell.manifest.results["accuracy"]["selected"]
    assert summary["test_accuracy"] == pytest.approx(final, abs=1e-4)
    assert summary["status"] == "FINISHED"
    again = sync_to_wandb(folder, WANDB_MODE="offline")
    assert again.stdout.splitlines()[-1] == "0 cells sent to W&B"


def test_wandb_that_is_turned_off(folder: Path) -> None:
    done = sync_to_wandb(folder, WANDB_MODE="disabled")
    assert done.returncode == 2 and one_error_line(done.stderr).startswith("error: WANDB_MODE: ")


def test_wandb_without_a_key(folder: Path) -> None:
    before = snapshot(folder / "runs")
    done = sync_to_wandb(folder)
    line = one_error_line(done.stderr)
    assert line.startswith("error: --tracker: ") and "WANDB_MODE=offline" in line
    assert done.returncode == 2 and snapshot(folder / "runs") == before


def test_wandb_that_does_not_answer(folder: Path) -> None:
    key = "0123456789" * 4
    done = sync_to_wandb(
        folder, WANDB_API_KEY=key, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_INIT_TIMEOUT="2"
    )
    line = one_error_line(done.stderr)
    assert line.startswith("error: --tracker: ") and "http://127.0.0.1:9" in line
    assert done.returncode == 2 and key not in line
