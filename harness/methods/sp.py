"""Similarity-preserving distillation."""

from harness.methods.base import NotNegative, Section, distillation
from harness.methods.mark import Mark


class SpSettings(Section):
    """The weight is RepDistiller's; the last maps are compared."""

    weight: NotNegative = 3_000.0


METHODS = (
    distillation(
        "sp",
        "SP",
        about="the similarities between the images of a batch, from the last maps",
        formula="CE + weight ||G_T - G_S||^2 / B^2, G = F F^T with normalised rows",
        paper="Tung, Mori, ICCV 2019, arXiv 1907.09682; weight of RepDistiller",
        mark=Mark("<", "green", "-."),
        settings=SpSettings,
        needs="maps",
        trainer="harness.train.methods.sp:Sp",
    ),
)
