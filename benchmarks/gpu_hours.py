"""The work that an hour of a GPU buys, estimated from counts: nothing here was measured on a GPU.

    python benchmarks/gpu_hours.py [--save]

Each kind of step of the paper's experiments is taken once on the simulated GPU of the tests, which
counts kernels, bytes and products. A kernel is assumed to take the longer of moving its bytes and
computing its products, at the rates below, and a moment more; the host is assumed to take
`LAUNCH` to launch it, unless the step is a CUDA graph. From these times the estimate of
`harness plan` makes hours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from arguments import keep, machine, parser_of
from case import images_of
from frame import Record, record, rounded
from grid_power import CLASSES, FOLDER, images_trained_on, without_content

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from sim_cuda import SimCuda, Work, simulated_cuda

from harness.cell import Cell
from harness.data.batches import Images, epoch_generator
from harness.experiment.experiment import Experiment
from harness.experiment.file import read
from harness.networks import NetworkOptions
from harness.networks.base import Network
from harness.plan import Plan, make_plan
from harness.run.devices import DeviceFacts
from harness.run.estimate import estimate
from harness.run.speeds import NetworkSpeed, Speeds, speed_key, takes_steps
from harness.store import Store
from harness.train.evaluate import autocast
from harness.train.methods.base import Context, make_training
from harness.train.optimizer import make_optimizer
from harness.train.steps import Steps, batch_norms_count_at_once
from harness.train.teacher_cache import PassFile

# An H100 (SXM): what kernels of such sizes are assumed to reach of its 3.35 TB/s, its 490 (TF32)
# and 990 (bfloat16) TFLOP/s, without sparsity.
BANDWIDTH, TF32, BFLOAT16 = 2.3e12, 60e12, 150e12
MOMENT, LAUNCH = 1.5e-6, 6e-6  # seconds a kernel, and to launch one
BATCH = 16  # counted; bytes and products grow with the batch
IMAGE_SIZE = {"cifar100": 32, "cub200": 224}
# Experiment -> seeds.
COUNTED = {
    "cifar100_wide_resnet.yaml": 10,
    "crd_same.yaml": 8,
    "crd_cross.yaml": 6,
    "cub200_mobile_net.yaml": 5,
}


def seconds_of(work: list[Work], scale: float, graphs: bool) -> float:
    """Return the seconds of some operations for a batch `scale` times as large."""
    on_device = sum(
        max(scale * w.n_bytes / BANDWIDTH, scale * w.flops / (BFLOAT16 if w.is_half else TF32))
        + w.kernels * MOMENT
        for w in work
    )
    return on_device if graphs else max(on_device, LAUNCH * sum(w.kernels for w in work))


class StepCounter:
    """Counts the steps of an experiment."""

    def __init__(self, gpu: SimCuda, experiment: Experiment, precision: str) -> None:
        self.gpu, self.experiment, self.precision = gpu, experiment, precision
        name = experiment.dataset.name
        self.n_classes = CLASSES[name]
        self.images: Images = images_of(
            2 * BATCH, self.n_classes, torch.device("cuda"), IMAGE_SIZE[name]
        )

    def network(self, options: NetworkOptions) -> Network:
        """Return a network on the simulated GPU."""
        model = options.build(self.n_classes).to("cuda")
        return model.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, options: NetworkOptions) -> list[Work]:
        """Return the work of a forward pass over a batch."""
        model = self.network(options).eval()
        batch = next(iter(self.images.augmented(BATCH, epoch_generator(0, 0))))
        self.gpu.reset()
        with autocast(self.images.device, self.precision):
            model(batch.x)
        return list(self.gpu.work)

    def step(self, cell: Cell, teacher: NetworkOptions | None) -> list[Work]:
        """Return the work of a step, the teacher's forward pass included."""
        student = self.network(cell.config.network)
        guide = self.network(teacher) if teacher else None
        context = Context(cell.config, {"train": self.images}, self.n_classes, student, guide)
        training = make_training(cell.kind, context)
        module = training.module.to("cuda")
        parameters = [*student.parameters(), *module.parameters()]
        optimizer = make_optimizer(parameters, cell.config.optimizer, self.images.device)
        steps = Steps(student, training, optimizer, self.precision, 0)
        student.train()
        batches = training.prepare_batches(self.images.augmented(BATCH, epoch_generator(0, 0)), 0)
        with batch_norms_count_at_once(student, module, n_batches=2):
            steps(next(batches))
            self.gpu.reset()
            steps(next(batches))
        return list(self.gpu.work)


