"""Neuron selectivity transfer."""

from harness.methods.base import NotNegative, Section, check_as_many_maps, distillation
from harness.networks import Options

NAME = "nst"


class NstSettings(Section):
    """As in RepDistiller: summed over the maps."""

    weight: NotNegative = 50.0

    def check_networks(self, teacher: Options, student: Options) -> None:
        check_as_many_maps(NAME, teacher, student)


METHODS = (
    distillation(
        NAME,
        "NST",
        about="the distribution of the channels' patterns, compared by a polynomial kernel",
        formula="CE + weight sum over maps MMD^2(channels of F_T, channels of F_S)",
        paper="Huang, Wang, arXiv 1707.01219; weight of RepDistiller",
        settings=NstSettings,
        needs="maps",
        trainer="harness.train.methods.nst:Nst",
    ),
)
