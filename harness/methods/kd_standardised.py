"""KD on logits that are standardised for each image."""

from harness.methods.base import NotNegative, Positive, Section, distillation


class StandardisedKdSettings(Section):
    """Of the published fork; in RepDistiller's form its weight would be 0.9."""

    temperature: Positive = 2.0
    weight: NotNegative = 9.0
    ce_weight: NotNegative = 0.1


METHODS = (
    distillation(
        "kd_standardised",
        "KD (standardised)",
        about="KD on logits with mean 0 and variance 1 for each image",
        formula="ce_weight CE + weight T^2 KL(softmax(s_T / T) || softmax(s_S / T)), "
        "s = (f - mean f) / std f",
        paper="Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427; weights of its code",
        settings=StandardisedKdSettings,
        needs="logits",
        trainer="harness.train.methods.kd_standardised:StandardisedKd",
        shared_classes=True,
    ),
)
