"""The training step of each method compared with that of a plain student.

    python benchmarks/method_steps.py [--device auto|cpu|cuda] [--threads N] [--quick] [--save]

CIFAR-100's shapes on images of noise: 50,000 of 32 x 32 pixels in 100 classes, WRN-16-2 taught by
WRN-40-2, each method with its defaults. A step is the teacher's forward pass, the student's forward
and backward pass and the optimiser's step, without what is made once (class centres, a memory).
docs/methods.md also shows the results.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from arguments import chosen_device, keep, machine, parser_of, settle_of
from case import Case, Prepared
from frame import Record, alternate, comparison, record, table

from harness.analysis.methods_page import SUM
from harness.data.batches import Batch, Epoch
from harness.methods import REGISTRY, get_method
from harness.train.steps import Steps

BASE = "plain"
WARM_UP = 1


def trainings(case: Case) -> dict[str, Prepared]:
    """Return a training per method and stage, by name. Variants of a method cost the same."""
    images, config, prepared = case.noise(), case.config, {}
    # Centres of a batch cost no pass over all images before the first step.
    stage2 = config.sections["stage2"].model_copy(update={"centers": "local"})
    config = config.model_copy(update={"sections": {**config.sections, "stage2": stage2}})
    for name in [*(n for n, m in REGISTRY.items() if m.variant_of is None), SUM]:
        method = get_method(name)
        for stage in method.stages:
            if stage.schedule is None:
                continue  # it takes no steps
            label = name if stage is method.final else f"{name}, {stage.name}"
            prepared[label] = case.training(stage.kind, config, images)
    return prepared


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=7)
    arguments = parser.parse_args(argv)
    device = chosen_device(arguments)
    torch.manual_seed(0)
    case = Case(device, batch=64, images=50_000, student="16-2")
    if arguments.quick:
        case = Case(device, 8, 4, 8 * (arguments.rounds + WARM_UP), "10-1", "10-1")

    prepared = trainings(case)
    images = next(iter(prepared.values())).training.context.train
    augmented = images.augmented(case.batch, torch.Generator().manual_seed(0))
    # Prepared in advance: each round has another batch, the same for all methods.
    batches = list(islice(augmented, arguments.rounds + WARM_UP))
    steps = {name: stepper(p, batches) for name, p in prepared.items()}
    seconds = alternate(steps, arguments.rounds, settle_of(device), WARM_UP)
    result = comparison("a step of each method", seconds, BASE)
    print(table(result))
    setting = {**case.setting, "rounds": arguments.rounds}
    kept = record("method_steps", machine(device), setting, comparisons=[result])
    keep(kept, arguments)
    return kept


def stepper(prepared: Prepared, batches: list[Batch]) -> Any:
    """Return a function that trains on one batch after the other."""
    p = prepared
    p.model.train()
    epoch = Epoch([batch.y_cpu for batch in batches], lambda: iter(batches), is_resident=True)
    rest = p.training.prepare_batches(epoch, 0)
    step = Steps(p.model, p.training, p.optimizer, "float32", 0)
    return lambda: step(next(rest))


if __name__ == "__main__":
    main()
