"""Contrastive representation distillation."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from harness.methods.base import NotNegative, Positive, Section, distillation
from harness.methods.mark import Mark

NAME = "crd"


class CrdSettings(Section):
    """RepDistiller's settings.

    Attributes:
        weight: of the term.
        negatives: images of other classes that each image is compared with.
        temperature: divides the scores.
        momentum: of the memory.
        features: width of the projections.
    """

    untunable: ClassVar[frozenset[str]] = frozenset({"negatives", "features"})

    weight: NotNegative = 0.8
    negatives: Annotated[int, Field(ge=1, strict=True)] = 16_384
    temperature: Positive = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    features: Annotated[int, Field(ge=1, strict=True)] = 128

    def remark(self, class_sizes: Sequence[int]) -> str | None:
        """Return a note if there are fewer images of other classes than negatives."""
        n = sum(class_sizes) - max(class_sizes)
        if n >= self.negatives:
            return None
        return (
            f"{NAME}.negatives: {n:,} images of other classes for {self.negatives:,} negatives, so "
            f"they are drawn with replacement; {NAME}.negatives={n} draws each once"
        )


METHODS = (
    distillation(
        NAME,
        "CRD",
        about="contrasts the teacher's embedding of the same image with those of other classes",
        formula="CE + weight (NCE of g_S(x) against the memory of g_T, and the other way round)",
        paper="Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699; settings of RepDistiller",
        mark=Mark("o", "purple", "-", "left"),
        settings=CrdSettings,
        needs="embedding",
        takes_mixed=False,
        trainer="harness.train.methods.crd:Crd",
    ),
)
