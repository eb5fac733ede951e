"""The harness's training step compared with the bare networks: what the harness itself costs.

    python benchmarks/bare_bound.py [--device auto|cpu|cuda] [--batch N] [--classes N]
        [--student 16-1] [--quick] [--save]

For each kind of step, both sides take turns, each with an epoch of a few batches. `bare` is the
least that the step can take: the frozen teacher's forward pass, the student's forward pass and
backward pass from a trivial loss, and the optimiser's step, on batches that are ready. `harness` is
train_epoch: it shuffles, crops and flips, computes the method's loss and accumulates averages. For
a kind with a teacher, a second comparison leaves it out: the bare student alone, and the harness
with cached teacher outputs. Images are noise of CIFAR's shape in float32; both sides run under the
harness's deterministic settings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from arguments import chosen_device, keep, machine, parser_of, settle_of
from case import Case, add_case, case_of, takes_teacher
from frame import Record, Step, alternate, comparison, record, table
from torch import Tensor

from harness.data.batches import Images, epoch_generator
from harness.networks.base import Network
from harness.train.loop import train_epoch

KINDS = ("supervised", "kd", "stage1", "stage2")
BARE, HARNESS = "bare", "harness"
ALONE, AT_HAND = "student alone", "answers at hand"
STEPS = {"cpu": 2}  # per epoch; MANY on other devices, where a step takes milliseconds
MANY = 50


def harness_side(case: Case, kind: str, images: Images, answers: Path | None = None) -> Step:
    """Return an epoch of the harness's loop; `answers` is a folder for cached teacher outputs."""
    config = case.config
    p = case.training(kind, config, images, answers)
    return lambda: train_epoch(p.model, p.training, p.optimizer, images, config, 0, lambda: False)


def bare_side(case: Case, kind: str, images: Images, with_teacher: bool = True) -> Step:
    """Return the networks' steps alone, on the same number of batches."""
    batches = [batch.x for batch in images.augmented(case.batch, epoch_generator(0, 0))]
    student = case.network(case.student)
    optimizer = case.optimizer(student.parameters())
    # Stage 1 has no classifier: it compares embeddings.
    look = Network.embed if kind == "stage1" else Network.forward
    teacher = None
    if takes_teacher(kind) and with_teacher:
        teacher = case.network(case.teacher).eval().requires_grad_(False)
    return lambda: bare_epoch(student, look, optimizer, batches, teacher)


def bare_epoch(
    student: Network,
    look: Callable[[Network, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Tensor],
    teacher: Network | None,
) -> None:
    """Run one bare step per batch."""
    for x in batches:
        if teacher is not None:
            with torch.no_grad():
                teacher.embed_and_classify(x)
        optimizer.zero_grad(set_to_none=True)
        look(student, x).sum().backward()
        optimizer.step()


SIDES: dict[str, Callable[[Case, str, Images], Step]] = {BARE: bare_side, HARNESS: harness_side}


def measure(case: Case, rounds: int, settle: Callable[[], object]) -> list[dict[str, object]]:
    """Compare the sides for each kind and, with a teacher, again without its forward pass.

    Seconds are those of an epoch.
    """
    images, comparisons = case.noise(), []

    def compare(what: str, steps: dict[str, Step], base: str) -> None:
        comparisons.append(comparison(what, alternate(steps, rounds, settle), base))
        print(table(comparisons[-1]), flush=True)

    for kind in KINDS:
        compare(kind, {name: side(case, kind, images) for name, side in SIDES.items()}, BARE)
        if takes_teacher(kind):
            with tempfile.TemporaryDirectory() as folder:
                alone = bare_side(case, kind, images, with_teacher=False)
                at_hand = harness_side(case, kind, images, Path(folder))
                compare(f"{kind}, {AT_HAND}", {ALONE: alone, AT_HAND: at_hand}, ALONE)
    return comparisons


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=9)
    add_case(parser)
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    steps = 1 if arguments.quick else STEPS.get(device.type, MANY)
    case = case_of(arguments, device, steps)
    comparisons = measure(case, arguments.rounds, settle_of(device))
    setting = {**case.setting, "steps": steps, "rounds": arguments.rounds}
    kept = record("bare_bound", machine(device), setting, comparisons=comparisons)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
