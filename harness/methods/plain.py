"""Students that learn from the labels alone: the baseline of every other method."""

from harness.methods.base import SUPERVISED, Method
from harness.methods.mark import Mark

METHODS = (
    Method(
        name="plain",
        label="Student",
        about="cross-entropy with the labels, no teacher",
        formula="CE",
        paper="the baseline of every table",
        mark=Mark("o", "black"),
        stages=(SUPERVISED,),
        is_default=True,
    ),
)
