"""Neuron selectivity transfer."""

from typing import ClassVar

from harness.methods.base import NotNegative, PairedMaps, distillation
from harness.methods.mark import Mark

NAME = "nst"


class NstSettings(PairedMaps):
    """The weight is RepDistiller's; the terms of the maps are summed."""

    method: ClassVar[str] = NAME

    weight: NotNegative = 50.0


METHODS = (
    distillation(
        NAME,
        "NST",
        about="the distribution of the channels' patterns, compared by a polynomial kernel",
        formula="CE + weight sum over maps MMD^2(channels of F_T, channels of F_S)",
        paper="Huang, Wang, arXiv 1707.01219; weight of RepDistiller",
        mark=Mark("s", "sky", ":", "left"),
        settings=NstSettings,
        needs="maps",
        trainer="harness.train.methods.nst:Nst",
    ),
)
