"""A network that is written elsewhere, as a `Network`: what all of them have in common."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.common.errors import UserError, nearest, one_line
from harness.networks.base import Network, ShapesOnly
from harness.networks.foreign import DATA, OWN, ForeignOptions, Normalisation
from harness.networks.layout import Layout, find_layout

State = dict[str, Tensor]
PROBE_CLASSES = 7  # of a network that is only looked at


@dataclass(frozen=True)
class Made:
    """A module that a library's builder, or the user's, has made.

    Attributes:
        module: Images (B, 3, H, W) -> logits (B, classes).
        size: Height and width of the images that it is made for.
        normalisation: Of these; None if it has none of its own.
        stages: The modules that its library names as those whose outputs are its features.
        renamed: Gives weights of published files the module's names; None if they have these.
    """

    module: nn.Module
    size: tuple[int, int]
    normalisation: Normalisation | None = None
    stages: tuple[str, ...] = ()
    renamed: Callable[[State], State] | None = None


def call_builder(
    builder: Any, where: str, n_classes: int, settings: Mapping[str, Any]
) -> nn.Module:
    """Return the module that a builder makes.

    Args:
        builder: A function or class that takes `num_classes`.
        where: Its name in messages.
        n_classes: The number of classes.
        settings: Its other arguments.

    Raises:
        UserError: It does not take these settings, or makes no module.
    """
    if "num_classes" in settings:
        raise UserError("num_classes: the data say how many classes there are; leave it out")
    try:
        module = builder(num_classes=n_classes, **settings)
    except Exception as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in settings:
            known = [*ForeignOptions.model_fields]
            remedy = nearest(unknown[1], known)
            remedy = remedy if "mean" in remedy else "; leave it out"
            raise UserError(f"{where} takes no {unknown[1]!r}{remedy}") from None
        raise UserError(f"{where} cannot be built with its options: {one_line(error)}") from None
    if not isinstance(module, nn.Module):
        raise UserError(f"{where} makes a {type(module).__name__}, not a torch.nn.Module")
    return module


def cached_file(weights: str, name: str, url: str, file_name: str = "") -> str:
    """Return the file of a download in PyTorch's cache, where libraries put it, too.

    Raises:
        ValueError: It is not there, or not what the publisher's name of the file says.
    """
    file_name = file_name or url.rpartition("/")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", file_name)
    if not path.is_file():
        raise ValueError(
            f"weights: {weights} of {name} is not on this machine; download {url} and save it as "
            f"{path}"
        )
    digest = re.search(r"-([0-9a-f]{8})\.", file_name)
    if digest and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest[1]):
        raise ValueError(f"weights: {path} is broken; download {url} again")
    return str(path)


def make(options: ForeignOptions, n_classes: int) -> Made:
    """Return the module of these options, as its library makes it.

    Raises:
        UserError: There is none.
    """
    made: Made = pkgutil.resolve_name(f"{options.library}:make")(options, n_classes)
    return made


@functools.lru_cache(maxsize=64)
def layout_of(options: ForeignOptions) -> Layout:
    """Return where a network has its last layer, its maps and its stem. Takes no memory.

    Raises:
        UserError: There is no such network, or it cannot be used here; the message says why.
    """
    with ShapesOnly():
        made = make(options, PROBE_CLASSES)
    return find_layout(
        made.module.to("meta"), made.size, options.label, made.stages, options.maps, PROBE_CLASSES
    )


class WrappedNetwork(Network):
    """A module of another library, with its own names of parameters.

    The embedding is the input of its last linear layer. Its maps are the outputs of modules. Both
    are caught as the module computes its logits, by hooks that exist only for the call.

    Attributes:
        body: The module; this network shares its submodules, parameters and buffers.
        layout: Where the module has what.
        size: The height and width that images are scaled to; None if they are not.
        normalisation: The one that images are brought to; None if theirs stays.
    """

    body: nn.Module
    _input_scale: Tensor | None
    _input_shift: Tensor | None

    def __init__(self, options: ForeignOptions, n_classes: int) -> None:
        super().__init__()
        self.layout = layout_of(options)
        made = make(options, n_classes)
        self.head, self.embedding_dim = self.layout.head, self.layout.embedding_dim
        self.map_channels = tuple(each.channels for each in self.layout.maps)
        self._renamed = made.renamed
        wanted = options.size_of_input
        self.size = None if wanted == DATA else made.size if wanted == OWN else (wanted, wanted)
        chosen = made.normalisation if options.normalisation == OWN else options.normalisation
        self.normalisation = chosen if isinstance(chosen, Normalisation) else None
        # The module itself is no submodule, whose name would begin all others. From here on, a name
        # may be that of one of its own.
        self.__dict__["body"] = made.module
        for name in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[name] = made.module.__dict__[name]
        for name in ("_input_scale", "_input_shift"):
            self.register_buffer(name, None, persistent=False)
        if options.stem == "small":
            self.new_layers = (replace_stem(self, self.layout, options.label),)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, also of the module itself."""
        self.body.training = mode
        return super().train(mode)

    def get_submodule(self, target: str) -> nn.Module:
        """Return a submodule of the module by its name."""
        return self.body.get_submodule(target)

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        """Replace a submodule of the module."""
        self.body.set_submodule(target, module, strict)

    def renamed(self, state: State) -> State:
        """Return the weights of a published file under this network's names."""
        return state if self._renamed is None else self._renamed(state)

    def expect(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Say how the images are normalised, which this network changes to what it wants."""
        self._input_scale = self._input_shift = None
        if self.normalisation is None:
            return
        given_mean, given_std, own_mean, own_std = (
            torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1)
            for values in (mean, std, self.normalisation.mean, self.normalisation.std)
        )
        if torch.equal(given_mean, own_mean) and torch.equal(given_std, own_std):
            return
        device = self.fc.weight.device
        self._input_scale = (given_std / own_std).float().to(device)
        self._input_shift = ((given_mean - own_mean) / own_std).float().to(device)

    def adapted(self, x: Tensor) -> Tensor:
        """Return images (B, 3, H, W) of the data as this network wants them."""
        if self._input_scale is not None and self._input_shift is not None:
            x = x * self._input_scale + self._input_shift
        if self.size is not None and x.shape[2:] != self.size:
            is_smaller = x.shape[2] > self.size[0] or x.shape[3] > self.size[1]
            x = F.interpolate(x, self.size, mode="bilinear", antialias=is_smaller)
        return x

    def embed_with_maps(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the embeddings and all maps from one pass over the images."""
        with self._caught([each.name for each in self.layout.maps]) as caught:
            self(x)
        maps = (
            caught[each.name].permute(0, 3, 1, 2) if each.channels_last else caught[each.name]
            for each in self.layout.maps
        )
        return caught[self.head], tuple(maps)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, embedding_dim) of images (B, 3, H, W)."""
        return self.embed_and_classify(x)[0]

    def embed_and_classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, embedding_dim) and the logits (B, n_classes) of images."""
        with self._caught([]) as caught:
            logits = self(x)
        return caught[self.head], logits

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the maps, (B, channels, h, w), from shallow to deep."""
        yield from self.embed_with_maps(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, n_classes) of images (B, 3, H, W)."""
        logits: Tensor = self.body(self.adapted(x))
        return logits

    @contextlib.contextmanager
    def _caught(self, maps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Catch the embedding, under the name of the head, and the outputs of these modules."""
        caught: dict[str, Tensor] = {}

        def catch_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            caught[self.head] = inputs[0]

        def catch_output(name: str, _: nn.Module, inputs: Any, output: Tensor) -> None:
            caught[name] = output

        handles = [self.fc.register_forward_pre_hook(catch_input)]
        for name in maps:
            hook = functools.partial(catch_output, name)
            handles.append(self.get_submodule(name).register_forward_hook(hook))
        try:
            yield caught
        finally:
            for handle in handles:
                handle.remove()


def replace_stem(network: Network, layout: Layout, label: str) -> str:
    """Make a stem for small images: a convolution 3x3 with stride 1, and no max-pooling.

    Returns:
        The name of the convolution.

    Raises:
        UserError: It does not begin with a convolution that makes the images smaller.
    """
    old = network.get_submodule(layout.stem) if layout.stem else None
    is_patches = isinstance(old, nn.Conv2d) and old.kernel_size == old.stride
    if not isinstance(old, nn.Conv2d) or is_patches or max(old.stride) == 1:
        why = "begins with patches" if is_patches else "has no first convolution with a stride"
        raise UserError(f"stem: {label} {why}, so there is none to make small; leave it out")
    channels = old.in_channels, old.out_channels
    new = nn.Conv2d(*channels, 3, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    assert layout.stem is not None
    network.set_submodule(layout.stem, new)
    if layout.stem_pool:
        network.set_submodule(layout.stem_pool, nn.Identity())
    return layout.stem
