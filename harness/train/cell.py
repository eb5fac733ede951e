"""Train ONE cell in this process: `python -m harness.train.cell DIR [--device D] [--threads N]`.

Needs torch, torchvision, numpy, pydantic and PyYAML (and scikit-learn for its digits and for linear
probes), but neither MLflow nor Optuna: a bare GPU node can train. Every executor ends here.

Exit status: 0 done (or done before), 1 failed, 2 wrong input, 3 stopped on request (rerun to
resume), 4 another process is training this cell, 5 failed for lack of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.cell import CellConfig
from harness.common.errors import UserError
from harness.common.files import write_atomically
from harness.common.metrics import (
    ACCURACY,
    EVALUATION_SECONDS,
    metric_name,
    summary,
)
from harness.common.os_errors import describe_os_error
from harness.common.provenance import UNKNOWN, CodeVersion, code_version, processor, software
from harness.common.signals import stop_on_request
from harness.data import Dataset, ResizedCrop
from harness.data.placement import fits, on_device
from harness.data.views import View
from harness.networks.base import Network
from harness.store import Busy, CellDir
from harness.store.cell_files import Damaged
from harness.store.files import sweep
from harness.store.manifest import Manifest, any_dirty
from harness.train.augment import operations_of
from harness.train.checkpoint import about, load_model, to_bytes
from harness.train.data_request import DatasetCache, load_dataset
from harness.train.device import describe, resolve_device, set_determinism, use
from harness.train.evaluate import autocast
from harness.train.exit_status import BUSY, DONE, FAILED, NO_MEMORY, STOPPED, WRONG_INPUT
from harness.train.graphs import make_graphs
from harness.train.initial import initial_model, placed
from harness.train.loop import Diverged, Interrupted, train
from harness.train.memory import is_out_of_memory, memory_line
from harness.train.methods.base import Context, make_training
from harness.train.predictions import predict, predictions_file
from harness.train.teacher_cache import TeacherCache, cache_identity


def run_cell(
    directory: CellDir,
    device_name: str = "auto",
    threads: int | None = None,
    version: CodeVersion | None = None,
    should_stop: Callable[[], bool] | None = None,
    datasets: DatasetCache | None = None,
) -> int:
    """Train the cell in `directory`, and return its exit status; errors go into the journal.

    Args:
        directory: The prepared directory of the cell.
        device_name: See `resolve_device`.
        threads: The number of CPU threads; by default PyTorch's.
        version: The code's version, for the manifest; by default the one on this machine.
        should_stop: Called before every batch; by default, SIGTERM and its like stop it.
        datasets: What earlier cells of this process have loaded.
    """
    should_stop, datasets = should_stop or stop_on_request(), datasets or DatasetCache()
    try:
        with directory.lease():
            if directory.is_done:
                return DONE
            directory.events()  # nothing is appended to a damaged journal
            sweep(directory.path)
            try:
                if threads:
                    torch.set_num_threads(threads)
                device = resolve_device(device_name)
                set_determinism(directory.cell.config.optimizer.determinism, device)
                use(device)
                version = version or code_version()
                directory.append(
                    "start",
                    device=describe(device),
                    slot=device_name,  # tells several GPUs of one make apart
                    processor=processor(),
                    threads=torch.get_num_threads(),
                    **version,
                    **software(),
                )
                _train(directory, device, should_stop, datasets)
                return DONE
            except Interrupted:
                directory.append("stopped")
                return STOPPED
            except UserError as error:
                directory.append("failed", error=str(error))
                return WRONG_INPUT
            except Diverged as error:
                directory.append("failed", error=str(error), diverged=True)
                return FAILED
            except Exception as error:
                traceback.print_exc()
                if is_out_of_memory(error):
                    size = datasets.last.image_size if datasets.last else None
                    directory.append("failed", error=memory_line(directory.cell, size, device))
                    return NO_MEMORY
                what = f"{type(error).__name__}: {error}"
                if isinstance(error, OSError):
                    what = describe_os_error(error, directory.path)
                directory.append("failed", error=what)
                return FAILED
    except Busy as error:
        print(f"{directory.path}: trained by {error}", file=sys.stderr)
        return BUSY
    except Damaged as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT


def _train(
    directory: CellDir,
    device: torch.device,
    should_stop: Callable[[], bool],
    datasets: DatasetCache,
) -> None:
    cell, options = directory.cell, directory.options
    config = cell.config
    dataset = load_dataset(directory, config, datasets)
    n_classes = len(dataset.class_names)
    sources = {role: _upstream(directory, source) for role, source in cell.upstream.items()}

    model = initial_model(cell, sources.get("initial"), n_classes, options.pretrained)
    operations = operations_of(cell.schedule)
    is_resident = operations is None and images_lie_on(device, dataset, directory)
    teacher = cache = None
    if source := sources.get("teacher"):
        network = source.cell.config.network
        teacher = placed(load_model(source / "model.pt", network), dataset, device)
        if options.teacher_cache:
            cache = _teacher_cache(directory, source, teacher, device, is_resident)
    model = placed(model, dataset, device)

    parts = dataset.parts.items()
    images = {
        name: on_device(
            *(dataset, part, device, options.n_workers, is_resident),
            operations if name == "train" else None,
        )
        for name, part in parts
    }
    if (selection := config.protocol.selection) not in ("last", *images):
        raise UserError(
            f"protocol.selection: {selection!r}, but there are no such images; use 'last'"
        )
    if cell.schedule and cell.schedule.early_stopping and "validation" not in images:
        raise UserError("early_stopping: there are no validation images; drop it")
    training = make_training(cell.kind, Context(config, images, n_classes, model, teacher, cache))
    state, epoch, lines = train(
        model,
        training,
        images["train"],
        config,
        cell.epochs,
        directory,
        should_stop,
        directory.pause_after,
        make_graphs(options.graphs, device, config.optimizer.determinism),
    )

    content = {
        "state_dict": state,
        "validating_accuracy": lines[epoch - 1].get(metric_name("validation", training.metric)),
        "epoch": epoch,
        "about": about(config.network, dataset, config.data.digest, training.metric == ACCURACY),
    }
    data = to_bytes(content)
    write_atomically(directory / "model.pt", data)
    if "test" in images:
        predicted = training.selected.get("test")
        if predicted is None:  # the epoch was selected before a kill
            model.load_state_dict(state)
            predicted = predict(model, cell, images["train"], images["test"], n_classes)
        file = predictions_file(predicted, images["test"].labels_cpu, dataset.class_names)
        write_atomically(directory / "predictions.npz", file)
    directory.append("end", selected_epoch=epoch)
    attempts = [e for e in directory.events() if e["event"] == "start"]
    evaluation_seconds = sum(line.get(EVALUATION_SECONDS, 0) for line in lines)
    versions = software()
    directory.finish(
        Manifest(
            results=summary(lines, epoch),
            selected_epoch=epoch,
            epochs=len(lines),
            seconds=round(sum(line["seconds"] for line in lines), 2),
            evaluation_seconds=round(evaluation_seconds, 2),
            parameters=sum(p.numel() for p in model.parameters()),
            model_sha256=hashlib.sha256(data).hexdigest(),
            data=data_summary(dataset, config),
            device=describe(device),
            # Of all attempts: the last digits may differ on another machine.
            threads=_distinct(attempts, "threads"),
            processor=_distinct(attempts, "processor"),
            attempts=len(attempts),
            # A cell that is resumed after a pull was trained by more than one commit.
            commits=sorted({a["commit"] or UNKNOWN for a in attempts}),
            dirty=any_dirty([a["dirty"] for a in attempts]),
            python=versions["python"],
            torch=versions["torch"],
        )
    )


def images_lie_on(device: torch.device, dataset: Dataset, directory: CellDir) -> bool:
    """Return whether images for resized crops lie on the device, as when the cell began.

    Their pixels differ by rounding from a loader's.
    """
    if device.type != "cuda" or not isinstance(dataset.augmentation, ResizedCrop):
        return False
    for event in directory.events():
        if event["event"] == "images":
            return bool(event["resident"])
    is_resident = fits(dataset, device, directory.options.cells_per_device)
    directory.append("images", resident=is_resident)
    return is_resident


def _teacher_cache(
    directory: CellDir, source: CellDir, teacher: Network, device: torch.device, is_resident: bool
) -> TeacherCache:
    """Return the teacher-output cache of the cell `source`, the teacher."""
    config, precision = directory.cell.config, directory.cell.config.optimizer.precision

    @torch.no_grad()
    def embed(x: Tensor) -> Tensor:
        with autocast(device, precision):
            return teacher.embed(x)

    weights = {
        "network": source.cell.config.as_json()["network"],
        "sha256": source.manifest.model_sha256,
    }
    machine = {
        "device": describe(device),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": software()["torch"],
        **({"images": "resident"} if is_resident else {}),  # whose pixels differ by rounding
    }
    return TeacherCache(
        directory.path.parent,
        cache_identity(config, weights, machine),
        directory.options.teacher_cache,
        embed,
        teacher.embedding_dim,
        device,
    )


def _distinct(attempts: list[dict[str, Any]], field: str) -> Any:
    """Return the value of a field of the start lines; a list of values if they differ."""
    values = sorted({a[field] for a in attempts if field in a})
    return values[0] if len(values) == 1 else values


def data_summary(dataset: Dataset, config: CellConfig) -> dict[str, Any]:
    """Return the name, digest and number of images of each part of what a cell has seen."""
    sizes = {name: len(part) for name, part in dataset.parts.items()}
    digest = config.data.digest if config.data.view == View() else dataset.digest
    return {"name": dataset.name, "digest": digest, **sizes}


def _upstream(directory: CellDir, fingerprint: str) -> CellDir:
    source = CellDir(directory.path.parent / fingerprint[:16])
    if not source.is_done:
        raise UserError(f"upstream: {source.path.name} is not finished; train it first")
    source.check_model()
    return source


def main() -> int:
    """Train the cell that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.train.cell", description="Train one cell."
    )
    parser.add_argument("directory", type=Path, help="a prepared cell directory of the store")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    directory = CellDir(arguments.directory)
    if not (directory / "cell.json").is_file():
        print(f"{directory.path}: no cell.json here; `harness run` prepares it", file=sys.stderr)
        return WRONG_INPUT
    status = run_cell(directory, arguments.device, arguments.threads)
    if status in (FAILED, WRONG_INPUT, NO_MEMORY):
        with contextlib.suppress(Damaged):  # printed before
            if (last := directory.events()[-1])["event"] == "failed":
                print(f"error: {last['error']}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
