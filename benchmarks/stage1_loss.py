"""Stage 1's dense loss compared with one over index lists, forward and backward.

    python benchmarks/stage1_loss.py [--device auto|cpu|cuda] [--threads N] [--quick] [--save]

The index-list side mines with pytorch-metric-learning. Its triplets are one vectorised
expression over the lists; its tuples are looped over in Python, pair by pair, as in the published
code. Both sides start from the embeddings and share `unit_distances`, so the ratio is that of the
mining and the loss; they must agree on loss and gradient (float64) before any timing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from arguments import chosen_device, keep, machine, parser_of, settle_of
from frame import Record, alternate, comparison, record, table
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor
from torch.nn import functional as F

from harness.distill.relations import same_class_pairs, unit_distances
from harness.distill.stage1 import stage1_loss

BATCH, DIMENSIONS, CLASSES = 128, 128, (10, 100)
TAU1, MARGIN = 4.0, 0.2
SETTINGS: dict[str, Any] = {"tau1": TAU1, "margin": MARGIN, "negatives": "all", "weight": None}
DENSE, INDEXED = "dense", "index lists"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

miner = TripletMarginMiner(
    margin=MARGIN, type_of_triplets="semihard", distance=LpDistance(normalize_embeddings=True)
)


def indexed_triplets(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return 500 x the mean of KL(Bernoulli || Bernoulli) over the miner's lists."""
    a, p, n = miner(student, labels)
    log_p, log_not = [], []
    for d in (unit_distances(teacher), unit_distances(student)):
        x = (d[a, n] - d[a, p]) / TAU1
        log_p.append(F.logsigmoid(x))
        log_not.append(F.logsigmoid(-x))
    kl = log_p[0].exp() * (log_p[0] - log_p[1]) + log_not[0].exp() * (log_not[0] - log_not[1])
    return 500 * kl.mean()


def indexed_tuples(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return 1000 x the mean of KL(softmax || softmax), one pair of the lists at a time."""
    tuples: dict[tuple[int, int], list[int]] = {}
    for a, p, n in zip(*(i.tolist() for i in miner(student, labels)), strict=True):
        tuples.setdefault((a, p), []).append(n)
    scores = [-unit_distances(embedding) / TAU1 for embedding in (teacher, student)]
    total = student.new_zeros(())
    for (a, p), negatives in tuples.items():
        log_t, log_s = (x[a, [p, *negatives]].log_softmax(0) for x in scores)
        total = total + (log_t.exp() * (log_t - log_s)).sum()
    return 1000 * total / len(tuples)


def dense(relation: str) -> Loss:
    """Return the harness's loss for a relation."""

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        pairs = same_class_pairs(labels)
        value, _ = stage1_loss(student, teacher, labels, relation=relation, **SETTINGS, pairs=pairs)
        return value

    return loss


def forward_backward(loss: Loss, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient with respect to the student's embedding."""
    student = inputs[0].clone().requires_grad_()
    value = loss(student, *inputs[1:])
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def batch_of(n_classes: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings of a student and a teacher that depend on the class, and labels."""
    generator = torch.Generator().manual_seed(n_classes)
    labels = torch.randint(n_classes, (batch,), generator=generator)
    embeddings = []
    for _ in range(2):
        classes = torch.randn(n_classes, DIMENSIONS, generator=generator)
        images = torch.randn(batch, DIMENSIONS, generator=generator)
        embeddings.append((images + 0.3 * classes[labels]).relu().to(device))
    return embeddings[0], embeddings[1], labels.to(device)


def check_equal(losses: list[Loss], *inputs: Tensor) -> None:
    """Check in float64 that the losses are the same function.

    Raises:
        AssertionError: They are not.
    """
    exact = [x.double() if x.is_floating_point() else x for x in inputs]
    first, second = (forward_backward(loss, *exact) for loss in losses)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=15)
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    batch = 16 if arguments.quick else BATCH
    comparisons = []
    for relation, indexed in (("tuple", indexed_tuples), ("triplet", indexed_triplets)):
        for n_classes in (4,) if arguments.quick else CLASSES:
            inputs = batch_of(n_classes, batch, device)
            _, mined = stage1_loss(*inputs, relation=relation, **SETTINGS)
            losses = {DENSE: dense(relation), INDEXED: indexed}
            check_equal(list(losses.values()), *inputs)
            steps = {n: partial(forward_backward, loss, *inputs) for n, loss in losses.items()}
            seconds = alternate(steps, arguments.rounds, settle_of(device), warm_up=3)
            what = f"{relation}, {n_classes} classes"
            comparisons.append(comparison(what, seconds, DENSE, mined=int(mined)))
            print(f"{table(comparisons[-1])}\n  mined: {int(mined)}", flush=True)
    setting = {"batch": batch, "dimensions": DIMENSIONS, "rounds": arguments.rounds}
    kept = record("stage1_loss", machine(device), setting, comparisons=comparisons)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
