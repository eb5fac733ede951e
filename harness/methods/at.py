"""Attention transfer."""

from harness.methods.base import NotNegative, Section, check_as_many_maps, distillation
from harness.networks import Options

NAME = "at"


class AtSettings(Section):
    """As in RepDistiller: summed over the maps."""

    weight: NotNegative = 1_000.0

    def check_networks(self, teacher: Options, student: Options) -> None:
        check_as_many_maps(NAME, teacher, student)


METHODS = (
    distillation(
        NAME,
        "AT",
        about="where the maps of each group of blocks are large",
        formula="CE + weight sum over maps mean((a_T - a_S)^2), "
        "a = normalised mean over channels of F^2",
        paper="Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928; weight of RepDistiller",
        settings=AtSettings,
        needs="maps",
        trainer="harness.train.methods.at:At",
    ),
)
