"""The record of what MLflow has received, which is read without asking MLflow."""

import json
from pathlib import Path

import pytest

from harness.cell import Cell, CellConfig, CellData
from harness.common.errors import UserError
from harness.experiment.file import parse
from harness.networks.wide_resnet import WideResNetOptions
from harness.store import CellDir, Store
from harness.track import sync_state
from harness.track.sync_state import SyncState


@pytest.fixture
def trained(tmp_path: Path) -> CellDir:
    config = CellConfig(data=CellData(digest=""), network=WideResNetOptions(depth=10, width=1))
    directory = Store(tmp_path).prepare(Cell("kd", config))
    directory.append("start")
    directory.append("epoch", epoch=1)
    return directory


def started(directory: CellDir) -> str:
    return str(sync_state.current_training(directory)[0]["time"])


def test_the_run_on_this_server_comes_first(trained: CellDir) -> None:
    path, now = trained / sync_state.SYNC_FILE, started(trained)
    assert sync_state.find_run_id(trained, "digits", "grid", "here") is None
    for key, run in (("there digits grid", "b"), ("here digits grid", "c"), ("a digits old", "d")):
        sync_state.record_sent(path, key, SyncState(run_id=run, started=now, parent="p"))
    assert sync_state.find_run_id(trained, "digits", "grid", "here") == "c"
    # Pointed at a server that knows nothing of it, a bundle keeps its ids: same grid before others.
    assert sync_state.find_run_id(trained, "digits", "grid", "elsewhere") in ("b", "c")
    assert sync_state.find_run_id(trained, "digits", "new", "elsewhere") in ("b", "c", "d")
    assert sync_state.find_run_id(trained, "other", "grid", "here") is None


def test_a_run_of_an_earlier_training_does_not_count(trained: CellDir) -> None:
    sent = SyncState(run_id="a", started=started(trained))
    sync_state.record_sent(trained / sync_state.SYNC_FILE, "here digits grid", sent)
    assert sync_state.find_run_id(trained, "digits", "grid", "here") == "a"
    trained.append("start")
    trained.append("epoch", epoch=1)  # anew, as its checkpoint was lost
    assert sync_state.find_run_id(trained, "digits", "grid", "here") is None


@pytest.mark.parametrize("content", ["", "{", "[1]", "7"])
def test_a_broken_file_is_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "mlflow.json").write_text(content)
    assert sync_state.read_sync_states(tmp_path / "mlflow.json") == {}


def test_broken_entries_are_left_out_and_whole_ones_written_as_they_were(tmp_path: Path) -> None:
    path, whole = tmp_path / "mlflow.json", {"lines": 0, "run_id": "a", "status": "RUNNING"}
    broken = {"b": {"lines": "1"}, "c": {"lines": True}, "d": {"run_id": 1}, "e": [], "f": None}
    path.write_text(json.dumps({"a": whole, **broken}))
    sync_state.record_sent(path, "g", SyncState(parent="p", cells="c"))
    assert json.loads(path.read_text()) == {"a": whole, "g": {"parent": "p", "cells": "c"}}


def test_reading_an_experiment_asks_no_server() -> None:
    raw = {"name": "x", "dataset": "digits", "teacher": "models:/x@teacher"}
    raw |= {"students": [{"network": "wide_resnet", "depth": 10, "width": 1}]}
    with pytest.raises(UserError, match="models:/x@teacher"):
        parse(raw)
