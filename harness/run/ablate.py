"""`harness ablate`: the grids of all steps from legacy to strict, trained one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from harness.common.exit_status import OK
from harness.experiment.ablation import FIRST, LAST, Step, left_out
from harness.experiment.experiment import Experiment
from harness.run.grid import run_experiment
from harness.run.options import RunOptions


def run_steps(
    experiment: Experiment,
    steps: Sequence[Step],
    experiments: Sequence[Experiment],
    options: RunOptions,
) -> int:
    """Train the missing cells of every step.

    A cell that a switch does not affect belongs to both steps and is trained once. The ablation
    ends with the first step that fails or stops; rerunning the command resumes there.
    `options.max_seconds` limits all steps together.

    Returns:
        The exit status (harness.common.exit_status).

    Raises:
        UserError: Wrong input.
    """
    for switch in left_out(experiment.protocol):
        print(f"note: protocol.{switch} is left out: the steps go from {FIRST} to {LAST}")
    started = time.monotonic()
    for number, (step, step_experiment) in enumerate(zip(steps, experiments, strict=True), 1):
        print(f"step {number} of {len(steps)}: {step.label}", flush=True)
        elapsed = time.monotonic() - started
        limit = None if options.max_seconds is None else max(0.0, options.max_seconds - elapsed)
        status = run_experiment(step_experiment, replace(options, max_seconds=limit))
        if status != OK:
            return status
    return OK
