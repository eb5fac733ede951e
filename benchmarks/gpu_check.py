"""Examine the CUDA path on a GPU within a quarter of an hour, and measure what a grid will take.

    python -m benchmarks.gpu_check [--device cuda] [--output FILE] [--minutes 14] [--quick]

Each part prints its result at once and appends it to FILE, a JSON line each, so that a machine that
goes away leaves what was found until then. Parts that do not fit into the minutes are left out. It
needs torch, numpy, pydantic and PyYAML; the table of digits also what `harness run`
needs. With --quick everything is tiny, and runs on a CPU as well. The exit status is 1 if anything
is wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from arguments import machine, settle_of
from case import Case, Prepared, takes_teacher

from harness.data.batches import Images, epoch_generator
from harness.experiment.optimizer import Optimizer
from harness.methods import REGISTRY, get_method
from harness.networks import build
from harness.train.checkpoint import copy_state, to_cpu
from harness.train.device import resolve_device, set_determinism
from harness.train.evaluate import autocast
from harness.train.graphs import Graphs
from harness.train.optimizer import make_optimizer
from harness.train.steps import Steps

TABLE = ("40-2", "16-2", "40-1", "16-1")  # the students of the published CIFAR-100 table
KINDS = ("supervised", "kd", "stage1", "stage2")
DRAWN = "contrast_index"  # what is random in a prepared batch
LR = 1e-3
TOLERANCE = 1e-3  # of losses and gradients in float32, relative to the CPU's


@dataclass
class Check:
    """The arguments of the parts, and what they have found.

    Attributes:
        device: The device under examination.
        quick: Whether all sizes are tiny.
        wrong: What was found wrong, in order.
    """

    device: torch.device
    quick: bool
    output: Path | None
    deadline: float
    wrong: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.type == "cuda"

    def write(self, part: str, **found: Any) -> None:
        """Print a line and append it to the output."""
        line = json.dumps({"part": part, **found})
        print(line, flush=True)
        if self.output is not None:
            with open(self.output, "a") as file:
                file.write(line + "\n")

    def judge(self, part: str, what: str, is_right: bool, **found: Any) -> None:
        """Write a result that is right or wrong."""
        if not is_right:
            self.wrong.append(f"{part}: {what}")
        self.write(part, what=what, right=is_right, **found)

    def case(self, student: str = "16-1", batches: int = 24, dropout: float = 0.0) -> Case:
        """Return the case of these networks; the teacher is that of the published table."""
        if self.quick:
            images = 8 * min(batches, 5)
            return Case(self.device, 8, 4, images, "10-1", "10-1", dropout, LR)
        return Case(self.device, 128, 100, 128 * batches, "40-2", student, dropout, LR)


def start(
    kind: str, case: Case, images: Images, answers: Path | None = None, **optimizer: Any
) -> Prepared:
    """Return a training of a kind of cell from seed 0; `optimizer` changes its settings."""
    torch.manual_seed(0)
    config = case.config
    few = config.sections["crd"].model_copy(update={"negatives": min(4096, case.images // 3)})
    changes = {
        "optimizer": config.optimizer.model_copy(update=optimizer),
        "sections": {**config.sections, "crd": few},
    }
    return case.training(kind, config.model_copy(update=changes), images, answers)


def state_of(run: Prepared) -> list[Tensor]:
    """Return everything that the next epoch depends on, on the CPU."""
    optimizer = to_cpu(run.optimizer.state_dict())["state"].values()
    return [
        *copy_state(run.model).values(),
        *copy_state(run.training.module).values(),
        *(entry["momentum_buffer"] for entry in optimizer),
    ]


def all_kinds() -> list[str]:
    """Return the kinds of cells that take gradient steps."""
    names = [name for name, method in REGISTRY.items() if method.variant_of is None]
    stages = [stage for name in names for stage in get_method(name).stages]
    return list(dict.fromkeys(s.kind for s in stages if s.schedule is not None))


def versions(check: Check) -> None:
    """Say which machine and which code this is."""
    found = machine(check.device)
    if check.on_gpu:
        properties = torch.cuda.get_device_properties(check.device)
        found |= {
            "memory": properties.total_memory,
            "capability": [properties.major, properties.minor],
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    check.write("versions", **found)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute convolutions in float32, not in TF32, which keeps three digits."""
    was = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = was


