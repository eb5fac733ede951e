"""The path through CUDA, on a simulated GPU (sim_cuda): devices, waits, launches, graphs."""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import test_estimate
import torch
from helpers import ROOT, weights
from sim_cuda import SimCuda, SimGraph, WrongDevice, simulated_cuda
from training import KINDS, VERSION, StopAfter, failure, same_state, tiny

from harness.common.errors import UserError
from harness.data.batches import epoch_generator
from harness.run import measure
from harness.store.manifest import CellOptions
from harness.train import graphs as graphs_module
from harness.train.cell import run_cell
from harness.train.checkpoint import copy_state, to_cpu
from harness.train.evaluate import autocast
from harness.train.exit_status import DONE, STOPPED, WRONG_INPUT
from harness.train.graphs import Graphs, make_graphs
from harness.train.steps import Steps, batch_norms_count_at_once
from harness.train.teacher_cache import PassFile

sys.path.insert(0, str(ROOT / "benchmarks"))
from case import Case, Prepared
from gpu_check import all_kinds, main, start

CUDA = torch.device("cuda")
CPU = torch.device("cpu")
BATCH, CLASSES = 8, 4
# Kernels of a step of WRN-10-1 taught by WRN-10-1, in float32. More layers need more in proportion.
CEILINGS = {
    "supervised": 133,
    "finetune": 133,
    "at": 309,
    "crd": 326,
    "dkd": 246,
    "fitnet": 185,
    "kd": 190,
    "kd_standardised": 221,
    "nst": 345,
    "pkt": 235,
    "rkd": 261,
    "sp": 218,
    "vid": 291,
    "stage1": 233,
    "stage2": 199,
    "kd+vid": 308,
}


def kinds() -> list[str]:
    return [*all_kinds(), "kd+vid"]


@pytest.fixture
def gpu() -> Iterator[SimCuda]:
    with simulated_cuda() as simulated:
        yield simulated


def case(device: torch.device, n_batches: int = 3, extra: int = 0) -> Case:
    return Case(device, BATCH, CLASSES, BATCH * n_batches + extra, "10-1", "10-1", lr=1e-3)


def prepared(
    kind: str, on: Case, precision: str = "float32", answers: Path | None = None
) -> Prepared:
    return start(kind, on, on.noise(), answers, precision=precision)


def measured(line: dict[str, Any]) -> dict[str, Any]:
    """Return a journal line without times."""
    return {k: v for k, v in line.items() if "second" not in k}


def equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    a, b = copy_state(ours), copy_state(theirs)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_tensors_of_the_cpu_are_refused(gpu: SimCuda) -> None:
    with pytest.raises(WrongDevice, match="add"):
        torch.ones(2, device=CUDA) + torch.ones(2)


def test_waits_and_launches_are_counted(gpu: SimCuda) -> None:
    x = torch.ones(4).to(CUDA)
    (x * 2).view(2, 2).sum().item()
    assert gpu.launches == Counter(_to_copy=1, mul=1, sum=1)
    assert len(gpu.waits) == 2 and len(gpu.copies) == 1
    gpu.reset()
    x[x > 0]
    x.cpu()
    torch.ones(4).pin_memory().to(CUDA, non_blocking=True)
    assert len(gpu.waits) == 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", kinds())
def test_no_step_waits_for_the_gpu(kind: str, precision: str, gpu: SimCuda) -> None:
    p = prepared(kind, case(CUDA), precision)
    p.model.train()
    steps = Steps(p.model, p.training, p.optimizer, precision, 0)
    ready = p.training.prepare_batches(p.images.augmented(BATCH, epoch_generator(0, 0)), 0)
    modules = p.model, p.training.module
    with batch_norms_count_at_once(*modules, n_batches=2):
        steps(next(ready))
        gpu.reset()
        batch = next(ready)
        of_batch = sum(gpu.launches.values())
        steps(batch)
    assert gpu.waits == [] and gpu.copies == []
    if precision == "float32":
        assert of_batch <= 20
        assert sum(gpu.launches.values()) <= CEILINGS[kind]


