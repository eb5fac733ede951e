"""The state of contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699).

It uses the memory of instance discrimination (Wu et al., arXiv 1805.01978): one row per training
image and network, so that an image has thousands of negatives even in a small batch.
"""

import torch
from torch import Tensor, nn

from harness.distill.crd import crd_loss, memory_scores, normaliser
from harness.distill.relations import unit_rows, upcast_to_float32


class UnitProjection(nn.Module):
    """A linear layer followed by normalisation: (B, dim) to (B, features) with unit rows.

    Examples:
        >>> UnitProjection(8, 4)(torch.ones(2, 8)).norm(dim=1).allclose(torch.ones(2))
        True
    """

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, features)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the unit-norm projections (B, features) of embeddings (B, dim)."""
        return unit_rows(self.linear(embedding))


class CrdMemory(nn.Module):
    """The projections, memories and normalisers of CRD.

    Train its parameters with the student's; they include the teacher's projection `embed_t`. Its
    state_dict holds everything that the next step depends on.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        n_images: N, the size of the training set; an image's index is its row in the memories.
        features: D, the width of the projections; 128 in the paper.
        temperature: T; 0.07 in the paper.
        momentum: the share of a row that an update keeps; 0.5 in the paper.

    Examples:
        >>> sizes = {"student_dim": 8, "teacher_dim": 16, "n_images": 100, "features": 4}
        >>> memory = CrdMemory(**sizes, temperature=0.07, momentum=0.5)
        >>> index = torch.tensor([3, 7])
        >>> contrast_index = torch.cat([index[:, None], torch.tensor([[1, 2], [4, 5]])], 1)
        >>> memory(torch.randn(2, 8), torch.randn(2, 16), index, contrast_index).shape
        torch.Size([])
    """

    memory_v1: Tensor
    memory_v2: Tensor
    z1: Tensor
    z2: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        n_images: int,
        *,
        features: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.embed_s = UnitProjection(student_dim, features)
        self.embed_t = UnitProjection(teacher_dim, features)
        bound = (features / 3) ** -0.5
        for name in ("memory_v1", "memory_v2"):  # of the student, of the teacher
            self.register_buffer(name, torch.empty(n_images, features).uniform_(-bound, bound))
        for name in ("z1", "z2"):  # of the student's features, of the teacher's
            self.register_buffer(name, torch.tensor(-1.0))  # not set yet

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        index: Tensor,
        contrast_index: Tensor,
    ) -> Tensor:
        """Return the loss of a batch (both sides), then update the batch's rows of the memories.

        The first batch sets the normalisers. The student and both projections get a gradient, the
        teacher none. No host-device synchronisation.

        Args:
            student_embedding: (B, student_dim).
            teacher_embedding: (B, teacher_dim).
            index: (B,) in [0, N), the images of the batch, without repetition.
            contrast_index: (B, K + 1): `index`, then K negatives, e.g. from `draw_negatives`.

        Returns:
            Scalar.
        """
        n_images = len(self.memory_v1)
        with torch.autocast(student_embedding.device.type, enabled=False):
            v1 = self.embed_s(upcast_to_float32(student_embedding))
            v2 = self.embed_t(upcast_to_float32(teacher_embedding.detach()))
        loss = v1.new_zeros(())
        for v, other, z in ((v1, self.memory_v2, self.z1), (v2, self.memory_v1, self.z2)):
            # A copy, as backward needs the rows that the update overwrites.
            scores = memory_scores(v, other.clone(), contrast_index, temperature=self.temperature)
            z.copy_(torch.where(z < 0, normaliser(scores, n_images), z))
            loss = loss + crd_loss(scores, z, n_images=n_images)
        self._update(self.memory_v1, v1.detach(), index)
        self._update(self.memory_v2, v2.detach(), index)
        return loss

    @torch.no_grad()
    def _update(self, memory: Tensor, v: Tensor, index: Tensor) -> None:
        rows = memory[index] * self.momentum + v * (1 - self.momentum)
        memory.index_copy_(0, index, unit_rows(rows).to(memory.dtype))
