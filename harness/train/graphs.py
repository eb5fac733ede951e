"""Steps as CUDA graphs, which launch all kernels of a step at once.

A small network's step is hundreds of kernels, and the host takes longer to launch them than the GPU
to compute them. Each epoch captures its own graph, so the learning rate and whatever else changes
between epochs needs no special care.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from harness.common.errors import UserError
from harness.data.batches import Batch
from harness.train.steps import Steps

PROBED = 4  # steps that are taken both ways, to compare their bits
FEWEST = 16  # batches of an epoch that are worth a graph
CLOSE = 0.05  # relative difference of the losses of a few steps that is put down to rounding
TESTED = (2, 12)  # torch before it keeps a capture's memory after a failure (pytorch#180395)


@dataclass
class Graphs:
    """Whether the steps of one training are CUDA graphs.

    Attributes:
        required: Whether it is an error if they cannot be.
        may_differ: Whether the graph's bits may differ from those of single launches.
        problem: Why they are not; empty if they are; None before the first epoch decides it.
        stream: What captures run on: always the same, as libraries keep memory for each stream.
    """

    required: bool = False
    may_differ: bool = False
    problem: str | None = None
    stream: Any = field(default_factory=lambda: torch.cuda.Stream())

    def choose(
        self, steps: Steps, batches: Iterator[Batch], n_batches: int
    ) -> tuple[Steps | GraphedSteps, Iterator[Batch]]:
        """Return what takes the steps of an epoch, and its batches.

        The first epoch takes a few steps both ways, and undoes them.

        Raises:
            UserError: Graphs are required and cannot be.
        """
        if self.problem is None:
            first = list(islice(batches, PROBED))
            self.problem = self._probe(steps, first)
            batches = chain(first, batches)
            if self.problem and self.required:
                raise UserError(f"--graphs: {self.problem}; use --graphs auto, or off")
        is_worth_it = not self.problem and (self.required or n_batches >= FEWEST)
        return GraphedSteps(steps, self) if is_worth_it else steps, batches

    def _probe(self, steps: Steps, batches: list[Batch]) -> str:
        """Return why graphs cannot take these steps, or nothing if they can."""
        before = State.save(steps)
        try:
            single = _after(replace(steps), batches)
            before.restore(steps)
            graphed = _after(GraphedSteps(replace(steps), self), batches)
        except torch.OutOfMemoryError:
            raise  # that says nothing about graphs
        except RuntimeError as error:  # torch raises no other one
            return _reason(error)
        finally:
            before.restore(steps)
        if single.resembles(graphed) if self.may_differ else single.equals(graphed):
            return ""
        return "as a CUDA graph, the step computes something else here"


def make_graphs(wish: str, device: torch.device, determinism: str) -> Graphs | None:
    """Return how a training takes its steps as CUDA graphs; None for single launches.

    Args:
        wish: on, off, or auto: if they keep the bits, where determinism asks for that.
        device: The device of the training.
        determinism: bits or fast.

    Raises:
        UserError: They are wished for on another device.
    """
    if wish == "on" and device.type != "cuda":
        raise UserError(f"--graphs: on needs a CUDA device, not {device.type}; use auto, or off")
    is_old = tuple(map(int, torch.__version__.split(".")[:2])) < TESTED
    if wish == "off" or device.type != "cuda" or (wish == "auto" and is_old):
        return None
    return Graphs(required=wish == "on", may_differ=determinism == "fast")


class GraphedSteps:
    """Takes the steps of an epoch: the first by single launches, then replays of one graph.

    A batch of another size, as the last of an epoch may be, is taken by single launches.
    """

    def __init__(self, steps: Steps, graphs: Graphs) -> None:
        self.steps, self.graphs = steps, graphs
        self.inputs: dict[str, Tensor] | None = None
        self.graph: Any = None

    def __call__(self, batch: Batch) -> None:
        """Take the step of a batch."""
        given = _tensors(batch)
        if self.inputs is None:
            self.inputs = {name: tensor.clone() for name, tensor in given.items()}
            self._warm_up(batch)
            return
        other_size = any(self.inputs[n].shape != tensor.shape for n, tensor in given.items())
        if other_size or self.graphs.problem:
            self.steps(batch)
            return
        for name, tensor in given.items():
            self.inputs[name].copy_(tensor)
        if self.graph is None:
            self._capture(batch)
        if self.graph is None:
            self.steps(batch)
        else:
            self.graph.replay()

    def _capture(self, batch: Batch) -> None:
        """Capture a step, which computes nothing yet; if that fails, the steps stay single."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, as a loader's that pins memory, may go on using the GPU meanwhile.
        mode = "thread_local"
        try:
            with torch.cuda.graph(graph, stream=self.graphs.stream, capture_error_mode=mode):
                self.steps(_with_tensors(batch, self.inputs or {}))
        except RuntimeError as error:
            is_trial = self.graphs.problem is None
            if is_trial or self.graphs.required or isinstance(error, torch.OutOfMemoryError):
                raise
            self.graphs.problem = _reason(error)
            return
        self.graph = graph

    def _warm_up(self, batch: Batch) -> None:
        """Take a step on a side stream, as a capture needs it: libraries set themselves up."""
        current, side = torch.cuda.current_stream(), self.graphs.stream
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self.steps(batch)
        current.wait_stream(side)


