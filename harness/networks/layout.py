"""Where a module has its last layer, its maps and its stem, found in one pass over two images.

The pass is on the meta device, which knows shapes alone. So no list of architectures is needed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.common.errors import UserError, nearest, one_line

N_MAPS = 4  # at most: those of the lowest resolutions, as shallower ones see little more than edges


@dataclass(frozen=True)
class Map:
    """A module whose output is a map.

    Attributes:
        name: Of the module.
        channels: The number of the map's channels.
        channels_last: Whether it is (B, h, w, channels) and not (B, channels, h, w).
    """

    name: str
    channels: int
    channels_last: bool


@dataclass(frozen=True)
class Layout:
    """Where a module has what.

    Attributes:
        head: The name of the last linear layer.
        embedding_dim: The number of values of its input.
        maps: From shallow to deep.
        stem: The name of the first convolution, if there is one.
        stem_pool: The name of the max-pooling that is the next to make the images smaller, if it is
            one.
    """

    head: str
    embedding_dim: int
    maps: tuple[Map, ...]
    stem: str | None
    stem_pool: str | None


@dataclass
class Call:
    """A call of a module.

    Attributes:
        name: Of the module.
        module: The module.
        given: The shape of its first argument, if that is a tensor.
        output: What it has returned.
        version: How often the output had been changed in place by then.
        calls: Those that it consists of.
    """

    name: str
    module: nn.Module
    given: tuple[int, ...] | None
    output: Any = None
    version: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of the output, if that is a tensor."""
        return tuple(self.output.shape) if isinstance(self.output, Tensor) else None

    @property
    def is_overwritten(self) -> bool:
        """Whether a later module has changed the output in place."""
        return isinstance(self.output, Tensor) and self.output._version != self.version

    def all(self) -> Iterator[Call]:
        """Yield the calls below this one and itself, in the order in which they ended."""
        for call in self.calls:
            yield from call.all()
        yield self


def find_layout(
    module: nn.Module,
    size: tuple[int, int],
    label: str,
    stages: Sequence[str],
    chosen: Sequence[str] | None,
    n_classes: int,
) -> Layout:
    """Return the layout of a module on the meta device, with that many classes.

    Args:
        module: The module.
        size: Height and width of the images that it is made for.
        label: Its name in messages.
        stages: Modules that its library names as those whose outputs are its features.
        chosen: Modules that the user names as those whose outputs are the maps.
        n_classes: The number of its classes.

    Raises:
        UserError: It has no last linear layer with an embedding as input, or no such maps.
    """
    root = record(module, size, label)
    head = _find_head(root, label, n_classes)
    assert isinstance(head.module, nn.Linear)
    if chosen is None:
        maps = _named_maps(root, stages) or _lowest_maps(root, size)
    else:
        maps = _chosen_maps(root, chosen, label)
    leaves = [call for call in root.all() if not call.calls]
    first = next((i for i, c in enumerate(leaves) if isinstance(c.module, nn.Conv2d)), None)
    stem = pool = None
    if first is not None:
        stem = leaves[first].name
        smaller = (c for c in leaves[first + 1 :] if _extent(c.shape) < _extent(c.given))
        after = next(smaller, None)
        pool = after.name if after and isinstance(after.module, nn.MaxPool2d) else None
    return Layout(head.name, head.module.in_features, tuple(maps), stem, pool)


def record(module: nn.Module, size: tuple[int, int], label: str) -> Call:
    """Return the call of a module on the meta device for two images, with all calls below it.

    Raises:
        UserError: It fails.
    """
    root = Call("", module, None)
    open_calls, names = [root], {each: name for name, each in module.named_modules()}

    def begin(each: nn.Module, inputs: tuple[Any, ...]) -> None:
        given = next((tuple(x.shape) for x in inputs if isinstance(x, Tensor)), None)
        open_calls.append(Call(names[each], each, given))

    def end(each: nn.Module, inputs: Any, output: Any) -> None:
        call = open_calls.pop()
        call.output, call.version = output, getattr(output, "_version", 0)
        open_calls[-1].calls.append(call)

    with contextlib.ExitStack() as hooks:
        for each in names:
            hooks.callback(each.register_forward_pre_hook(begin).remove)
            hooks.callback(each.register_forward_hook(end).remove)
        hooks.enter_context(torch.device("meta"))
        hooks.enter_context(torch.no_grad())
        try:
            module.train()(torch.empty(2, 3, *size))
        except Exception as error:
            height, width = size
            raise UserError(
                f"{label} fails on {width}x{height} images: {one_line(error)}; give it another "
                "input_size, or correct its options"
            ) from None
    return root.calls[0]


