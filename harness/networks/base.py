"""What every network offers to the training loop and to the losses."""

from torch import Tensor, nn


class Network(nn.Module):
    """A classifier whose last linear layer is `fc` and whose input is the embedding.

    `x` is (B, 3, H, W) normalised images; logits are (B, n_classes); embeddings are
    (B, embedding_dim), the raw (not normalised) input of `fc`.
    """

    fc: nn.Linear
    embedding_dim: int

    def embed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def embed_and_classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(x)
        return embedding, self.fc(embedding)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x))
