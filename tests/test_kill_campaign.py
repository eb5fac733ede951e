"""The kill campaign in small; `make kills` runs all of it."""

import shutil
from pathlib import Path

import pytest
from kill_campaign import campaign


def test_three_kills_leave_no_fault(
    finished_copy: Path, empty_database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_database, finished_copy / "empty.db")
    kills = {"run": 1, "tables": 1, "repair": 1}
    assert campaign(finished_copy, tmp_path, kills, seed=1) == 0, capsys.readouterr().out
    assert "3 kills, 3 resumed, 0 faults" in capsys.readouterr().out
