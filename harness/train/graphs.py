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


@dataclass
class Graphs:
    """Whether the steps of one training are CUDA graphs, and the memory that its graphs share.

    Attributes:
        required: Whether it is an error if they cannot be.
        may_differ: Whether the graph's bits may differ from those of single launches.
        problem: Why they are not; empty if they are; None before the first epoch decides it.
    """

    required: bool = False
    may_differ: bool = False
    problem: str | None = None
    pool: Any = field(default_factory=lambda: torch.cuda.graph_pool_handle())

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
        is_worth_it = n_batches >= FEWEST and not self.problem
        return GraphedSteps(steps, self.pool) if is_worth_it else steps, batches

    def _probe(self, steps: Steps, batches: list[Batch]) -> str:
        """Return why graphs cannot take these steps, or nothing if they can."""
        before = State.save(steps)
        try:
            single = _after(replace(steps), batches)
            before.restore(steps)
            graphed = _after(GraphedSteps(replace(steps), self.pool), batches)
        except RuntimeError as error:  # torch raises no other one
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return f"the step cannot be a CUDA graph ({line[:120]})"
        finally:
            before.restore(steps)
        if self.may_differ or single.equals(graphed):
            return ""
        return "as a CUDA graph, the step has other bits here"


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
    if wish == "off" or device.type != "cuda":
        return None
    return Graphs(required=wish == "on", may_differ=determinism == "fast")


class GraphedSteps:
    """Takes the steps of an epoch: the first by single launches, then replays of one graph.

    A batch of another size, as the last of an epoch may be, is taken by single launches.
    """

    def __init__(self, steps: Steps, pool: Any) -> None:
        self.steps, self.pool = steps, pool
        self.stream = torch.cuda.Stream()
        self.inputs: dict[str, Tensor] | None = None
        self.graph: Any = None

    def __call__(self, batch: Batch) -> None:
        """Take the step of a batch."""
        given = _tensors(batch)
        if self.inputs is None:
            self.inputs = {name: tensor.clone() for name, tensor in given.items()}
            self._warm_up(batch)
            return
        if any(self.inputs[name].shape != tensor.shape for name, tensor in given.items()):
            self.steps(batch)
            return
        for name, tensor in given.items():
            self.inputs[name].copy_(tensor)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=self.pool):
                self.steps(_with_tensors(batch, self.inputs))
        self.graph.replay()

    def _warm_up(self, batch: Batch) -> None:
        """Take a step on a side stream, as a capture needs it: libraries set themselves up."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.steps(batch)
        current.wait_stream(self.stream)


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


def _modules(steps: Steps) -> tuple[nn.Module, nn.Module]:
    return steps.model, steps.training.module


def _copied(tree: Any) -> Any:
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, tree)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of a batch that lie on the device, by name."""
    return {"x": batch.x, "y": batch.y, "index": batch.index, **batch.prepared}


def _with_tensors(batch: Batch, tensors: dict[str, Tensor]) -> Batch:
    """Return the batch with these tensors in place of its own."""
    own = {name: tensors[name] for name in ("x", "y", "index")}
    return replace(batch, **own, prepared={n: t for n, t in tensors.items() if n not in own})
