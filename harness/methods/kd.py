"""Classic knowledge distillation on logits."""

from typing import Annotated

from pydantic import Field

from harness.methods.base import Positive, Section, distillation
from harness.methods.mark import Mark


class KdSettings(Section):
    """Temperature and weight of the teacher's term; RepDistiller's values for KD alone."""

    temperature: Positive = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9


METHODS = (
    distillation(
        "kd",
        "KD",
        about="the divergence from the teacher's softened logits",
        formula="(1 - alpha) CE + alpha T^2 KL(softmax(f_T / T) || softmax(f_S / T))",
        paper="Hinton, Vinyals, Dean, arXiv 1503.02531; weights of RepDistiller",
        mark=Mark("s", "blue", "--"),
        settings=KdSettings,
        needs="logits",
        trainer="harness.train.methods.kd:Kd",
        shared_classes=True,
        is_default=True,
        # RepDistiller's `-a 1` beside another method, whose cross-entropy has the weight 1.
        in_sums={"kd": {"alpha": 1.0}},
    ),
)
