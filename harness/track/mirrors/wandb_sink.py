"""Weights & Biases: a project an experiment, a group a grid, a run a cell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UserError, one_line
from harness.common.redaction import without_password
from harness.track.mirrors.mirror import Line, Run

if TYPE_CHECKING:
    import wandb

MODE, ONLINE, OFFLINE = "WANDB_MODE", "online", "offline"
END_SECONDS = 60.0  # until all of a run has arrived
DEFAULTS = {
    "WANDB_SILENT": "true",  # it prints between the lines of the display
    "WANDB_INIT_TIMEOUT": "30",  # seconds until a run is open; training does not wait for it
}


class WandB:
    """A `Sink`. Where the runs go is said as W&B's users know it: WANDB_API_KEY or `wandb login`,
    WANDB_BASE_URL, WANDB_ENTITY, WANDB_MODE=offline."""

    name = "W&B"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mode = os.environ.get(MODE, ONLINE)
        self.address = OFFLINE
        self._runs: dict[str, wandb.Run] = {}

    def check(self) -> None:
        if self.mode not in (ONLINE, OFFLINE):
            raise UserError(f"{MODE}: {self.mode!r} sends nothing; use {ONLINE} or {OFFLINE}")
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import wandb

        try:
            base = wandb.setup().settings.base_url
            is_known = self.mode == OFFLINE or wandb.login(prompt=False, verify=False)
        except Exception as error:
            raise UserError(f"--tracker: wandb: {one_line(error)}; correct it") from None
        if not is_known:
            raise UserError(
                "--tracker: wandb has no API key; run `wandb login`, or set WANDB_MODE=offline and "
                "send the runs later with `wandb sync`"
            )
        if self.mode == ONLINE:
            self.address = without_password(base)

    def send(self, run: Run, lines: Sequence[Line]) -> None:
        opened = self._opened(run)
        for line in lines:
            # Its own time is that of sending; the training's is a number like the others.
            opened.log({**line.metrics, "time": line.time - run.started}, step=line.epoch)

    def end(self, run: Run, status: str, results: Line | None) -> None:
        final = {} if results is None else results.metrics
        self._opened(run).summary.update({**final, "status": status})
        self._close(run.key, exit_code=0 if status == "FINISHED" else 1)

    def close(self) -> None:
        for key in list(self._runs):
            self._close(key, exit_code=1)

    def _close(self, key: str, exit_code: int) -> None:
        self._runs.pop(key).finish(exit_code=exit_code)

    def _opened(self, run: Run) -> wandb.Run:
        if run.key not in self._runs:
            import wandb

            config: dict[str, Any] = {**run.tags, **run.spec}
            self._runs[run.key] = wandb.init(
                project=run.experiment,
                group=run.group,
                id=run.key,
                name=run.name,
                job_type=run.tags["stage"],
                config=config,
                dir=str(self.root),
                resume=None if self.mode == OFFLINE else "allow",
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,  # the cell's own commit is what counts
                    disable_code=True,
                    save_code=False,
                    x_disable_stats=True,  # this process does not train
                    x_disable_machine_info=True,
                    finish_timeout=END_SECONDS,
                    finish_timeout_raises=True,
                ),
            )
        return self._runs[run.key]


def sink(root: Path) -> WandB:
    """root: of the store."""
    return WandB(root)
