"""Variational information distillation."""

from harness.methods.base import NotNegative, Section, check_as_many_maps, distillation
from harness.networks import Options

NAME = "vid"


class VidSettings(Section):
    """As in RepDistiller: summed over the maps."""

    weight: NotNegative = 1.0

    def check_networks(self, teacher: Options, student: Options) -> None:
        check_as_many_maps(NAME, teacher, student)


METHODS = (
    distillation(
        NAME,
        "VID",
        about="the teacher's maps, predicted from the student's with a variance a channel",
        formula="CE + weight sum over maps mean((F_T - m(F_S))^2 / v + log v) / 2, v a channel",
        paper="Ahn et al., CVPR 2019, arXiv 1904.05835; weight of RepDistiller",
        settings=VidSettings,
        needs="maps",
        trainer="harness.train.methods.vid:Vid",
    ),
)
