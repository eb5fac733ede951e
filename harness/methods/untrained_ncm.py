"""A baseline without training: the nearest class mean with the initial weights."""

from harness.methods.base import Method, Stage
from harness.methods.mark import Mark

NAME = "untrained_ncm"

METHODS = (
    Method(
        name=NAME,
        label="Untrained NCM",
        about="no training: the nearest class mean in the embedding of the initial weights",
        formula="none; argmax <phi_0, c>, phi_0 the embedding before the first step, c the class "
        "centres of the student's training images",
        paper="the baseline of an NCM accuracy after stage 1",
        mark=Mark("+", "grey", "-."),
        stages=(
            Stage(
                name=NAME,
                kind=NAME,
                schedule=None,
                trainer="harness.train.methods.untrained_ncm:UntrainedNcm",
            ),
        ),
    ),
)
