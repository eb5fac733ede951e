"""What every network offers to the training loop and to the losses."""

from collections import deque
from collections.abc import Iterator

from torch import Tensor, nn


class Network(nn.Module):
    """A classifier whose last linear layer is `fc` and whose input is the embedding.

    `x` is (B, 3, H, W) normalised images; logits are (B, n_classes); embeddings are
    (B, embedding_dim), the raw (not normalised) input of `fc`; `map_channels` are the channels of
    its `feature_maps`.

    A subclass writes its body once, as `feature_maps` and `pool`; everything else follows. What a
    body has made itself and needs no more it overwrites (less memory to go through, the
    same bits), but never its input nor a map that it has given away.
    """

    fc: nn.Linear
    embedding_dim: int
    map_channels: tuple[int, ...]

    def feature_maps(self, x: Tensor) -> Iterator[Tensor]:
        """The output of each group of blocks, (B, channels, h, w), from shallow to deep.

        A generator: a group is computed when its map is asked for.
        """
        raise NotImplementedError

    def pool(self, deepest: Tensor) -> Tensor:
        """The last of the `feature_maps`, (B, channels, h, w), to (B, embedding_dim)."""
        raise NotImplementedError

    def embed(self, x: Tensor) -> Tensor:
        (deepest,) = deque(self.feature_maps(x), maxlen=1)  # no list that keeps them all alive
        return self.pool(deepest)

    def embed_with_maps(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `embed` gives, and all `feature_maps`, from one pass over the images.

        Returns:
            The embedding (B, embedding_dim), and maps (B, channels, h, w) from shallow to deep.
        """
        maps = tuple(self.feature_maps(x))
        return self.pool(maps[-1]), maps

    def embed_and_classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(x)
        return embedding, self.fc(embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x))
