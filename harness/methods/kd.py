"""Classic knowledge distillation on logits."""

from typing import Annotated

from pydantic import Field

from harness.methods.base import Method, Positive, Section, Stage


class KdSettings(Section):
    """Temperature and weight of the teacher's term, as in RepDistiller."""

    temperature: Positive = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9


METHODS = (
    Method(
        name="kd",
        label="KD",
        about="cross-entropy and the divergence from the teacher's softened logits",
        paper="Hinton, Vinyals, Dean, arXiv 1503.02531; weights of RepDistiller",
        stages=(
            Stage(
                name="kd",
                kind="kd",
                schedule="training",
                sections=("kd",),
                trainer="harness.train.methods.kd:Kd",
            ),
        ),
        settings={"kd": KdSettings},
        needs=frozenset({"logits"}),
        shared_classes=True,
        is_default=True,
    ),
)
