"""`harness ablate`: the grids of all steps from legacy to strict, trained one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from harness.experiment.ablation import FIRST, LAST, Step, left_out
from harness.experiment.experiment import Experiment
from harness.run.grid import run_experiment
from harness.run.options import RunOptions
from harness.run.session import OK


def run_steps(
    own: Experiment,
    steps: Sequence[Step],
    experiments: Sequence[Experiment],
    options: RunOptions,
) -> int:
    """Train what is missing of every step; the exit status. A cell that a switch does not touch is
    one cell of both steps, trained once. What fails or stops ends the ablation: the same command
    goes on there.

    Args:
        own: the file's. experiments: of the steps.
        options: `max_seconds` is for all steps together.

    Raises:
        UserError: wrong input.
    """
    for switch in left_out(own.protocol):
        print(f"note: protocol.{switch} is left out: the steps go from {FIRST} to {LAST}")
    started = time.monotonic()
    for number, (step, experiment) in enumerate(zip(steps, experiments, strict=True), 1):
        print(f"step {number} of {len(steps)}: {step.label}", flush=True)
        passed = time.monotonic() - started
        limit = None if options.max_seconds is None else max(0.0, options.max_seconds - passed)
        status = run_experiment(experiment, replace(options, max_seconds=limit))
        if status != OK:
            return status
    return OK
