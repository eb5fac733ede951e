"""The interface of a network for the training loop and the losses."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What makes parameters and buffers. Other functions compute settings, which need their values.
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}


class ShapesOnly(TorchFunctionMode):
    """A context in which networks are built without memory: their weights are on the meta device.

    Unlike `torch.device("meta")`, it leaves alone what a constructor computes and reads.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, on the meta device if it makes a tensor."""
        kwargs = kwargs or {}
        if func in _MAKERS and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


class Network(nn.Module):
    """A classifier whose last layer is linear, and whose input to that layer is the embedding.

    A subclass writes its body once, as `feature_maps` and `pool`; everything else follows. It may
    overwrite what it has computed itself and no longer needs (less memory traffic, the same bits),
    but never its input nor a map that it has yielded.

    Attributes:
        fc: The last linear layer.
        head: Its name among the submodules and in the state dict.
        embedding_dim: The number of values of an embedding.
        map_channels: The number of channels of each of the `feature_maps`.
        new_layers: The layers, beside the head, that files of weights do not give.
    """

    fc: nn.Linear
    head: str = "fc"
    embedding_dim: int
    map_channels: tuple[int, ...]
    new_layers: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Return a submodule, a parameter or a buffer; `fc` under whatever name it has."""
        if name == "fc" != self.head:
            return self.get_submodule(self.head)
        return super().__getattr__(name)

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a published file under this network's names."""
        return state

    def expect(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Say how the images are normalised, to a network that wants them otherwise.

        Args:
            mean: Of each channel of the pixels, scaled to [0, 1].
            std: Their standard deviations.
        """

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of each group of blocks, from shallow to deep.

        A group is computed when its map is asked for.

        Args:
            x: Normalised images, (B, 3, H, W).

        Yields:
            (B, channels, h, w).
        """
        raise NotImplementedError

    def pool(self, deepest: Tensor) -> Tensor:
        """Return the embedding (B, embedding_dim) of the last feature map (B, channels, h, w)."""
        raise NotImplementedError

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, embedding_dim) of images (B, 3, H, W).

        An embedding is the raw input of `fc`, not normalised.
        """
        (deepest,) = deque(self.feature_maps(x), maxlen=1)  # no list that keeps them all alive
        return self.pool(deepest)

    def embed_with_maps(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the embeddings and all `feature_maps` from one pass over the images."""
        maps = tuple(self.feature_maps(x))
        return self.pool(maps[-1]), maps

    def embed_and_classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, embedding_dim) and the logits (B, n_classes) of images."""
        embedding = self.embed(x)
        return embedding, self.fc(embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, n_classes) of images (B, 3, H, W)."""
        return self.fc(self.embed(x))