@dataclass
class State:
    """Copies of everything that a step changes, on the device."""

    modules: list[dict[str, Tensor]]
    optimizer: dict[str, Any]
    random: Tensor
    sums: Tensor | None

    @staticmethod
    def save(steps: Steps) -> State:
        """Copy the state."""
        modules = [_copied(module.state_dict()) for module in _modules(steps)]
        sums = None if steps.sums is None else steps.sums.clone()
        return State(
            modules, _copied(steps.optimizer.state_dict()), torch.cuda.get_rng_state(), sums
        )

    def restore(self, steps: Steps) -> None:
        """Bring the state back."""
        for module, state in zip(_modules(steps), self.modules, strict=True):
            for name, tensor in module.state_dict().items():
                tensor.copy_(state[name])
        steps.optimizer.load_state_dict(_copied(self.optimizer))
        steps.optimizer.zero_grad(set_to_none=True)
        torch.cuda.set_rng_state(self.random)

    def resembles(self, other: State) -> bool:
        """Return whether two states come from the same losses, but for what the order of sums does.

        A graph that misses its inputs has other losses at once.
        """
        if self.sums is None or other.sums is None:
            return self.sums is other.sums
        return torch.allclose(self.sums, other.sums, rtol=CLOSE)

    def equals(self, other: State) -> bool:
        """Return whether two states have the same bits."""
        ours, theirs = (
            [x for x in tree_leaves((s.modules, s.optimizer, s.sums)) if isinstance(x, Tensor)]
            for s in (self, other)
        )
        return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _after(take: Steps | GraphedSteps, batches: Iterable[Batch]) -> State:
    """Take the steps of some batches, and return the state after them."""
    for batch in batches:
        take(batch)
    return State.save(take.steps if isinstance(take, GraphedSteps) else take)


def _reason(error: RuntimeError) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"the step cannot be a CUDA graph ({line[:120]})"


def _modules(steps: Steps) -> list[nn.Module]:
    averaged = [] if steps.average is None else [steps.average.model]
    return [steps.model, steps.training.module, *averaged]


def _copied(tree: Any) -> Any:
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, tree)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of a batch that lie on the device, by name."""
    return {"x": batch.x, "y": batch.y, "index": batch.index, **batch.prepared}


def _with_tensors(batch: Batch, tensors: dict[str, Tensor]) -> Batch:
    """Return the batch with these tensors in place of its own."""
    own = {name: tensors[name] for name in ("x", "y", "index")}
    return replace(batch, **own, prepared={n: t for n, t in tensors.items() if n not in own})
