"""The embeddings behind the pictures of docs/method.md: digits, seen by trained networks.

They are kept beside the pictures, so that drawing needs no training. To measure them anew, name a
store: `python -m website.pictures --store DIR`. If it lacks the trained networks, the command says
how to train them.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harness.api import load_student
from harness.cell import network_options
from harness.common.errors import UserError
from harness.data import load
from harness.data.batches import Batch
from harness.distill.centers import class_centers
from harness.distill.relations import same_class_pairs, semi_hard_mask, unit_distances
from harness.experiment.file import read
from harness.networks.base import Network
from harness.run.find_model import from_cell
from harness.store import Store
from harness.train.methods.untrained_ncm import take_statistics

EXPERIMENT = Path("experiments/digits_all_images.yaml")
STUDENT, METHOD, SEED = "wrn-10-1", "refilled", 0
CHANGES = (
    f"methods=[{METHOD}]",
    f"seeds=[{SEED}]",
    "students=[{depth: 10, width: 1}]",
    "claims=[]",
)
BATCH = 64  # of the experiment
TAU1, MARGIN, TAU2 = 4.0, 0.2, 2.0  # likewise

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """Embeddings of training images, in the order of the data set.

    Attributes:
        pixels: (N, H, W) uint8.
        labels: (N,).
        teacher: (N, Dt), raw.
        before: (N, Ds), of the student's initial weights.
        after: (N, Ds), of the student after stage 1.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    teacher: Floats
    before: Floats
    after: Floats

    def first(self, n: int) -> Measured:
        """Return the first `n` images."""
        return Measured(**{name: value[:n] for name, value in asdict(self).items()})


@torch.no_grad()
def measure(store: Path) -> Measured:
    """Return the embeddings of all training images.

    Args:
        store: The folder of the trained cells.

    Raises:
        UserError: They are not there; the message names the command that trains them.
    """
    cells = {d.cell.kind: d for d in Store(store).all() if d.is_done}
    if not {"supervised", "stage1"} <= cells.keys():
        changes = [word for change in CHANGES for word in ("--set", change)]
        words = ["harness", "run", str(EXPERIMENT), *changes, "--store", str(store)]
        raise UserError(f"--store: {store} lacks the networks; {shlex.join(words)}")
    dataset = load(read(EXPERIMENT, list(CHANGES)).dataset)
    pixels, labels = np.asarray(dataset.train.images), np.asarray(dataset.train.labels)
    teacher = load_student(EXPERIMENT, method="teacher", store=store, changes=CHANGES)
    after = from_cell(cells["stage1"])
    x = torch.stack([teacher.preprocess(image) for image in pixels])
    torch.manual_seed(SEED)  # as harness.train.initial does
    before = network_options(after.network_options).build(len(dataset.class_names)).eval()
    take_statistics(before, _batches(x, torch.from_numpy(labels)))
    return Measured(
        pixels[..., 0].astype(np.uint8),
        labels.astype(np.int64),
        *(_embed(network, x) for network in (teacher.network, before, after.network)),
    )


def _batches(x: torch.Tensor, labels: torch.Tensor) -> list[Batch]:
    parts = (torch.arange(i, min(i + BATCH, len(x))) for i in range(0, len(x), BATCH))
    return [Batch(x[i], labels[i], labels[i], i) for i in parts]


def _embed(network: Network, x: torch.Tensor) -> Floats:
    # Half precision changes no picture, and keeps the file small.
    return network.embed(x).numpy().astype(np.float16).astype(np.float32)


# -- relations, as the losses compute them --------------------------------------------------------


@dataclass(frozen=True)
class Tuple:
    """One pair of a batch with its negatives, as stage 1 mines it on the student.

    Attributes:
        anchor, positive: Indices into the batch.
        negatives: Indices of the semi-hard negatives, nearest first.
        distances: (B,), the student's, from the anchor.
        teacher, student: The probabilities q of the positive and of each negative.
    """

    anchor: int
    positive: int
    negatives: NDArray[np.int64]
    distances: Floats
    teacher: Floats
    student: Floats


def distances(embedding: Floats) -> Floats:
    """Return the distances between normalised embeddings, (B, B)."""
    return unit_distances(torch.from_numpy(embedding)).numpy()


def mined(batch: Measured, embedding: Floats, k: int) -> Tuple:
    """Return the first pair of a batch that has `k` semi-hard negatives, or else the most.

    Args:
        batch: The images of the batch.
        embedding: The student's.
        k: The wanted number of negatives.
    """
    labels = torch.from_numpy(batch.labels)
    of_student = unit_distances(torch.from_numpy(embedding))
    anchors, positives = same_class_pairs(labels)
    mask = semi_hard_mask(of_student, labels, anchors, positives, MARGIN)
    counts = mask.sum(1)
    row = int((counts - k).abs().argmin())
    anchor, positive = int(anchors[row]), int(positives[row])
    negatives = mask[row].nonzero()[:, 0].numpy()
    student = of_student[anchor].numpy()
    negatives = negatives[np.argsort(student[negatives], kind="stable")]
    members = np.array([positive, *negatives])
    teacher = distances(batch.teacher)[anchor]
    return Tuple(
        anchor,
        positive,
        negatives,
        student,
        _softmax(-teacher[members] / TAU1),
        _softmax(-student[members] / TAU1),
    )


def centers(measured: Measured) -> Floats:
    """Return the teacher's class centres, (classes, Dt)."""
    n = int(measured.labels.max()) + 1
    embedding, labels = torch.from_numpy(measured.teacher), torch.from_numpy(measured.labels)
    return class_centers(embedding, labels, n).numpy()


def soft_targets(measured: Measured) -> Floats:
    """Return what stage 2 teaches of each image, (N, classes)."""
    return _softmax(measured.teacher @ centers(measured).T / TAU2)


def _softmax(scores: Floats) -> Floats:
    return torch.from_numpy(scores).softmax(-1).numpy()