def against_the_cpu(check: Check) -> None:
    """Compare each method's loss and gradient with the CPU's."""
    cpu = torch.device("cpu")
    for kind in all_kinds():
        found: list[tuple[dict[str, float], Tensor]] = []
        drawn: dict[str, Tensor] = {}
        for device in (cpu, check.device):
            case = replace(check.case("16-1", 1), device=device)
            run = start(kind, case, case.noise())
            run.model.train()
            batches = run.images.augmented(case.batch, epoch_generator(0, 0))
            with exact_products():
                batch = next(iter(run.training.prepare_batches(batches, 0)))
                # A GPU draws other negatives from the same seed.
                drawn = drawn or {k: v for k, v in batch.prepared.items() if k == DRAWN}
                batch = batch.with_prepared(**{k: v.to(device) for k, v in drawn.items()})
                losses, _ = run.training.losses(run.model, batch, 0)
                torch.stack(list(losses.values())).sum().backward()
            gradients = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
            values = {name: loss.item() for name, loss in losses.items()}
            found.append((values, torch.cat(gradients).double().cpu()))
        (expected, gradient), (ours, on_device) = found
        error = ((on_device - gradient).norm() / gradient.norm()).item()
        worst = max(abs(ours[k] - v) / max(abs(v), 1e-6) for k, v in expected.items())
        is_right = worst < TOLERANCE and error < 10 * TOLERANCE
        check.judge("against the cpu", kind, is_right, loss=worst, gradient=error)


def same_bits(check: Check) -> None:
    """Train twice, resumed, with kept answers and with graphs: the bits must be the same."""
    case = check.case("16-1", 24, dropout=0.3)
    for kind in KINDS if check.quick else all_kinds():
        images = case.noise()
        first = start(kind, case, images)
        for number in (0, 1):
            first.epoch(number)
        expected = state_of(first)

        def judge(what: str, run: Prepared) -> None:
            same = all(map(torch.equal, expected, state_of(run)))  # noqa: B023
            check.judge("same bits", f"{kind}: {what}", same)  # noqa: B023

        again = start(kind, case, images)
        for number in (0, 1):
            again.epoch(number)
        judge("twice", again)
        half, resumed = start(kind, case, images), start(kind, case, images)
        half.epoch(0)
        resumed.model.load_state_dict(copy_state(half.model))
        resumed.training.module.load_state_dict(copy_state(half.training.module))
        resumed.optimizer.load_state_dict(to_cpu(half.optimizer.state_dict()))
        resumed.epoch(1)
        judge("resumed", resumed)
        if takes_teacher(kind):
            with tempfile.TemporaryDirectory() as folder:
                for what in ("answers computed beforehand", "answers read"):
                    kept = start(kind, case, images, Path(folder))
                    for number in (0, 1):
                        kept.epoch(number)
                    judge(what, kept)
        if check.on_gpu:
            graphs, graphed = Graphs(), start(kind, case, images)
            for number in (0, 1):
                graphed.epoch(number, graphs)
            judge("graphs", graphed)
            check.judge("graphs", kind, not graphs.problem, problem=graphs.problem)


def waits(check: Check) -> None:
    """Take a step of each method while PyTorch refuses to wait for the device."""
    if not check.on_gpu:
        check.write("waits", left_out="needs a GPU")
        return
    case = check.case("16-1", 3)
    for kind in all_kinds():
        run = start(kind, case, case.noise())
        run.model.train()
        steps = Steps(run.model, run.training, run.optimizer, "float32", 0)
        batches = run.images.augmented(case.batch, epoch_generator(0, 0))
        ready = run.training.prepare_batches(batches, 0)
        steps(next(ready))
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps(next(ready))
            problem = ""
        except RuntimeError as error:
            problem = str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        check.judge("waits", kind, not problem, problem=problem)


