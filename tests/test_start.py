"""The tutorial: docs/start.md, every command of it, on a few made-up images."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from helpers import ROOT, Output, Patch
from PIL import Image

from harness.cli import main
from harness.common.exit_status import OK, UNCONFIRMED
from harness.execute import local
from harness.execute.local import LocalExecutor
from harness.run import devices, estimate, grid
from harness.store import CellDir
from harness.train.cell import run_cell

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = {
    "teacher": {"depth": 10, "width": 1},
    "training": {"epochs": 1},
    "stage1": {"epochs": 1},
    "stage2": {"epochs": 1},
    "seeds": [0],
}


def write_images(folder: Path, classes: dict[str, int], n: int = 12) -> None:
    """Write images of 8x8 pixels, each class around a brightness of its own."""
    noise = np.random.default_rng(0).normal(0, 20, (n, 8, 8, 3))
    for name, brightness in classes.items():
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(noise + brightness, start=1):
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.jpg")


class InThisProcess(LocalExecutor):
    """An executor without processes: each would import torch, which takes longer than all else."""

    def warm_up(self, n: int) -> None:
        self.ended: list[tuple[Path, int]] = []

    def submit(self, directory: Path) -> None:
        status = run_cell(CellDir(directory), "cpu", None, self._arguments[1], lambda: False)
        self.ended.append((directory, status))

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        ended, self.ended = self.ended, []
        return ended


def call_directly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def test_every_command_of_the_tutorial(here: Path, monkeypatch: Patch, capsys: Output) -> None:
    blocks = BLOCK.findall((ROOT / "docs/start.md").read_text())
    (experiment,) = (yaml.safe_load(text) for language, text in blocks if language == "yaml")
    lines = [line for language, text in blocks if not language for line in text.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/harness ")]
    others = [line for line in lines if not line.startswith(".venv/bin/harness ")]
    assert others[0] == "make setup" and all(line.startswith("photos/") for line in others[1:])
    assert {"plan", "run", "tables", "verdicts"} <= {words[0] for words in commands}

    write_images(here / "photos", {"cats": 60, "dogs": 190})
    (here / "experiments").mkdir()
    experiment["dataset"]["image_size"] = 8
    (here / "experiments/photos.yaml").write_text(yaml.safe_dump(experiment | SHORT))
    monkeypatch.setattr(local, "LocalExecutor", InThisProcess)
    monkeypatch.setattr(grid, "start_tracking", lambda *trackers: [])
    for module in (devices, estimate, grid):
        monkeypatch.setattr(module, "in_child", call_directly)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # of this process
    for words in commands:
        expected = UNCONFIRMED if words[0] == "verdicts" else OK
        assert main(words) == expected, (words, capsys.readouterr())
    assert ",cats," in capsys.readouterr().out.splitlines()[-1], "the prediction for a cat"
    assert (here / "reports/photos.html").exists()
