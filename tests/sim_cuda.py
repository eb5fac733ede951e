"""A stand-in for a GPU: tensors that say they are on cuda:0 and compute on the CPU.

    with simulated_cuda() as gpu:
        ..  # code that trains on "cuda"
    gpu.launches, gpu.waits

PyTorch takes CUDA's own ways with them: cuDNN's batch norm, autocast of CUDA, its choice of
optimiser. An operation that gets a tensor of the CPU beside one of the GPU fails, as on a GPU.
Kernels are counted, and so is everything that would make the host wait for the device. A CUDA graph
is recorded and replayed; what a real one refuses fails here, too. The numbers are the CPU's, so a
test can ask for equal bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import shutil
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

CUDA = torch.device("cuda", 0)
SOURCE = Path(__file__).with_suffix(".cpp")
HARNESS = f"{SOURCE.parent.parent}/harness/"

# Operations that only look at memory that is there, or reserve some.
NO_KERNEL = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "alias"),
    *("unsqueeze", "squeeze", "detach", "as_strided", "unbind", "split", "split_with_sizes"),
    *("view_as", "unfold", "diagonal", "lift_fresh", "_reshape_alias", "empty", "empty_like"),
    *("new_empty", "empty_strided", "new_empty_strided", "set_", "resize_"),
}
# Operations whose result, or its size, the host has to know.
WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"),
    *("unique_consecutive", "is_nonzero", "bincount", "repeat_interleave"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPYING = {"copy_", "_to_copy"}
# They change their running statistics, and their schemas do not say so.
BATCH_NORMS = {"cudnn_batch_norm", "native_batch_norm"}


class Work(NamedTuple):
    """The work of an operation: kernels, bytes read and written, products and sums."""

    kernels: int
    n_bytes: int
    flops: int
    is_half: bool


class WrongDevice(RuntimeError):
    """Tensors of the CPU and of the GPU met in one operation."""


class CaptureError(RuntimeError):
    """A CUDA graph cannot hold this operation."""


class SimTensor(Tensor):
    """A tensor on the simulated GPU.

    Attributes:
        inner: Its values, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> SimTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"SimTensor({self.inner})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> SimTensor:
        return SimTensor(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return current().run(func, args, kwargs or {})

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")


class _Mode(TorchDispatchMode):
    """Sees what makes tensors on the GPU, which no argument shows."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return current().run(func, args, kwargs or {})


_Generator = torch.Generator


class SimGenerator(_Generator):
    """A random generator of the simulated GPU, or a usual one if it is made for the CPU."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        on_gpu = torch.device(device).type == "cuda"
        return _Generator.__new__(cls if on_gpu else _Generator)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA


class SimGraph:
    """A CUDA graph: the operations of a capture, which `replay` repeats on the same memory."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def replay(self) -> None:
        """Repeat all operations; to the GPU it is one launch."""
        gpu = current()
        for step in self.steps:
            step()
        gpu.launches["graph"] += 1


class SimCuda:
    """The simulated GPU.

    Attributes:
        launches: Operation -> the number of kernels that it has launched.
        waits: What made the host wait for the device, and where, in order.
        copies: The places that have copied from the host to the device, in order.
        work: The operations that have launched kernels, in order.
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: list[str] = []
        self.copies: list[str] = []
        self.work: list[Work] = []
        self.refuses_waits = False
        self.graph: SimGraph | None = None
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def reset(self) -> None:
        """Begin to count anew."""
        self.launches.clear()
        self.waits.clear()
        self.copies.clear()
        self.work.clear()

    def wait(self, why: str) -> None:
        """Note that the host waits for the device."""
        if self.graph is not None:
            raise CaptureError(f"{why} at {place()} in a CUDA graph")
        if self.refuses_waits:
            raise RuntimeError(f"called a synchronizing CUDA operation: {why} at {place()}")
        self.waits.append(f"{why} at {place()}")

    @contextlib.contextmanager
    def capture(self, graph: SimGraph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        """Record what runs inside; as on a GPU, nothing has changed afterwards.

        Options that the harness does not need are refused: a memory pool must outlive its graphs,
        and in another mode than thread_local a loader's thread would break the capture.
        """
        assert capture_error_mode == "thread_local"
        random = torch.get_rng_state()
        self.graph, self._before = graph, {}
        launches = self.launches.copy()
        try:
            yield
        finally:
            self.graph = None
            torch.set_rng_state(random)
            for changed, before in self._before.values():
                changed.copy_(before)
            self.launches = launches

    def refuse_waits(self, mode: str) -> None:
        """Raise an error for each wait from now on, in the mode "error"."""
        self.refuses_waits = mode == "error"

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation of PyTorch whose arguments or result may be on the GPU."""
        name = func._schema.name.partition("::")[2]
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        on_gpu = any(isinstance(t, SimTensor) for t in tensors)
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if name in COPYING:
            return self._copy(func, name, args, kwargs, target)
        if on_gpu:
            self._check(name, args, tensors)
        elif target is None or target.type != "cuda":
            return func(*args, **kwargs)
        if target is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        out = self._compute(func, name, inner_args, inner_kwargs)
        if name in ("_local_scalar_dense", "equal", "is_nonzero") or (
            target is not None and target.type == "cpu"
        ):
            return out
        flops = flop_registry.get(func._overloadpacket)
        n_flops = flops(*inner_args, **inner_kwargs, out_val=out) if flops else 0
        self._count(name, tensors, out, n_flops)
        if func._schema.is_mutable:
            if name.startswith(("_foreach", "_fused")):
                return None if not func._schema.returns else tree_map(_wrap, out)
            if name.endswith("_"):
                return args[0]
        return tree_map(_wrap, out)

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Run an operation on the CPU's tensors, and record it if a graph is being captured."""
        func = ON_CPU.get(name, func)
        if self.graph is None:
            return func(*args, **kwargs)
        changed = _changed(func, name, args)
        for tensor in changed:
            pointer = tensor.untyped_storage().data_ptr()
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self._before.setdefault(pointer, (whole, whole.clone()))
        out = func(*args, **kwargs)
        given = {_pointer(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        fresh = [t for t in tree_leaves(out) if isinstance(t, Tensor) and _pointer(t) not in given]
        if not changed and not fresh:
            return out  # a view stays one

        def again() -> None:
            repeated = tree_leaves(func(*args, **kwargs))
            for old, new in zip(tree_leaves(out), repeated, strict=True):
                if isinstance(old, Tensor) and any(old is t for t in fresh):
                    old.copy_(new)

        self.graph.steps.append(again)
        return out

    def _copy(self, func: Any, name: str, args: Any, kwargs: Any, to: Any) -> Any:
        """Copy between the CPU and the GPU, or on one of them."""
        if name == "copy_":
            target, source = args[:2]
            was, is_now = isinstance(source, SimTensor), isinstance(target, SimTensor)
            asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source = args[0]
            was = isinstance(source, SimTensor)
            is_now = was if to is None else to.type == "cuda"
            asynchronous = kwargs.get("non_blocking", False)
        if not was and not is_now:
            return func(*args, **kwargs)
        if was and not is_now:
            self.wait("a copy to the host")
        elif is_now and not was and source.dim() + source.numel() != 1:
            if self.graph is not None:
                raise CaptureError(f"a copy from the host at {place()} in a CUDA graph")
            self.copies.append(place())
            if not asynchronous:
                self.wait("a copy from the host")
            elif not _is_pinned(source):
                self.wait("a copy from memory that is not pinned")
        inner_kwargs = {
            k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")
        }
        inner_args = tree_map(_inner, args)
        out = self._compute(func, name, inner_args, tree_map(_inner, inner_kwargs))
        self._count(name, [source], out)
        if name == "copy_":
            return target
        return SimTensor(out) if is_now else out

    def _check(self, name: str, args: Any, tensors: list[Tensor]) -> None:
        """Raise WrongDevice if the operation gets tensors of the CPU that CUDA would refuse."""
        for tensor in tensors:
            if isinstance(tensor, SimTensor) or tensor.dim() == 0:
                continue
            if name not in INDEXING:
                raise WrongDevice(f"{name} gets a tensor {tuple(tensor.shape)} of the CPU")
            self.wait("an index of the CPU")
        if name in WAITING:
            self.wait(name)
        if name in INDEXING and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        ):
            self.wait("a mask as an index")

    def _count(self, name: str, given: list[Tensor], out: Any, flops: int = 0) -> None:
        """Count the kernels that CUDA would launch for an operation, and what they do."""
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if name in NO_KERNEL:
            return
        n = 1
        if name == "convolution":
            n += any(t.dim() == 1 for t in given)  # the bias
        elif name == "convolution_backward":
            n = len(made)  # by input, weight, bias
        elif name.startswith(("_foreach", "_fused")):
            n = max(1, -(-len(given) // 100))  # a launch takes the addresses of so many tensors
        self.launches[name] += n
        # Of an array that is indexed, as much is read as is written.
        moved = 2 * made if name in INDEXING else [*given, *made]
        is_half = any(t.dtype in (torch.bfloat16, torch.float16) for t in given)
        self.work.append(Work(n, sum(t.nbytes for t in moved), flops, is_half))


def place() -> str:
    """Return the line of the harness, or else of PyTorch, that runs now."""
    frames = [f for f in traceback.extract_stack() if "sim_cuda" not in f.filename]
    for frame in reversed(frames):
        if frame.filename.startswith(HARNESS):
            return f"{Path(frame.filename).relative_to(HARNESS)}:{frame.lineno}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "autograd"


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, SimTensor) else value


def _wrap(value: Any) -> Any:
    is_plain = isinstance(value, Tensor) and not isinstance(value, SimTensor)
    return SimTensor(value) if is_plain else value


def _pointer(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _changed(func: Any, name: str, args: Any) -> list[Tensor]:
    """Return the tensors of the CPU that an operation overwrites."""
    if name in BATCH_NORMS:
        return [t for t in args[3:5] if t is not None]
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    written = [
        value
        for argument, value in zip(schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [t for t in tree_leaves(written) if isinstance(t, Tensor)]


PINNED: set[int] = set()


def _is_pinned(tensor: Tensor) -> bool:
    return _pointer(tensor) in PINNED


def _pin(tensor: Tensor, *_: Any) -> Tensor:
    pinned = tensor.clone()
    PINNED.add(_pointer(pinned))
    return pinned


def _batch_norm(*args: Any) -> tuple[Tensor, ...]:
    return (*torch.ops.aten.native_batch_norm(*args), torch.empty(0, dtype=torch.uint8))


def _batch_norm_backward(
    x: Tensor, gradient: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *statistics, eps, _ = rest
    return torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, *statistics, True, eps, [True, True, True]
    )


# What only cuDNN has, by the CPU's means.
ON_CPU: dict[str, Callable[..., Any]] = {
    "cudnn_batch_norm": _batch_norm,
    "cudnn_batch_norm_backward": _batch_norm_backward,
}
_gpus: list[SimCuda] = []


def current() -> SimCuda:
    """Return the GPU that is simulated now."""
    return _gpus[-1]


@functools.cache
def _let_backward_run() -> str:
    """Return why no backward pass can run here, or nothing once one can."""
    if shutil.which("g++") is None:
        return "needs g++"
    from torch.utils.cpp_extension import include_paths, library_paths

    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/sim_cuda.so"
        options = ["-shared", "-fPIC", "-std=c++20", *(f"-I{path}" for path in include_paths())]
        libraries = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-lc10"]
        command = ["g++", *options, str(SOURCE), "-o", library, *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"g++ cannot compile {SOURCE.name}: {done.stderr[-200:]}"
        if ctypes.CDLL(library).patch() != 0:
            return "memory of PyTorch cannot be changed here"
    return ""


@contextlib.contextmanager
def simulated_cuda(memory: int = 80 * 2**30) -> Iterator[SimCuda]:
    """Simulate a GPU with `memory` bytes; skip the test where that is impossible."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    torch._C._ensureCUDADeviceGuardSet()  # where conftest.py has not: one test alone, a benchmark
    if problem := _let_backward_run():
        pytest.skip(problem)
    gpu = SimCuda()
    stream = mock.MagicMock(name="stream")
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_name": lambda *_: "Simulated GPU",
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=memory, major=9, minor=0),
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "set_sync_debug_mode": gpu.refuse_waits,
        "mem_get_info": lambda *_: (memory, memory),
        "empty_cache": lambda: None,
        "synchronize": lambda *_: gpu.wait("synchronize"),
        "Stream": lambda *_, **__: stream,
        "current_stream": lambda *_: stream,
        "stream": lambda _: contextlib.nullcontext(),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "CUDAGraph": SimGraph,
        "graph": gpu.capture,
    }
    lifts_cpu_tensors = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        amp = "torch.cuda.amp.common.amp_definitely_not_available"
        stack.enter_context(mock.patch(amp, lambda: False))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pin))
        stack.enter_context(mock.patch.object(torch, "Generator", SimGenerator))
        types = "torch.optim.optimizer._foreach_supported_types"
        stack.enter_context(mock.patch(types, [Tensor, torch.nn.Parameter, SimTensor]))
        torch._C._set_only_lift_cpu_tensors(True)
        _gpus.append(gpu)
        try:
            with _Mode():
                yield gpu
        finally:
            _gpus.pop()
            PINNED.clear()
            torch._C._set_only_lift_cpu_tensors(lifts_cpu_tensors)
