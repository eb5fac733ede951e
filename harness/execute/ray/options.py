"""How cells run on a Ray cluster, as options. Nothing here imports Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RayOptions:
    """How cells run on a Ray cluster.

    address: as `ray.init` takes it: auto, HOST:PORT of the cluster, or ray://HOST:PORT.
    cpus: of a cell, which trains with as many threads.
    gpus: of a cell: 0, a fraction of a GPU, or 1. device: cpu, or cuda where gpus is not 0.
    limit: cells at once; None for as many as the cluster has room for.
    shared_files: whether nodes may use the store's folder where they see it; False: they never do.
    """

    address: str = "auto"
    cpus: int = 1
    gpus: float = 0.0
    device: str = "cpu"
    limit: int | None = None
    shared_files: bool = True
