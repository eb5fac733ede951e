"""The overhead of a cell besides training, on this machine and on a Ray cluster.

    python benchmarks/executors.py [--cells N] [--quick] [--save]

A grid of short plain trainings on the digits, two at a time with one thread each, runs in worker
processes of this machine and on a Ray cluster of two nodes of one core on the same machine, where
nodes see the store or files are sent. The executors take turns. Overhead is the wall time of both
slots minus the training time in the manifests, per cell: starting, loading, writing, sending.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from arguments import chosen_device, keep, machine, parser_of
from frame import Record, Seconds, alternate, comparison, record, rounded, spread, table

from harness.common.provenance import code_version
from harness.data import load
from harness.execute import Executor
from harness.execute.local import LocalExecutor
from harness.execute.ray.options import RayOptions
from harness.execute.scheduler import begin, run
from harness.experiment.file import parse
from harness.plan import Plan, make_plan
from harness.store import Store
from harness.store.manifest import CellOptions

PLACES = 2
LOCAL, SHARED, SENT = "local", "Ray, shared files", "Ray, cells travel"
EXPERIMENT: dict[str, Any] = {
    "name": "executors",
    "dataset": {"name": "digits"},
    "network": "wide_resnet",
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["plain"],
    "training": {"epochs": 2},
}


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Yield the address of a Ray cluster of PLACES nodes on this machine."""
    # By default Ray lowers the priority of its processes.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(PLACES - 1):
            made.add_node(**node)
        made.wait_for_nodes()
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def train_all(plan: Plan, executor: Executor, store: Store) -> float:
    """Train every cell in an empty store, and return the sum of their training seconds.

    Raises:
        RuntimeError: A cell failed.
    """
    store.create()
    progress = begin(plan, store)
    run(progress, executor, CellOptions.on_this_machine(plan.experiment))
    if progress.errors:
        raise RuntimeError(next(iter(progress.errors.values())))
    return sum(store.directory(f).manifest.seconds for f in plan.cells)


def measure(plan: Plan, rounds: int, address: str, folder: Path) -> tuple[Seconds, dict[str, Any]]:
    """Return the seconds of each executor and round, and quartiles of its overhead per cell."""
    from harness.execute.ray.executor import RayExecutor

    version = code_version()
    executors: dict[str, Executor] = {
        LOCAL: LocalExecutor(("cpu",) * PLACES, version),
        SHARED: RayExecutor(RayOptions(address), version),
        SENT: RayExecutor(RayOptions(address, shared_files=False), version),
    }
    trained: dict[str, list[float]] = {name: [] for name in executors}

    def train(name: str) -> None:
        store = Store(folder / f"{name}-{len(trained[name])}")
        trained[name].append(train_all(plan, executors[name], store))

    with contextlib.ExitStack() as stack:
        for executor in executors.values():
            stack.callback(executor.close)
        steps = {name: lambda name=name: train(name) for name in executors}
        seconds = alternate(steps, rounds)
    overhead = {
        name: [rounded(v) for v in spread(
            [(PLACES * wall - s) / len(plan.cells)
             for wall, s in zip(walls, trained[name][-rounds:], strict=True)])]
        for name, walls in seconds.items()
    }  # fmt: skip
    return seconds, overhead


def main(argv: list[str] | None = None) -> Record:
    """Run the benchmark."""
    parser = parser_of((__doc__ or "").splitlines()[0], rounds=5)
    parser.add_argument("--cells", type=int, default=40)
    arguments = parser.parse_args(argv)
    arguments.threads = 1
    chosen_device(arguments)
    busy = rounded(os.getloadavg()[0])  # due to other programs
    n_cells = 2 if arguments.quick else arguments.cells
    experiment = parse(EXPERIMENT | {"seeds": list(range(n_cells))})
    plan = make_plan(experiment, load(experiment.dataset))
    with cluster() as address, tempfile.TemporaryDirectory() as folder:
        seconds, overhead = measure(plan, arguments.rounds, address, Path(folder))
    grid = comparison("the grid", seconds, LOCAL, overhead=overhead)
    print(table(grid))
    for name, (low, median, high) in overhead.items():
        print(
            f"  {name:<26}{1000 * median:>10.0f} ms per cell  {1000 * low:.0f} to {1000 * high:.0f}"
        )
    import ray

    setting = {"cells": n_cells, "epochs": 2, "places": PLACES, "rounds": arguments.rounds,
               "ray": ray.__version__, "load average before": busy}  # fmt: skip
    kept = record("executors", machine(torch.device("cpu")), setting, comparisons=[grid])
    keep(kept, arguments)
    return kept


if __name__ == "__main__":
    main()
