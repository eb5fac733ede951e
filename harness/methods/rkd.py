"""Relational knowledge distillation."""

from harness.methods.base import NotNegative, Section, distillation
from harness.methods.mark import Mark


class RkdSettings(Section):
    """RepDistiller's weights: weight x (distance x distance term + angle x angle term)."""

    weight: NotNegative = 1.0
    distance: NotNegative = 25.0
    angle: NotNegative = 50.0


METHODS = (
    distillation(
        "rkd",
        "RKD",
        about="distances and angles between the embeddings of a batch",
        formula="CE + weight (distance huber(d_S, d_T) + angle huber(cos_S, cos_T))",
        paper="Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068; weights of RepDistiller",
        mark=Mark(">", "green", "--"),
        settings=RkdSettings,
        needs="embedding",
        trainer="harness.train.methods.rkd:Rkd",
    ),
)
