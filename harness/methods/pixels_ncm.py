"""A baseline without any network: the nearest class mean of the pixels."""

from harness.methods.base import Method, Stage
from harness.methods.mark import Mark

NAME = "pixels_ncm"

METHODS = (
    Method(
        name=NAME,
        label="Pixel NCM",
        about="no network: the nearest class mean of the normalised pixels",
        formula="none; argmax <x, c>, x the pixels, c the class centres of the student's training "
        "images",
        paper="the baseline of an NCM accuracy after stage 1",
        mark=Mark("x", "grey", ":"),
        stages=(
            Stage(
                name=NAME,
                kind=NAME,
                schedule=None,
                network="pixels",
                trainer="harness.train.methods.pixels_ncm:PixelsNcm",
            ),
        ),
    ),
)
