"""The executors by name."""

from __future__ import annotations

from collections.abc import Sequence

from harness.common.errors import UserError, nearest
from harness.common.provenance import CodeVersion
from harness.execute import Executor
from harness.execute.ray.options import RayOptions

LOCAL, RAY = "local", "ray"
NAMES = (LOCAL, RAY)


def cluster_of(
    name: str,
    *,
    address: str | None,
    cpus: int | None,
    gpus: float | None,
    no_shared_files: bool,
    wait: float | None,
    jobs: int | None,
    device: str,
    jobs_per_device: int | None = None,
) -> RayOptions | None:
    """Return how to use a Ray cluster, or None to train on this machine.

    The arguments are the options of a command, None where one was not given.

    Raises:
        UserError: The options do not go together.
    """
    if name not in NAMES:
        raise UserError(f"--executor: unknown {name!r}{nearest(name, NAMES)}")
    if name == LOCAL:
        is_given = {
            "--ray-address": address is not None,
            "--cpus-per-cell": cpus is not None,
            "--gpus-per-cell": gpus is not None,
            "--no-shared-files": no_shared_files,
            "--ray-wait": wait is not None,
        }
        if field := next((field for field, given in is_given.items() if given), None):
            raise UserError(f"{field}: belongs to --executor ray; give that, too, or leave it out")
        return None
    if jobs_per_device is not None:
        raise UserError(
            "--jobs-per-device: Ray places the cells; use --cpus-per-cell and --gpus-per-cell"
        )
    gpus = gpus or 0.0
    if not 0 <= gpus <= 1:
        raise UserError(f"--gpus-per-cell: {gpus:g}; a cell trains on one GPU: give 1 or less")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: {device!r}; Ray chooses the GPU: use cuda, cpu or auto")
    if device == "cuda" and not gpus:
        raise UserError("--device: cuda, but no GPU; give --gpus-per-cell 1, or a fraction")
    if device == "cpu" and gpus:
        raise UserError("--gpus-per-cell: cells on the CPU use none; leave out --device cpu")
    return RayOptions(
        address=address or "auto",
        cpus=cpus or 1,
        gpus=gpus,
        device="cuda" if gpus else "cpu",
        limit=jobs,
        shared_files=not no_shared_files,
        wait=wait,
    )


def make_executor(
    cluster: RayOptions | None, slots: Sequence[str], version: CodeVersion
) -> Executor:
    """Return the executor for a cluster or, if that is None, for the slots of this machine.

    Raises:
        UserError: The cluster cannot be used.
    """
    if cluster is not None:
        from harness.execute.ray.executor import RayExecutor

        return RayExecutor(cluster, version)
    from harness.execute.local import LocalExecutor

    return LocalExecutor(slots, version)
