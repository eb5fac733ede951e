"""An epoch of the field's common training script compared with an epoch of a cell.

    python benchmarks/peers.py [--device auto|cpu|cuda] [--threads N] [--quick] [--save]

Both train the same networks on the same images with the same batches and method, and measure the
test images after the epoch. `script` is written here in the form that most released code has: PIL
images through torchvision's transforms in a DataLoader, with and without worker processes, a
teacher that is asked at every step, and, in stage 1, lists of mined tuples. `cell` is the harness's
epoch, once with the teacher and once with its kept answers, which all students of a teacher share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import chosen_device, keep, machine, parser_of, settle_of
from case import Case, images_of, takes_teacher
from frame import Record, Step, alternate, comparison, record, table
from PIL import Image
from stage1_loss import indexed_tuples
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from harness.networks.base import Network
from harness.train.device import set_determinism
from harness.train.evaluate import accuracy, ncm_accuracies

KINDS = {"supervised": "plain", "kd": "KD", "stage1": "ReFilled, stage 1 (tuples)"}
CELL, AT_HAND = "cell", "cell, answers at hand"
WORKERS = (0, 2)
TEMPERATURE, ALPHA = 4.0, 0.9
MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

Loss = Callable[[Tensor, Tensor], Tensor]  # of a batch of images and their labels


class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR data sets hold them: an array, and transforms of PIL images."""

    def __init__(self, n: int, classes: int, is_train: bool) -> None:
        """Make n images of noise."""
        self.pixels = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        self.labels = [i % classes for i in range(n)]
        changes = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        common = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        self.transform = transforms.Compose([*(changes if is_train else []), *common])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


class Script:
    """The common training script, for one method."""

    def __init__(self, case: Case, kind: str, n_test: int, n_workers: int) -> None:
        """Build networks, loaders and optimiser."""
        self.case, self.kind = case, kind
        common: dict[str, Any] = {"batch_size": case.batch, "num_workers": n_workers}
        train, test = (
            Pictures(n, case.classes, is_train)
            for n, is_train in ((case.images, True), (n_test, False))
        )
        self.train = DataLoader(train, shuffle=True, **common)
        self.plain = DataLoader(Pictures(case.images, case.classes, False), **common)
        self.test = DataLoader(test, **common)
        contiguous = torch.contiguous_format
        self.student = case.network(case.student).to(memory_format=contiguous)
        self.teacher = case.network(case.teacher).to(memory_format=contiguous).eval()
        parameters = self.student.parameters()
        self.optimizer = torch.optim.SGD(parameters, case.lr, momentum=0.9, weight_decay=5e-4)

    def epoch(self) -> float:
        """Train for an epoch, and return the accuracy on the test images."""
        self.student.train()
        for x, y in self.train:
            x, y = x.to(self.case.device), y.to(self.case.device)
            loss = self.loss(x, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()  # such scripts print it, or keep an average of it
        self.student.eval()
        return self.ncm() if self.kind == "stage1" else self.accuracy()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a batch's loss."""
        if self.kind == "stage1":
            with torch.no_grad():
                theirs = self.teacher.embed(x)
            return indexed_tuples(self.student.embed(x), theirs, y)
        logits = self.student(x)
        hard = F.cross_entropy(logits, y)
        if self.kind == "supervised":
            return hard
        with torch.no_grad():
            targets = (self.teacher(x) / TEMPERATURE).softmax(1)
        soft = nn.KLDivLoss(reduction="batchmean")((logits / TEMPERATURE).log_softmax(1), targets)
        return (1 - ALPHA) * hard + ALPHA * TEMPERATURE**2 * soft

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the accuracy of the classifier on the test images."""
        n_right = 0
        for x, y in self.test:
            n_right += int((self.student(x.to(self.case.device)).argmax(1).cpu() == y).sum())
        return n_right / len(self.test.dataset)  # type: ignore[arg-type]

    @torch.no_grad()
    def ncm(self) -> float:
        """Return the accuracy of the nearest class means on the test images."""
        found = []
        for loader in (self.plain, self.test):
            pairs = [(self.student.embed(x.to(self.case.device)).cpu(), y) for x, y in loader]
            found.append([torch.cat(part) for part in zip(*pairs, strict=True)])
        (train, labels), (test, theirs) = found
        centers = torch.stack([train[labels == c].mean(0) for c in range(self.case.classes)])
        return float((torch.cdist(test, centers).argmin(1) == theirs).double().mean())


def cell_side(case: Case, kind: str, n_test: int, answers: Path | None = None) -> Step:
    """Return an epoch of a cell, with its measurement of the test images."""
    images, test = case.noise(), images_of(n_test, case.classes, case.device)
    prepared = case.training(kind, case.config, images, answers)
    model: Network = prepared.model

    def epoch() -> None:
        prepared.epoch()
        if kind == "stage1":
            ncm_accuracies(model, images, {"test": test}, case.classes)
        else:
            accuracy(model, test)

    return epoch


def measure(case: Case, n_test: int, rounds: int, settle: Callable[[], object]) -> list[Any]:
    """Compare the sides for each kind of training; seconds are those of an epoch."""
    comparisons = []
    for kind, what in KINDS.items():
        steps: dict[str, Step] = {CELL: cell_side(case, kind, n_test)}
        for n in WORKERS:
            steps[f"script, {n} workers"] = Script(case, kind, n_test, n).epoch
        with tempfile.TemporaryDirectory() as folder:
            if takes_teacher(kind):
                steps[AT_HAND] = cell_side(case, kind, n_test, Path(folder))
            comparisons.append(comparison(what, alternate(steps, rounds, settle), CELL))
        print(table(comparisons[-1]), flush=True)
    return comparisons


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=5)
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    set_determinism()
    torch.manual_seed(0)
    case = Case(device, batch=64, images=640, teacher="16-2", student="16-1")
    n_test = 320
    if arguments.quick:
        case, n_test = Case(device, 8, 4, 16, "10-1", "10-1"), 8
    comparisons = measure(case, n_test, arguments.rounds, settle_of(device))
    setting = {**case.setting, "test images": n_test, "rounds": arguments.rounds}
    kept = record("peers", machine(device), setting, comparisons=comparisons)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
