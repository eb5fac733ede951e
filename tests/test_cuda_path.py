"""The path through CUDA, on a simulated GPU (sim_cuda): devices, waits, launches, graphs."""

import copy
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, weights
from sim_cuda import SimCuda, WrongDevice, simulated_cuda
from training import KINDS, VERSION, StopAfter, tiny

from harness.common.errors import UserError
from harness.data.batches import Images, epoch_generator
from harness.methods import REGISTRY, get_method
from harness.store.manifest import CellOptions
from harness.train.cell import run_cell
from harness.train.checkpoint import copy_state, to_cpu
from harness.train.exit_status import DONE, STOPPED, WRONG_INPUT
from harness.train.graphs import Graphs
from harness.train.loop import train_epoch
from harness.train.methods.base import Losses
from harness.train.steps import Steps

sys.path.insert(0, str(ROOT / "benchmarks"))
from case import Case, Prepared

CUDA = torch.device("cuda")
BATCH, CLASSES = 8, 4
# A batch's 10 kernels are in all of them. WRN-10-1; what a step costs in a larger network is in
# proportion to its layers.
CEILINGS = {
    "supervised": 1,
}


def kinds() -> list[str]:
    """Return the kinds of cells that take gradient steps, one for each loss."""
    names = [name for name, method in REGISTRY.items() if method.variant_of is None]
    stages = [stage for name in [*names, "kd+vid"] for stage in get_method(name).stages]
    return list(dict.fromkeys(stage.kind for stage in stages if stage.schedule is not None))


@pytest.fixture
def gpu() -> Iterator[SimCuda]:
    with simulated_cuda() as simulated:
        yield simulated


def case(device: torch.device, n_batches: int = 3, extra: int = 0) -> Case:
    return Case(device, BATCH, CLASSES, BATCH * n_batches + extra, "10-1", "10-1")


def prepared(kind: str, on: Case, precision: str = "float32") -> tuple[Prepared, Images, Any]:
    torch.manual_seed(0)
    config = on.config
    few = config.sections["crd"].model_copy(update={"negatives": 8})
    optimizer = config.optimizer.model_copy(update={"precision": precision})
    config = config.model_copy(
        update={"sections": {**config.sections, "crd": few}, "optimizer": optimizer}
    )
    images = on.noise()
    return on.training(kind, config, images), images, config


def one_epoch(kind: str, on: Case, graphs: Graphs | None = None, **options: Any) -> Any:
    p, images, config = prepared(kind, on, **options)
    line = train_epoch(
        p.model, p.training, p.optimizer, images, config, 0, lambda: False, graphs
    )
    return p, {k: v for k, v in line.items() if "second" not in k}


def test_tensors_of_the_cpu_are_refused(gpu: SimCuda) -> None:
    with pytest.raises(WrongDevice, match="add"):
        torch.ones(2, device=CUDA) + torch.ones(2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", kinds())
def test_no_step_waits_for_the_gpu(kind: str, precision: str, gpu: SimCuda) -> None:
    p, images, config = prepared(kind, case(CUDA), precision)
    p.model.train()
    steps = Steps(p.model, p.training, p.optimizer, precision, 0)
    batches = images.augmented(BATCH, epoch_generator(0, 0))
    ready = p.training.prepare_batches(batches, 0)
    steps(next(ready))
    gpu.reset()
    steps(next(ready))
    print("LAUNCH", kind, precision, sum(gpu.launches.values()), gpu.launches["_to_copy"])
    assert gpu.waits == []
    assert gpu.copies == []


@pytest.mark.parametrize("kind", kinds())
def test_an_epoch_is_that_of_the_cpu(kind: str, gpu: SimCuda) -> None:
    _, ours = one_epoch(kind, case(CUDA))
    assert len(gpu.waits) > 0
    _, expected = one_epoch(kind, case(torch.device("cpu")))
    assert ours == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", kinds())
def test_a_graph_has_the_bits_of_single_launches(kind: str, gpu: SimCuda) -> None:
    """Over an epoch whose last batch is smaller, with dropout."""
    on = case(CUDA, n_batches=17, extra=3)
    single, line = one_epoch(kind, on)
    graphs = Graphs(required=True)
    gpu.reset()
    graphed, same_line = one_epoch(kind, on, graphs)
    assert graphs.problem == "" and gpu.launches["graph"] >= 16
    assert line == same_line
    for ours, theirs in ((single.model, graphed.model),):
        a, b = copy_state(ours), copy_state(theirs)
        assert all(torch.equal(a[k], b[k]) for k in a)