def launches(check: Check) -> None:
    """Measure what the host takes to launch a kernel."""
    n = 200 if check.quick else 20_000
    x = torch.zeros(1, device=check.device)
    settle = settle_of(check.device)
    for _ in range(100):
        x.add_(1)
    settle()
    started = time.perf_counter()
    for _ in range(n):
        x.add_(1)
    issued = time.perf_counter() - started
    settle()
    check.write("launches", microseconds=1e6 * issued / n)


def step_times(check: Check) -> None:
    """Time the table's students and methods: single launches, graphs, bfloat16, fast."""
    ways: dict[str, tuple[dict[str, str], bool]] = {
        "float32": ({}, False),
        "float32, graphs": ({}, True),
        "bfloat16": ({"precision": "bfloat16"}, False),
        "bfloat16, graphs": ({"precision": "bfloat16"}, True),
        "fast, graphs": ({"determinism": "fast"}, True),
        "fast, bfloat16, graphs": ({"determinism": "fast", "precision": "bfloat16"}, True),
    }
    for student in TABLE[-1:] if check.quick else TABLE:
        for kind in KINDS[1:2] if check.quick else KINDS:
            for way, (optimizer, graphed) in ways.items():
                if graphed and not check.on_gpu:
                    continue
                if time.monotonic() > check.deadline:
                    check.write("step times", student=student, kind=kind, left_out="no time")
                    return
                mode = optimizer.get("determinism", "bits")
                set_determinism(mode, check.device)
                case = check.case(student, 100)
                images = case.noise()
                graphs = Graphs(may_differ=mode == "fast") if graphed else None
                with tempfile.TemporaryDirectory() as folder:
                    run = start(kind, case, images, Path(folder), **optimizer)
                    run.epoch(0, graphs)
                    run.epoch(1, graphs)  # writes the teacher's outputs
                    del run
                    again = start(kind, case, images, Path(folder), **optimizer)
                    again.epoch(0, graphs)  # reads them
                    line = again.epoch(1, graphs)
                set_determinism()
                check.write(
                    "step times",
                    student=student,
                    kind=kind,
                    way=way,
                    images_per_second=line["images_per_second"],
                    milliseconds=1000 * line["seconds"] * case.batch / case.images,
                    graphs=None if graphs is None else graphs.problem or "used",
                )


def several_cells(check: Check) -> None:
    """Train 1, 2 and 4 cells on the device at once, each in a process of its own."""
    seconds = 2.0 if check.quick else 8.0
    context = multiprocessing.get_context("spawn")
    base: float | None = None
    for n in (1, 2, 4):
        barrier, results = context.Barrier(n), context.Queue()
        arguments = (str(check.device), check.quick, seconds, barrier, results)
        workers = [context.Process(target=_cell, args=arguments) for _ in range(n)]
        for worker in workers:
            worker.start()
        rates = [results.get(timeout=600) for _ in workers]
        for worker in workers:
            worker.join()
        total = sum(rates)
        base = base or total
        check.write("several cells", n=n, images_per_second=total, speedup=total / base)


def _cell(name: str, quick: bool, seconds: float, barrier: Any, results: Any) -> None:
    """Train a KD student for some seconds, and put its images per second."""
    set_determinism()
    device = torch.device(name)
    check = Check(device, quick, None, 0.0)
    case = check.case("16-1", 50)
    run = start("kd", case, case.noise())
    graphs = Graphs() if check.on_gpu else None
    run.epoch(0, graphs)
    barrier.wait(300)
    rates: list[float] = []
    started = time.monotonic()
    number = 0
    while time.monotonic() - started < seconds or not rates:
        number += 1
        rates.append(run.epoch(number, graphs)["images_per_second"])
    results.put(statistics.mean(rates))


