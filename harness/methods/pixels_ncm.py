"""A floor without any network: nearest class means of the pixels."""

from harness.methods.base import Method, Stage

NAME = "pixels_ncm"

METHODS = (
    Method(
        name=NAME,
        label="Pixel NCM",
        about="no network: the normalised pixels, by the nearest mean of the student's classes",
        formula="none; argmax <x, c>, x the pixels, c the class centres of the student's training "
        "images",
        paper="what an NCM accuracy after stage 1 is held against",
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
