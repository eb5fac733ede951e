"""How cells run on a Ray cluster, as options. Nothing here imports Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RayOptions:
    """The options that say how cells run on a Ray cluster.

    Attributes:
        address: As `ray.init` takes it: auto, HOST:PORT of the cluster, or ray://HOST:PORT.
        cpus: Cores per cell, which trains with as many threads.
        gpus: GPUs per cell: 0, a fraction of one, or 1.
        device: cpu, or cuda if `gpus` is not 0.
        limit: Most cells at once; None for as many as the cluster has room for.
        shared_files: Whether nodes that see the store's folder work in it.
    """

    address: str = "auto"
    cpus: int = 1
    gpus: float = 0.0
    device: str = "cpu"
    limit: int | None = None
    shared_files: bool = True
