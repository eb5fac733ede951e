"""The lines of a terminal say what MLflow and the tables say."""

from pathlib import Path
from typing import Any

import pytest
from training import tiny

from harness.execute.scheduler import begin
from harness.run.display import ended_line, running_row


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [
        ("strict", "stage1/ncm_train_centers 86.60 %"),
        ("legacy", "stage1/ncm_eval_centers 87.10 %"),
    ],
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
    assert row[1:3] == ["1/3", f"{shown.split()[1]} % validation"]
    directory.finish({"results": {k: {reported: v} for k, v in values.items()}, "seconds": 1.0})
    progress.move(fingerprint, "done")
    assert shown in ended_line(progress, fingerprint)
