"""The lines of a terminal say what MLflow and the tables say."""

import io
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Output, some_manifest
from rich.console import Console
from training import tiny

from harness.execute.scheduler import begin
from harness.plan import Plan
from harness.run import session
from harness.run.display import Epochs, LiveDisplay, Pace, ended_line, running_row
from harness.run.session import BackgroundSync
from harness.store import CellDir


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [("strict", "stage1/ncm_train_centers 86.60 %"), ("legacy", "stage1/ncm_eval_centers 87.10 %")],
)
def test_the_form_is_the_one_that_the_protocol_goes_by(
    tmp_path: Path, protocol: str, shown: str
) -> None:
    grid = tiny(tmp_path, "methods=[refilled]", f"protocol={protocol}")
    directory, fingerprint = grid.directory("stage1"), grid.cell("stage1").fingerprint
    values = {"ncm_train_centers": 0.866, "ncm_eval_centers": 0.871}
    reported = grid.plan.experiment.protocol.reported
    line: dict[str, Any] = {f"validation/{name}": v for name, v in values.items()}
    directory.append(
        "epoch", epoch=1, seconds=1.0, images_per_second=9.0, **{"loss/total": 1.0}, **line
    )
    progress = begin(grid.plan, grid.store)
    row = running_row(progress, fingerprint)
    assert row["epoch"] == "1/3" and row["accuracy"] == f"{shown.split()[1]} % validation"
    directory.finish(some_manifest(results={k: {reported: v} for k, v in values.items()}))
    progress.move(fingerprint, "done")
    assert shown in ended_line(progress, fingerprint)


# -- the live table --------------------------------------------------------------------------------


def epoch(directory: CellDir, n: int, seconds: float) -> None:
    line: dict[str, Any] = {"loss/total": 1.0, "validation/accuracy": 0.5}
    directory.append("epoch", epoch=n, seconds=seconds, images_per_second=1234.0, **line)


def test_the_time_left_is_that_of_the_cells_that_are_left(tmp_path: Path) -> None:
    """A slow teacher says nothing of what its students take; a running cell of their kind does."""
    grid = tiny(tmp_path, "methods=[plain, kd]", "teacher={depth: 10, width: 2}")
    progress = begin(grid.plan, grid.store)
    pace = Pace(progress)
    assert pace.look().seconds_left is None
    teacher, plain, kd = progress.plan.cells
    progress.move(teacher, "running")
    grid.store.prepare(progress.plan.cells[teacher])
    epoch(progress.directory(teacher), 1, 30.0)
    assert pace.look().seconds_left == pytest.approx(2 * 30 + 3 * 30 + 3 * 30), "all that is known"
    progress.directory(teacher).finish(some_manifest(seconds=90.0, epochs=3))
    progress.move(teacher, "done")
    for fingerprint, seconds in ((plain, 2.0), (kd, 4.0)):
        grid.store.prepare(progress.plan.cells[fingerprint])
        progress.move(fingerprint, "running")
        epoch(progress.directory(fingerprint), 1, seconds)
    assert pace.look().seconds_left == pytest.approx((2 * 2.0 + 2 * 4.0) / 2), "two at once"
    progress.move(kd, "failed")
    assert pace.look().seconds_left == pytest.approx(2 * 2.0)


def drawn(display: LiveDisplay, monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    console = Console(width=columns, record=True, file=io.StringIO())
    monkeypatch.setattr(display, "console", console)
    console.print(display.render())
    return console.export_text().splitlines()


def test_the_live_table_fits_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = tiny(tmp_path, "methods=[{method: refilled, stage1: {tau1: 2}, stage2: {lambd: 7}}]")
    progress = begin(grid.plan, grid.store)
    for fingerprint, cell in progress.plan.cells.items():
        grid.store.prepare(cell)
        progress.move(fingerprint, "running")
        epoch(progress.directory(fingerprint), 1, 1.0)
    lines = drawn(LiveDisplay(progress), monkeypatch, columns=80)
    assert len(lines) == 3 + len(progress.plan.cells), "a line per cell"
    assert max(map(len, lines)) <= 80 and "50.00 % validation" in lines[1] and "…" in lines[2]
    assert "3/9 epochs" in lines[-2] and "ETA" in lines[-2]
    narrow = drawn(LiveDisplay(progress), monkeypatch, columns=50)
    assert max(map(len, narrow)) <= 50 and narrow[1].startswith("teacher wrn-10-1 s0")
    assert "1/3" in narrow[1] and "validation" not in narrow[1]


def test_the_bar_counts_the_epochs_of_cells_that_can_be_trained(tmp_path: Path) -> None:
    grid = tiny(tmp_path, "methods=[plain, kd]", "teacher={depth: 10, width: 2}")
    progress = begin(grid.plan, grid.store)
    teacher, plain, kd = progress.plan.cells
    assert Pace(progress).look() == Epochs(0, 9, None)
    grid.store.prepare(progress.plan.cells[teacher])
    progress.directory(teacher).finish(some_manifest(seconds=3.0, epochs=3))
    before = begin(grid.plan, grid.store)
    assert Pace(before).look() == Epochs(3, 9, None), "what was done before counts"
    progress.move(teacher, "done")
    grid.store.prepare(progress.plan.cells[plain])
    progress.move(plain, "running")
    epoch(progress.directory(plain), 1, 2.0)
    look = Pace(progress).look()
    assert (look.trained, look.total) == (4, 9)
    progress.move(kd, "failed")
    look = Pace(progress).look()
    assert (look.trained, look.total) == (4, 6)


def test_a_grid_without_cells_yet_shows_no_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a tuning begins, before its first batch is planned."""
    grid = tiny(tmp_path, "methods=[plain]")
    empty = begin(Plan(grid.plan.experiment, {}, ()), grid.store)
    assert not re.search(r"\d", "".join(drawn(LiveDisplay(empty), monkeypatch, columns=80)))


def test_a_long_end_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    class Slow:
        server = SimpleNamespace(name="MLflow", address="http://x", asked=None, is_open=True)
        remedy = "it"

        def connect(self) -> None: ...
        def sync(self) -> int:
            return 0

        def close(self, finished: bool) -> None: ...

    for limit, said in ((0.2, "sending to MLflow at http://x ..\n"), (1e6, "")):
        monkeypatch.setattr(session, "NOTICE_SECONDS", limit)
        tracker: Any = Slow()
        sync = BackgroundSync(tracker)
        sync.start()
        sync.finish(lambda: time.sleep(0.7))
        assert capsys.readouterr().out == said
