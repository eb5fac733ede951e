"""Decoupled knowledge distillation."""

from typing import Annotated, ClassVar

from pydantic import Field

from harness.methods.base import NotNegative, Positive, Section, distillation
from harness.methods.mark import Mark


class DkdSettings(Section):
    """The weights are mdistiller's for wide residual networks.

    During `warmup` epochs the term grows to its full weight.
    """

    untunable: ClassVar[frozenset[str]] = frozenset({"warmup"})

    alpha: NotNegative = 1.0
    beta: NotNegative = 6.0
    temperature: Positive = 4.0
    warmup: Annotated[int, Field(ge=0, strict=True)] = 20


METHODS = (
    distillation(
        "dkd",
        "DKD",
        about="KD's terms for the true class and for all others, weighted separately",
        formula="CE + min(1, epoch / warmup) T^2 (alpha TCKD + beta NCKD)",
        paper="Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679; weights of mdistiller",
        mark=Mark("d", "blue", "-."),
        settings=DkdSettings,
        needs="logits",
        takes_mixed=False,
        trainer="harness.train.methods.dkd:Dkd",
        shared_classes=True,
    ),
)
