"""FitNet: a hint from one of the teacher's maps, together with the cross-entropy."""

from typing import Annotated, ClassVar

from pydantic import Field

from harness.methods.base import NotNegative, Section, distillation
from harness.methods.mark import Mark
from harness.networks import NetworkOptions

NAME = "fitnet"


class FitnetSettings(Section):
    """The weight is RepDistiller's; `map` counts the maps from 1, the shallowest."""

    untunable: ClassVar[frozenset[str]] = frozenset({"map"})

    weight: NotNegative = 100.0
    map: Annotated[int, Field(ge=1, strict=True)] = 2

    def check_networks(self, teacher: NetworkOptions, student: NetworkOptions) -> None:
        """Check that both networks have the chosen map."""
        for network in (teacher, student):
            if network.n_maps is not None and network.n_maps < self.map:
                raise ValueError(
                    f"{NAME}.map: {network.label} has {network.n_maps} maps, no map {self.map}; "
                    f"use 1 to {network.n_maps}"
                )


METHODS = (
    distillation(
        NAME,
        "FitNet",
        about="one of the teacher's maps, predicted from the student's",
        formula="CE + weight mean((F_T - r(F_S))^2), r a 1x1 convolution and a batch norm",
        paper="Romero et al., ICLR 2015, arXiv 1412.6550; one stage, weight and batch norm of "
        "RepDistiller",
        mark=Mark("X", "sky", "-."),
        settings=FitnetSettings,
        needs="maps",
        trainer="harness.train.methods.fitnet:Fitnet",
    ),
)
