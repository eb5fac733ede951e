"""Weights & Biases: one project per experiment, one group per grid, one run per cell."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UserError, one_line
from harness.common.redaction import without_password
from harness.track.environment import require_package
from harness.track.mirror import EpochMetrics, Run, Sink

if TYPE_CHECKING:
    import wandb

MODE, ONLINE, OFFLINE = "WANDB_MODE", "online", "offline"
END_SECONDS = 60.0  # until the whole run has arrived
# Settings of one run, which a sweep or a script around the command leaves in the environment. A
# command has many runs, whose settings are their cells'.
OF_ONE_RUN = re.compile(
    "WANDB_(RUN|SWEEP|RESUME|FORK|LAUNCH|CONFIG_PATHS|PROJECT|NAME|NOTES|TAGS|JOB|DIR|PROGRAM)"
)
DEFAULTS = {
    "WANDB_SILENT": "true",  # W&B would print between the lines of the display
    "WANDB_INIT_TIMEOUT": "30",  # seconds until a run is open; training does not wait for it
}


@contextlib.contextmanager
def _without_a_run() -> Iterator[None]:
    """Hide from W&B what the environment says about one run."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if OF_ONE_RUN.match(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


class WandB(Sink):
    """The runs of Weights & Biases.

    Users choose where they go as usual: by WANDB_API_KEY or `wandb login`, WANDB_BASE_URL,
    WANDB_ENTITY and WANDB_MODE=offline.
    """

    name = "W&B"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.mode = os.environ.get(MODE, ONLINE)
        self.address = OFFLINE
        self._runs: dict[str, wandb.Run] = {}

    def check(self) -> None:
        """Check the package, its mode and its API key, without a network.

        Raises:
            UserError: One of them is missing or wrong.
        """
        require_package("wandb", "--tracker")
        if self.mode not in (ONLINE, OFFLINE):
            raise UserError(f"{MODE}: {self.mode!r} sends nothing; use {ONLINE} or {OFFLINE}")
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import wandb

        try:
            with _without_a_run():
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

    def send(self, run: Run, epochs: Sequence[EpochMetrics]) -> None:
        """Log further epochs; the training's own time is one of the numbers."""
        opened = self._opened(run)
        for epoch, when, metrics in epochs:
            opened.log({**metrics, "time": max(0.0, when - run.started)}, step=epoch)

    def end(self, run: Run, status: str, results: EpochMetrics | None) -> None:
        """Write the status and the results into the run's summary, and finish the run."""
        final = {} if results is None else results.metrics
        self._opened(run).summary.update({**final, "status": status})
        self._close(run.key, exit_code=0 if status == "FINISHED" else 1)

    def close(self) -> None:
        """Finish the runs that are still open."""
        for key in list(self._runs):
            self._close(key, exit_code=1)

    def _close(self, key: str, exit_code: int) -> None:
        self._runs.pop(key).finish(exit_code=exit_code)

    def _opened(self, run: Run) -> wandb.Run:
        if run.key not in self._runs:
            import wandb

            config: dict[str, Any] = {**run.tags, **run.config}
            with _without_a_run():
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


SINK = WandB
