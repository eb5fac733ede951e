"""A floor without training: nearest class means in the embedding of the initial weights."""

from harness.methods.base import Method, Stage

NAME = "untrained_ncm"

METHODS = (
    Method(
        name=NAME,
        label="Untrained NCM",
        about="no training: the student's network with the seed's initial weights, by the nearest "
        "mean of its classes",
        formula="none; argmax <phi_0, c>, phi_0 the embedding before the first step, c the class "
        "centres of the student's training images",
        paper="what an NCM accuracy after stage 1 is held against",
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
