"""A baseline without a student: the nearest class mean in the teacher's embedding."""

from harness.methods.base import Method, Stage
from harness.methods.mark import Mark

NAME = "teacher_ncm"

METHODS = (
    Method(
        name=NAME,
        label="Teacher NCM",
        about="no student: the nearest mean of the student's classes in the teacher's embedding",
        formula="none; argmax <phi_T, c>, c the class centres of the student's training images",
        paper="the class centres of ReFilled's second stage, Ye, Lu, Zhan, CVPR 2020",
        mark=Mark("v", "grey", "--", "bottom"),
        stages=(
            Stage(
                name=NAME,
                kind=NAME,
                schedule=None,
                network="teacher",
                new_head=True,
                trainer="harness.train.methods.readout:NearestMeans",
            ),
        ),
        needs=frozenset({"embedding"}),
    ),
)
