"""The linear probe: what the teacher's embedding is worth to a linear classifier."""

from harness.methods.base import Method, NotNegative, Section, Stage
from harness.methods.mark import Mark

NAME = "probe"


class ProbeSettings(Section):
    """`l2` weights half the squared weights, relative to the summed cross-entropy.

    The default is that of scikit-learn's LogisticRegression.
    """

    l2: NotNegative = 1.0


METHODS = (
    Method(
        name=NAME,
        label="Linear probe",
        about="no student: a linear classifier on the teacher's embedding",
        formula="sum of CE(W phi_T + b) + l2 / 2 ||W||^2 over the student's training images",
        paper="Alain, Bengio, arXiv 1610.01644",
        mark=Mark("s", "grey", "-", "bottom"),
        stages=(
            Stage(
                name=NAME,
                kind=NAME,
                schedule=None,
                sections=(NAME,),
                network="teacher",
                new_head=True,
                trainer="harness.train.methods.probe:Probe",
            ),
        ),
        settings={NAME: ProbeSettings},
        needs=frozenset({"embedding"}),
    ),
)