def test_a_frozen_teacher_is_cast_once(gpu: SimCuda) -> None:
    """Then a step casts nothing of it but its input and what its batch norms return."""
    p = prepared("kd", case(CUDA), "bfloat16")
    (batch, *_) = p.images.augmented(BATCH, epoch_generator(0, 0))
    with autocast(CUDA, "bfloat16"):
        gpu.reset()
        expected = p.training.context.teacher_output(batch).logits
    assert gpu.launches["_to_copy"] == 1
    torch.manual_seed(0)
    case(CUDA).network("10-1")
    teacher = case(CUDA).network("10-1").eval()
    with torch.no_grad(), autocast(CUDA, "bfloat16"):
        gpu.reset()
        assert torch.equal(teacher(batch.x), expected)
    assert gpu.launches["_to_copy"] > 10


@pytest.mark.parametrize("kind", kinds())
def test_an_epoch_is_that_of_the_cpu(kind: str, gpu: SimCuda) -> None:
    """It waits once, for its averages."""
    ours, expected = prepared(kind, case(CUDA)), prepared(kind, case(CPU))
    assert measured(ours.epoch()) == pytest.approx(measured(expected.epoch()), rel=1e-4)
    gpu.reset()
    ours.epoch(1)
    assert len(gpu.waits) == 1


@pytest.mark.parametrize("kind", kinds())
def test_a_graph_has_the_bits_of_single_launches(
    kind: str, gpu: SimCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two epochs whose last batch is smaller, with dropout."""
    monkeypatch.setattr("harness.train.graphs.FEWEST", 3)
    on = case(CUDA, n_batches=4, extra=3)
    graphs = Graphs(required=True)
    single, graphed = (prepared(kind, on) for _ in range(2))
    for number in (0, 1):
        assert measured(single.epoch(number)) == measured(graphed.epoch(number, graphs))
    assert graphs.problem == "" and gpu.launches["graph"] == 2 * 3 + 3  # and of the trial
    assert equal(single.model, graphed.model)
    assert equal(single.training.module, graphed.training.module)


def test_what_no_graph_can_hold_is_launched_singly(gpu: SimCuda) -> None:
    """Here a loss that the host looks at."""
    single, tried = (prepared("supervised", case(CUDA)) for _ in range(2))
    losses = tried.training.losses

    def looked_at(*arguments: Any) -> Any:
        found, logits = losses(*arguments)
        assert found["ce"].item() > 0
        return found, logits

    tried.training.losses = looked_at  # type: ignore[method-assign]
    graphs = Graphs()
    assert measured(single.epoch()) == measured(tried.epoch(0, graphs))
    assert equal(single.model, tried.model)
    assert graphs.problem and "_local_scalar_dense" in graphs.problem
    assert gpu.launches["graph"] == 0
    with pytest.raises(UserError, match=r"^--graphs: "):
        tried.epoch(1, Graphs(required=True))


def test_a_graph_with_other_bits_is_not_used(gpu: SimCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    single, tried = (prepared("supervised", case(CUDA)) for _ in range(2))
    replay = SimGraph.replay

    def inexact(graph: SimGraph) -> None:
        replay(graph)
        tried.model.fc.bias.data.add_(1e-3)

    monkeypatch.setattr(SimGraph, "replay", inexact)
    graphs, allowed = Graphs(), Graphs(may_differ=True)
    assert measured(single.epoch()) == measured(tried.epoch(0, graphs))
    assert graphs.problem and equal(single.model, tried.model)
    tried.epoch(1, allowed)
    assert allowed.problem == ""


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("not now")])
def test_a_capture_that_fails_later(
    error: RuntimeError, gpu: SimCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For memory, the cell ends as in any step; otherwise its steps are single from then on."""
    monkeypatch.setattr("harness.train.graphs.FEWEST", 3)
    single, tried = (prepared("supervised", case(CUDA, 5)) for _ in range(2))
    graphs = Graphs()
    assert measured(single.epoch()) == measured(tried.epoch(0, graphs)) and graphs.problem == ""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.cuda, "graph", fail)
    if isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(torch.OutOfMemoryError):
            tried.epoch(1, graphs)
        with pytest.raises(torch.OutOfMemoryError):
            prepared("supervised", case(CUDA, 5)).epoch(0, Graphs(required=True))
        return
    for number in (1, 2):
        assert measured(single.epoch(number)) == measured(tried.epoch(number, graphs))
    assert "not now" in graphs.problem and equal(single.model, tried.model)


