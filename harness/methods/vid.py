"""Variational information distillation."""

from typing import ClassVar

from harness.methods.base import NotNegative, PairedMaps, distillation
from harness.methods.mark import Mark

NAME = "vid"


class VidSettings(PairedMaps):
    """The weight is RepDistiller's; the terms of the maps are summed."""

    method: ClassVar[str] = NAME

    weight: NotNegative = 1.0


METHODS = (
    distillation(
        NAME,
        "VID",
        about="the teacher's maps, predicted from the student's, with one variance per channel",
        formula="CE + weight sum over maps mean((F_T - m(F_S))^2 / v + log v) / 2, v per channel",
        paper="Ahn et al., CVPR 2019, arXiv 1904.05835; weight of RepDistiller",
        mark=Mark("D", "purple", "--", "left"),
        settings=VidSettings,
        needs="maps",
        trainer="harness.train.methods.vid:Vid",
    ),
)
