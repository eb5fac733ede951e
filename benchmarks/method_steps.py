"""A training step of each method beside one of a plain student, in one run, as ratios.

    python benchmarks/method_steps.py [--device auto|cpu|cuda] [--threads N] [--save]

CIFAR-100's shapes on images of noise: 50,000 of 32 x 32 pixels in 100 classes, WRN-16-2 taught by
WRN-40-2, each method with its defaults. A step is the teacher's answer, the student's forward and
backward pass and the optimiser's step; what is made once (class centres, a memory) is not in it.
The methods take turns, so that a slower minute of the machine slows all of them. `--save` writes
what docs/methods.md shows.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import chosen_device, name_of, parser_of

from analysis.methods_page import STEPS, SUM
from harness.canonical import canonical
from harness.data import Augmentation, Dataset, ImageSet
from harness.data.batches import Batch
from harness.data.placement import on_device
from harness.methods import REGISTRY, SECTIONS, find
from harness.methods.base import Stage
from harness.networks import build
from harness.networks.base import Network
from harness.train.evaluate import autocast
from harness.train.methods.base import Context, Training, training_of

RESULT = Path(__file__).parent.parent / STEPS
CLASSES, IMAGES, BATCH = 100, 50_000, 64
STUDENT, TEACHER = {"depth": 16, "width": 2}, {"depth": 40, "width": 2}
BASE = "plain"


def noise() -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(IMAGES) % CLASSES
    return Dataset(
        "noise",
        tuple(map(str, range(CLASSES))),
        ImageSet(images, labels),
        None,
        None,
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        Augmentation(4, True),
    )


def network(options: dict[str, Any], device: torch.device) -> Network:
    made = build("wide_resnet", CLASSES, **options)
    return made.to(device).to(memory_format=torch.channels_last)


class Variant:
    """One stage of one method, ready to step."""

    def __init__(self, stage: Stage, context: Context, device: torch.device) -> None:
        self.model = context.student
        self.training: Training = training_of(stage.kind, context)
        self.training.module.to(device)
        self.optimizer = torch.optim.SGD(
            [*self.model.parameters(), *self.training.module.parameters()], lr=1e-4, momentum=0.9
        )
        self.device, self.seconds = device, list[float]()

    def step(self, batch: Batch) -> None:
        started = self._now()
        self.model.train()
        with autocast(self.device, "float32"):
            losses, _ = self.training.losses(self.model, batch, 0)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self.seconds.append(self._now() - started)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def variants(device: torch.device) -> dict[str, Variant]:
    """Method, or method and stage -> its step. Variants of one method cost the same."""
    data = noise()
    images = {"train": on_device(data, data.train, device, 0)}
    teacher = network(TEACHER, device)
    sections = {name: model.model_validate({}).model_dump() for name, model in SECTIONS.items()}
    # Centres of one batch cost no pass over the whole set before the first step.
    sections["stage2"]["centers"] = "local"
    spec = {**sections, "seed": 0, "optimizer": {"precision": "float32"}, "ncm_centers": "train",
            "center_images": BASE}  # fmt: skip
    found = {}
    for name in [*(n for n, m in REGISTRY.items() if m.variant_of is None), SUM]:
        method = find(name)
        for stage in method.stages:
            if stage.schedule is None:
                continue  # it takes no steps
            label = name if stage is method.final else f"{name}, {stage.name}"
            student = network(STUDENT, device)
            context = Context(spec, images, CLASSES, student, teacher if method.needs else None)
            found[label] = Variant(stage, context, device)
    return found


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    device = chosen_device(arguments)
    torch.manual_seed(0)

    steps = variants(device)
    batches = next(iter(steps.values())).training.context.train.augmented(
        BATCH, torch.Generator().manual_seed(0)
    )
    for number in range(arguments.rounds + 1):
        batch = next(batches)
        for variant in steps.values():
            variant.step(batch)
            if number == 0:  # warms up
                variant.seconds.clear()
    base = steps[BASE].seconds
    ratios = {
        name: statistics.median(s / b for s, b in zip(variant.seconds, base, strict=True))
        for name, variant in steps.items()
    }
    setting = {
        "device": name_of(device),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "batch": BATCH,
        "images": IMAGES,
        "student": "wrn-{depth}-{width}".format(**STUDENT),
        "teacher": "wrn-{depth}-{width}".format(**TEACHER),
        "rounds": arguments.rounds,
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    print(f"a step of {BASE}: {1000 * statistics.median(base):.0f} ms")
    for name, ratio in ratios.items():
        print(f"{name:<20}{ratio:>7.2f}x")
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
        RESULT.write_text(canonical({**setting, "ratios": rounded}) + "\n")
        print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