def _find_head(root: Call, label: str, n_classes: int) -> Call:
    """Return the call of the last linear layer, whose output is the module's.

    Raises:
        UserError: There is none.
    """
    if root.shape is None:
        raise UserError(
            f"{label} returns a {type(root.output).__name__}, not logits; switch off its auxiliary "
            "outputs"
        )
    linear = [call for call in root.all() if isinstance(call.module, nn.Linear)]
    if not linear or linear[-1].output is not root.output:
        raise UserError(
            f"{label} does not end in a linear layer, whose input would be the embedding; use "
            "another network"
        )
    head = linear[-1]
    if root.shape != (2, n_classes):
        raise UserError(
            f"{label} returns {root.shape} for 2 images of {n_classes} classes; let it return "
            "(images, num_classes)"
        )
    is_plain = head.given is not None and len(head.given) == 2 and head.module.bias is not None
    if not is_plain or sum(call.module is head.module for call in linear) > 1:
        raise UserError(
            f"{label}: its last layer {head.name} is no linear layer with a bias that is called "
            "once, with one embedding an image; use another network"
        )
    return head


def _as_map(call: Call, root: Call) -> Map | None:
    """Return the output of a call as a map, or None if it is none."""
    shape = call.shape
    once = sum(other.module is call.module for other in root.all()) == 1
    if shape is None or len(shape) != 4 or not once or call.is_overwritten:
        return None
    channels_last = shape[1] == shape[2] != shape[3]
    return Map(call.name, shape[3] if channels_last else shape[1], channels_last)


def _extent(shape: tuple[int, ...] | None) -> int:
    """Return the height of a map (B, C, h, w) or (B, h, w, C); 0 if it is none, or no square."""
    if shape is None or len(shape) != 4:
        return 0
    return shape[2] if shape[2] == shape[3] else shape[1] if shape[1] == shape[2] else 0


def _named_maps(root: Call, names: Sequence[str]) -> list[Map]:
    """Return the last maps of those that the library names; none if one of them is no map."""
    calls = {call.name: call for call in root.all()}
    maps = [_as_map(calls[name], root) if name in calls else None for name in names]
    found = [each for each in maps if each is not None]
    return found[-N_MAPS:] if len(found) == len(maps) > 1 else []


def _chosen_maps(root: Call, names: Sequence[str], label: str) -> list[Map]:
    calls = {call.name: call for call in root.all()}
    maps = []
    for name in names:
        if name not in calls:
            raise UserError(f"maps: {label} has no module {name!r}{nearest(name, calls)}")
        found = _as_map(calls[name], root)
        if found is None:
            raise UserError(
                f"maps: the output of {name} in {label} is no map (images, channels, height, "
                f"width) that stays, but {calls[name].shape}; name another module"
            )
        maps.append(found)
    return maps


def _lowest_maps(root: Call, size: tuple[int, int]) -> list[Map]:
    """Return the last map of each of the lowest resolutions that the trunk has.

    There are none if it computes tokens.
    """
    by_octave: dict[int, Map] = {}
    for call in _trunk(root, size[0]):
        shape, octave = call.shape, _octave(call.shape, size[0])
        if shape is not None and len(shape) == 3:
            return []
        if octave is not None and (found := _as_map(call, root)):
            by_octave[octave] = found
    maps = [by_octave[octave] for octave in sorted(by_octave)]
    return maps[-N_MAPS:] if len(maps) > 1 else []


def _trunk(call: Call, height: int) -> Iterator[Call]:
    """Yield the calls one after the other that make up a call: layers, blocks or stages.

    What halves the resolution more than once is taken apart.
    """
    for each in call.calls:
        before, after = _octave(each.given, height), _octave(each.shape, height)
        is_step = after is not None and (before is None or after - before <= 1)
        is_tokens = each.shape is not None and len(each.shape) == 3
        if is_step or is_tokens or not each.calls:
            if not isinstance(each.module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
                yield each
        else:
            yield from _trunk(each, height)


def _octave(shape: tuple[int, ...] | None, height: int) -> int | None:
    """Return how often the resolution was halved; None if it is no map, or a single pixel."""
    extent = _extent(shape)
    return round(math.log2(height / extent)) if extent > 1 else None
