"""How cells run on a Ray cluster, as options. Nothing here imports Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RayOptions:
    """The options that say how cells run on a Ray cluster.

    Attributes:
        address: As `ray.init` takes it: auto, HOST:PORT of the cluster, ray://HOST:PORT, or local
            for a Ray of this command's own on this machine.
        cpus: Cores per cell, which trains with as many threads.
        gpus: GPUs per cell: 0, a fraction of one, or 1.
        device: cpu, or cuda if `gpus` is not 0.
        limit: Most cells at once; None for as many as the cluster has room for.
        shared_files: Whether nodes that see the store's folder work in it.
        wait: Seconds to wait for a cluster that does not answer yet; None for a few tries. Ray's
            own parts may take as long to start, but at least two minutes.
    """

    address: str = "auto"
    cpus: int = 1
    gpus: float = 0.0
    device: str = "cpu"
    limit: int | None = None
    shared_files: bool = True
    wait: float | None = None