def large_images(check: Check) -> None:
    """Time a step of the published CUB-200 grid's largest student, and measure its memory."""
    size, batch, ca = (32, 4, 0.25) if check.quick else (224, 128, 1.0)
    torch.manual_seed(0)
    model = build("mobile_net", 200, ca=ca).to(check.device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model.parameters(), Optimizer(), check.device)
    x = torch.randn(batch, 3, size, size, device=check.device)
    x = x.to(memory_format=torch.channels_last)
    y, settle = torch.arange(batch, device=check.device), settle_of(check.device)
    for precision in ("float32", "bfloat16"):
        if check.on_gpu:
            torch.cuda.reset_peak_memory_stats(check.device)
        times = []
        for _ in range(3 if check.quick else 12):
            settle()
            started = time.perf_counter()
            with autocast(check.device, precision):
                loss = torch.nn.functional.cross_entropy(model(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            settle()
            times.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated(check.device) if check.on_gpu else 0
        check.write(
            "large images",
            network=f"mobile_net {ca}",
            image_size=size,
            batch=batch,
            precision=precision,
            milliseconds=1000 * statistics.median(times[2:]),
            peak_bytes=peak,
        )


def small_table(check: Check) -> None:
    """Train a small table of digits through the ordinary command, and compare its estimate."""
    try:
        import mlflow  # noqa: F401
        import sklearn.datasets  # noqa: F401
    except ImportError as error:
        check.write("small table", left_out=f"no {error.name} here")
        return
    with tempfile.TemporaryDirectory() as folder:
        options = ["--set", "seeds=[0]", "--set", "epochs_scale=0.1", "--store", f"{folder}/runs"]
        if check.quick:
            options += ["--set", "methods=[plain, kd]", "--set", "tasks.shots=[5]"]
        device = ["--device", str(check.device)]
        for name in ("plan", "run", "verdicts"):
            more = [] if name == "verdicts" else device
            # `verdicts` ends with 4 where the committed numbers are of more epochs.
            allowed = (0, 1, 4) if name == "verdicts" else (0,)
            command = [sys.executable, "-m", "harness", name, "experiments/digits.yaml"]
            started = time.perf_counter()
            done = subprocess.run(
                [*command, *options, *more], capture_output=True, text=True, check=False
            )
            text = (done.stdout + done.stderr).strip().splitlines()
            said = [line for line in text if line.startswith("about ")] or text[-3:]
            found = {"status": done.returncode, "seconds": time.perf_counter() - started}
            check.judge("small table", name, done.returncode in allowed, **found, said=said)


PARTS: tuple[Callable[[Check], None], ...] = (
    versions,
    against_the_cpu,
    waits,
    same_bits,
    launches,
    step_times,
    several_cells,
    large_images,
    small_table,
)


def main(argv: list[str] | None = None) -> int:
    """Run all parts, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto (the default), cuda, cuda:N or cpu")
    parser.add_argument("--output", type=Path, help="file to which each result is appended")
    parser.add_argument("--minutes", type=float, default=14, help="no part begins after them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--parts", help="some of the parts, separated by commas")
    arguments = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * arguments.minutes
    check = Check(resolve_device(arguments.device), arguments.quick, arguments.output, deadline)
    set_determinism()
    chosen = arguments.parts.split(",") if arguments.parts else None
    for part in PARTS:
        name = part.__name__.replace("_", " ")
        if chosen is not None and part.__name__ not in chosen:
            continue
        if time.monotonic() > deadline:
            check.write(name, left_out="no time")
            continue
        started = time.monotonic()
        try:
            part(check)
        except Exception as error:
            traceback.print_exc()
            check.judge(name, "it ran", False, error=f"{type(error).__name__}: {error}"[:300])
        check.write(name, seconds=round(time.monotonic() - started, 1))
    check.write("summary", wrong=check.wrong)
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
