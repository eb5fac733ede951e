"""KD on logits that are standardised per image."""

from harness.methods.base import NotNegative, Positive, Section, distillation
from harness.methods.mark import Mark


class StandardisedKdSettings(Section):
    """The weights are those of the published code."""

    temperature: Positive = 2.0
    weight: NotNegative = 9.0
    ce_weight: NotNegative = 0.1


METHODS = (
    distillation(
        "kd_standardised",
        "KD (standardised)",
        about="KD on logits standardised per image (mean 0, variance 1)",
        formula="ce_weight CE + weight T^2 KL(softmax(s_T / T) || softmax(s_S / T)), "
        "s = (f - mean f) / std f",
        paper="Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427; weights of its code",
        mark=Mark("h", "blue", ":"),
        settings=StandardisedKdSettings,
        needs="logits",
        trainer="harness.train.methods.kd_standardised:StandardisedKd",
        shared_classes=True,
    ),
)
