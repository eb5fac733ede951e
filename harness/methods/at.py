"""Attention transfer."""

from typing import ClassVar

from harness.methods.base import NotNegative, PairedMaps, distillation
from harness.methods.mark import Mark

NAME = "at"


class AtSettings(PairedMaps):
    """The weight is RepDistiller's; the terms of the maps are summed."""

    method: ClassVar[str] = NAME

    weight: NotNegative = 1_000.0


METHODS = (
    distillation(
        NAME,
        "AT",
        about="attention: where the maps of each group of blocks are large",
        formula="CE + weight sum over maps mean((a_T - a_S)^2), "
        "a = normalised mean over channels of F^2",
        paper="Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928; weight of RepDistiller",
        mark=Mark("P", "sky", "--"),
        settings=AtSettings,
        needs="maps",
        trainer="harness.train.methods.at:At",
    ),
)
