"""A linear classifier on the frozen embedding."""

from torch import Tensor

from harness.distill.probe import linear_probe
from harness.methods.probe import ProbeSettings
from harness.train.methods.readout import Readout


class Probe(Readout):
    """A logistic regression on the frozen embedding."""

    settings: ProbeSettings

    def head(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (C, D) and bias (C,) of the logistic regression."""
        return linear_probe(embedding, labels, self.context.n_classes, l2=self.settings.l2)
