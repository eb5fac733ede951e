"""From `protocol: legacy` to `protocol: strict`, one switch at a time."""

from __future__ import annotations

from dataclasses import dataclass

from harness.experiment.experiment import Experiment
from harness.experiment.protocol import PRESETS, Protocol

FIRST, LAST = "legacy", "strict"
# In the order of the presets: the images that train come before the choice of the epoch, as nothing
# can be selected on images that train.
SWITCHES = tuple(s for s, value in PRESETS[LAST].items() if PRESETS[FIRST][s] != value)
KEPT = ("evaluate_every",)  # of the file's own protocol: how often is looked, alike in every step
SUFFIX = "-ablation"  # of the experiments' name: they are others than the file's own


@dataclass(frozen=True)
class Step:
    """One protocol on the way.

    switch: that has just gone from `before` to `after`; "" in the first step, which is legacy.
    assignments: of `--set`, which make the step's experiment of the file.
    """

    switch: str
    before: str
    after: str
    assignments: list[str]

    @property
    def label(self) -> str:
        return f"{self.switch}: {self.before} -> {self.after}" if self.switch else FIRST


def steps(experiment: Experiment, given: list[str]) -> list[Step]:
    """The way from legacy to strict, which the last protocol is.

    Args:
        experiment: the file's own. given: the assignments that it was read with.
    """
    own = experiment.protocol
    kept = {name: getattr(own, name) for name in KEPT if name in own.changed}

    def step(n: int) -> Step:
        """After the first n switches."""
        changed = {s: PRESETS[LAST][s] for s in SWITCHES[:n]}
        fields = {"preset": LAST} if n == len(SWITCHES) else {"preset": FIRST, **changed}
        protocol = ", ".join(f"{name}: {value}" for name, value in (fields | kept).items())
        sets = [*given, f"name={experiment.name}{SUFFIX}", f"protocol={{{protocol}}}"]
        if n == 0:
            return Step("", "", "", sets)
        switch = SWITCHES[n - 1]
        return Step(switch, PRESETS[FIRST][switch], PRESETS[LAST][switch], sets)

    return [step(n) for n in range(len(SWITCHES) + 1)]


def left_out(own: Protocol) -> list[str]:
    """The file's own switches that no step has: "selection: last"."""
    return [f"{s}: {value}" for s, value in own.changed.items() if s not in KEPT]
