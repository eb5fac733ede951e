"""Decoupled knowledge distillation."""

from typing import Annotated, ClassVar

from pydantic import Field

from harness.methods.base import NotNegative, Positive, Section, distillation


class DkdSettings(Section):
    """As in mdistiller. warmup: epochs over which the term's weight grows to 1."""

    untunable: ClassVar[frozenset[str]] = frozenset({"warmup"})

    alpha: NotNegative = 1.0
    beta: NotNegative = 8.0
    temperature: Positive = 4.0
    warmup: Annotated[int, Field(ge=0, strict=True)] = 20


METHODS = (
    distillation(
        "dkd",
        "DKD",
        about="KD's term for the true class and its term for all others, with weights of their own",
        formula="CE + min(1, epoch / warmup) T^2 (alpha TCKD + beta NCKD)",
        paper="Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679; weights of mdistiller",
        settings=DkdSettings,
        needs="logits",
        trainer="harness.train.methods.dkd:Dkd",
        shared_classes=True,
    ),
)
