"""A linear classifier on the frozen embedding."""

from torch import Tensor

from harness.distill.probe import linear_probe
from harness.train.methods.readout import Readout


class Probe(Readout):
    def head(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        l2 = self.context.spec["probe"]["l2"]
        return linear_probe(embedding, labels, self.context.n_classes, l2=l2)