def hours_of(path: Path, seeds: int, precision: str) -> list[dict[str, Any]]:
    """Return the hours that an experiment takes with single launches and with graphs."""
    experiment = read(path)
    experiment = experiment.model_copy(
        update={
            "seeds": tuple(range(seeds)),
            "optimizer": experiment.optimizer.model_copy(update={"precision": precision}),
        }
    )
    dataset = without_content(experiment)
    plan = make_plan(experiment, dataset)
    size = experiment.optimizer.batch_size
    trained = [(c, plan.teacher_of(c)) for c in plan.cells.values() if takes_steps(c)]
    cells = {speed_key(*pair): pair for pair in trained}
    with simulated_cuda() as gpu:
        counter = StepCounter(gpu, experiment, precision)
        options = experiment.networks
        forward = {network: counter.forward(network) for network in options}
        steps = {key: counter.step(*pair) for key, pair in cells.items()}
        made = {network: network.build(counter.n_classes) for network in options}
    rows = []
    for graphs in (False, True):
        speeds = Speeds(
            networks={
                network: NetworkSpeed(
                    seconds_of(work, 512 / BATCH, graphs) / 512,
                    sum(p.numel() for p in made[network].parameters()),
                    PassFile.size(1, made[network].embedding_dim),
                    seconds_of(work, size / BATCH, graphs),
                )
                for network, work in forward.items()
            },
            steps={key: seconds_of(work, size / BATCH, graphs) for key, work in steps.items()},
            device=DeviceFacts("cuda", "an H100, assumed"),
        )
        cost = estimate(plan, Store(Path("nowhere")), dataset, speeds, 20 * 10**9)
        total = sum(cost.seconds.values())
        rows.append(
            {
                "experiment": path.name,
                "seeds": seeds,
                "precision": precision,
                "graphs": graphs,
                "kernels": kernels_of(plan, steps),
                "hours": rounded(total / 3600),
                "images_per_hour": rounded(images_trained_on(plan, dataset) / (total / 3600)),
            }
        )
    return rows


def kernels_of(plan: Plan, steps: dict[str, list[Work]]) -> dict[str, int]:
    """Return the kernels of a step of each kind of cell, of the largest network."""
    found: dict[str, int] = {}
    for cell in plan.cells.values():
        if takes_steps(cell):
            n = sum(work.kernels for work in steps[speed_key(cell, plan.teacher_of(cell))])
            found[cell.kind] = max(n, found.get(cell.kind, 0))
    return found


def main(argv: list[str] | None = None) -> Record:
    """Count, and estimate."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=1)
    arguments = parser.parse_args(argv)
    chosen = list(COUNTED.items())[: 1 if arguments.quick else None]
    rows = [
        row
        for name, seeds in chosen
        for precision in ("float32", "bfloat16")
        for row in hours_of(FOLDER / name, seeds, precision)
    ]
    for row in rows:
        print(row)
    setting = {
        "assumed of an H100": f"{BANDWIDTH / 1e12:g} TB/s",
        "TF32": f"{TF32 / 1e12:g} TFLOP/s",
        "bfloat16": f"{BFLOAT16 / 1e12:g} TFLOP/s",
        "per kernel": f"{1e6 * MOMENT:g} µs, and {1e6 * LAUNCH:g} µs to launch it",
    }
    kept = record("gpu_hours", machine(torch.device("cpu")), setting, rows=rows)
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
