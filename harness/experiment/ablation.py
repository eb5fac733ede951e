"""The protocols between `legacy-2021` and `strict`, one switch at a time and with the same images.

`train_on` is no step: more training images are worth something of their own, which is neither the
leak nor a choice of epochs. Every step trains on `train` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.experiment.experiment import Experiment
from harness.experiment.protocol import PRESETS, Protocol

FIRST, LAST = "legacy-2021", "strict"
FIXED = "train_on"  # as strict has it, in every step
# In the order of the presets.
SWITCHES = tuple(
    s for s, value in PRESETS[LAST].items() if PRESETS[FIRST][s] != value and s != FIXED
)
KEPT = ("evaluate_every",)  # the file's own value, in every step
SUFFIX = "-ablation"  # of the experiments' names, as they are not the file's own experiment


@dataclass(frozen=True)
class Step:
    """A protocol between legacy-2021 and strict.

    Attributes:
        switch: the switch that this step changes; "" in the first step, which is legacy-2021.
        before: its value before the step.
        after: its value after the step.
        assignments: those of `--set` that turn the file into the step's experiment.
    """

    switch: str
    before: str
    after: str
    assignments: list[str]

    @property
    def label(self) -> str:
        """The change, as in "ties: first -> later"; "legacy-2021" for the first step."""
        return f"{self.switch}: {self.before} -> {self.after}" if self.switch else FIRST


def steps(experiment: Experiment, given: list[str]) -> list[Step]:
    """Return the steps from legacy-2021 to strict, both included.

    Args:
        experiment: that of the file.
        given: the assignments that it was read with.
    """
    protocol_of_file = experiment.protocol
    kept = {f: getattr(protocol_of_file, f) for f in KEPT if f in protocol_of_file.changed}

    def step(n: int) -> Step:
        """Return the step after the first n switches."""
        changed = {s: PRESETS[LAST][s] for s in (FIXED, *SWITCHES[:n])}
        fields = {"preset": LAST} if n == len(SWITCHES) else {"preset": FIRST, **changed}
        protocol = ", ".join(f"{name}: {value}" for name, value in (fields | kept).items())
        sets = [*given, f"name={experiment.name}{SUFFIX}", f"protocol={{{protocol}}}"]
        if n == 0:
            return Step("", "", "", sets)
        switch = SWITCHES[n - 1]
        return Step(switch, PRESETS[FIRST][switch], PRESETS[LAST][switch], sets)

    return [step(n) for n in range(len(SWITCHES) + 1)]


def left_out(protocol: Protocol) -> list[str]:
    """Return the file's switches that no step keeps, as in "selection: last"."""
    return [f"{s}: {value}" for s, value in protocol.changed.items() if s not in KEPT]