def test_fast_graphs_must_compute_the_same_losses(
    gpu: SimCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the same bits; here a graph that never gets its inputs."""
    tensors = graphs_module._tensors
    monkeypatch.setattr(
        graphs_module, "_tensors", lambda b: {k: v.clone() for k, v in tensors(b).items()}
    )
    monkeypatch.setattr(SimGraph, "replay", lambda graph: None)
    graphs = Graphs(may_differ=True)
    prepared("supervised", case(CUDA)).epoch(0, graphs)
    assert graphs.problem


def test_old_torch_uses_no_graphs_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated_cuda():
        assert make_graphs("auto", CUDA, "bits") is not None
        monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
        assert make_graphs("auto", CUDA, "bits") is None
        assert make_graphs("on", CUDA, "fast") == Graphs(True, True, stream=ANY)


def test_cells_train_as_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind, stopped and resumed, beside the same cells of a CPU."""
    monkeypatch.setattr("harness.train.graphs.FEWEST", 3)
    grids = {name: tiny(tmp_path / name) for name in ("cpu", "cuda", "off")}
    for name, grid in grids.items():
        wish = "off" if name == "off" else "auto"
        options = CellOptions.on_this_machine(
            grid.plan.experiment, teacher_cache=10**9, graphs=wish
        )
        device = "cpu" if name == "cpu" else "cuda"
        with nullcontext() if device == "cpu" else simulated_cuda():
            for kind in KINDS:
                directory = grid.store.prepare(grid.cell(kind), options)
                if name == "cuda":
                    assert run_cell(directory, device, 1, VERSION, StopAfter(7)) == STOPPED
                assert run_cell(directory, device, 1, VERSION, lambda: False) == DONE
    torch.use_deterministic_algorithms(False)
    for kind in KINDS:
        assert [e["used"] for e in grids["cuda"].directory(kind).events() if e["event"] == "graphs"]
        on_cpu, graphed, single = (weights(grid.directory(kind)) for grid in grids.values())
        assert same_state(graphed, single)
        for name, tensor in on_cpu.items():
            torch.testing.assert_close(graphed[name], tensor, rtol=0.1, atol=0.02)


def test_graphs_are_refused_on_a_cpu(tmp_path: Path) -> None:
    grid = tiny(tmp_path)
    options = CellOptions.on_this_machine(grid.plan.experiment, graphs="on")
    directory = grid.store.prepare(grid.cell("supervised"), options)
    assert run_cell(directory, "cpu", 1, VERSION, lambda: False) == WRONG_INPUT
    assert failure(directory).startswith("--graphs: ")


def test_a_checkpoint_waits_once(gpu: SimCuda) -> None:
    p = prepared("supervised", case(CUDA))
    p.epoch()
    gpu.reset()
    state = copy_state(p.model)
    assert len(gpu.waits) == 1
    assert all(type(v) is torch.Tensor and v.is_contiguous() for v in state.values())
    for name, tensor in p.model.state_dict().items():
        assert torch.equal(tensor.cpu(), state[name])
    gpu.reset()
    saved = to_cpu(p.optimizer.state_dict())
    assert len(gpu.waits) == 1
    for ours, theirs in zip(
        saved["state"].values(), p.optimizer.state_dict()["state"].values(), strict=True
    ):
        buffer, expected = ours["momentum_buffer"], theirs["momentum_buffer"]
        assert torch.equal(buffer, expected.cpu()) and buffer.stride() == expected.stride()


def test_a_teachers_pass_is_computed_once(gpu: SimCuda, tmp_path: Path) -> None:
    """Before the first step, and read at once by the next cell."""
    lines, launches = [], []
    for _ in range(2):
        p = prepared("kd", case(CUDA, extra=3), answers=tmp_path)
        gpu.reset()
        lines.append(measured(p.epoch()))
        launches.append(sum(gpu.launches.values()))
        assert len(gpu.waits) == 3 - len(lines)  # for the averages; the first, for new outputs, too
    assert lines[0] == lines[1] == measured(prepared("kd", case(CUDA, extra=3)).epoch())
    assert launches[1] < launches[0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gpu_check(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check for people with a GPU runs here in tiny sizes, on CPU and simulated GPU."""
    file = tmp_path / "found.jsonl"
    parts = "versions,against_the_cpu,waits,same_bits,launches,step_times,large_images"
    with nullcontext() if device == "cpu" else simulated_cuda():
        command = ["--quick", "--device", device, "--parts", parts, "--output", str(file)]
        assert main(command) == 0
    torch.use_deterministic_algorithms(False)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert capsys.readouterr().out.count("\n") == len(lines)
    assert lines[-1] == {"part": "summary", "wrong": []}
    judged = Counter(line["part"] for line in lines if "right" in line)
    n = len(all_kinds())
    expected = {"against the cpu": n, "same bits": 2 * 4 + 2 * 3}
    if device == "cuda":
        expected |= {"waits": n, "graphs": 4, "same bits": expected["same bits"] + 4}
    assert judged == expected
    ways = [line for line in lines if line["part"] == "step times" and "way" in line]
    assert len(ways) == (6 if device == "cuda" else 2)
    assert all(line["graphs"] in (None, "used") for line in ways)


def test_gpu_check_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = itertools.count()
    monkeypatch.setattr("gpu_check.state_of", lambda _: [torch.tensor(next(numbers))])
    file = tmp_path / "found.jsonl"
    command = ["--quick", "--device", "cpu", "--parts", "same_bits", "--output", str(file)]
    assert main(command) == 1
    torch.use_deterministic_algorithms(False)
    wrong = json.loads(file.read_text().splitlines()[-1])["wrong"]
    assert len(wrong) == 2 * 4 + 2 * 3 and wrong[0] == "same bits: supervised: twice"


def test_the_estimate_waits_where_counting_begins_and_ends(
    gpu: SimCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "GPU", measure.Limits(2, 3, 1e9, 6))
    asked = test_estimate.request(
        test_estimate.experiment(seeds=[0], methods=["kd"]), devices=("cuda",), graphs="off"
    )
    try:
        found = measure.measure(asked)
    finally:
        torch.use_deterministic_algorithms(False)
    n_things = len(found.networks) + 1 + len(found.steps)  # the teacher's pass is timed twice
    assert sum(wait.startswith("synchronize") for wait in gpu.waits) == 2 * n_things
    assert found.device.kind == "cuda" and found.cell_bytes >= asked.n_bytes


def test_a_pass_that_reads_back_damaged_is_used_all_the_same(
    gpu: SimCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PassFile, "read_all", lambda *_: None)
    p = prepared("kd", case(CUDA), answers=tmp_path)
    assert measured(p.epoch()) == measured(prepared("kd", case(CUDA)).epoch())


def test_another_cells_pass_is_not_waited_for_for_ever(
    gpu: SimCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.train.teacher_cache.LONGEST_WAIT", 0.2)
    monkeypatch.setattr(PassFile, "claim", lambda *_: nullcontext(False))
    p = prepared("kd", case(CUDA), answers=tmp_path)
    assert measured(p.epoch()) == measured(prepared("kd", case(CUDA)).epoch())
