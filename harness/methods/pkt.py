"""Probabilistic knowledge transfer."""

from harness.methods.base import NotNegative, Section, distillation
from harness.methods.mark import Mark


class PktSettings(Section):
    """The weight is RepDistiller's."""

    weight: NotNegative = 30_000.0


METHODS = (
    distillation(
        "pkt",
        "PKT",
        about="the probabilities that images of a batch are neighbours, by cosine similarity",
        formula="CE + weight mean(p_T log(p_T / p_S)), p = rows of (cos + 1) / 2, summing to 1",
        paper="Passalis, Tefas, ECCV 2018, arXiv 1803.10837; weight of RepDistiller",
        mark=Mark("*", "green", ":"),
        settings=PktSettings,
        needs="embedding",
        trainer="harness.train.methods.pkt:Pkt",
    ),
)
