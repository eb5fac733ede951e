"""Run ONE cell in this process: `python -m harness.train.cell DIR [--device D] [--threads N]`.

Needs torch, torchvision, numpy, pydantic and PyYAML (and scikit-learn for its digits and for linear
probes), but neither MLflow nor Optuna: a bare GPU node can train. Every executor ends here.

Exit status: 0 done (or done already), 1 failed, 2 wrong input, 3 stopped on request (run it again
to go on), 4 another process trains this cell.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.cell import CellConfig
from harness.common.errors import UserError
from harness.common.metrics import ACCURACY, EVALUATION_SECONDS, metric_name, summary
from harness.common.provenance import UNKNOWN, CodeVersion, code_version, processor, software
from harness.common.signals import stop_on_sigterm
from harness.data import Dataset, DatasetOptions, load, using_data_root
from harness.data.batches import Images, epoch_generator
from harness.data.placement import on_device
from harness.data.views import View, apply, join_validation
from harness.methods import stage_of
from harness.networks.base import Network
from harness.store import Busy, CellDir
from harness.store.cell_files import Damaged
from harness.store.files import sweep, write_atomically
from harness.train.checkpoint import about, load_model, to_bytes
from harness.train.data_request import data_request
from harness.train.device import be_deterministic, describe, resolve_device, use
from harness.train.evaluate import autocast, classify
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED, WRONG_INPUT
from harness.train.loop import Diverged, Interrupted, train
from harness.train.methods.base import Context, training_of
from harness.train.teacher_cache import TeacherCache, identity_of


def run_cell(
    directory: CellDir,
    device_name: str = "auto",
    threads: int | None = None,
    version: CodeVersion | None = None,
    should_stop: Callable[[], bool] | None = None,
    loaded: Loaded | None = None,
) -> int:
    """Train the cell in `directory`; its exit status. Everything said goes to the journal.

    Args:
        should_stop: asked at every batch; left out, SIGTERM says so.
        loaded: what cells before it in this process have loaded.
    """
    should_stop = should_stop or stop_on_sigterm()
    try:
        with directory.lease():
            if directory.is_done:
                return DONE
            directory.events()  # to a damaged journal nothing is added
            sweep(directory.path)
            try:
                directory.repair_journal()
                if threads:
                    torch.set_num_threads(threads)
                be_deterministic()
                device = resolve_device(device_name)
                use(device)
                version = version or code_version()
                directory.append(
                    "start",
                    device=describe(device),
                    slot=device_name,  # of several GPUs of one make, which it was
                    processor=processor(),
                    threads=torch.get_num_threads(),
                    **version,
                    **software(),
                )
                _train(directory, device, version, should_stop, loaded or Loaded())
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
                directory.append("failed", error=f"{type(error).__name__}: {error}")
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
    version: CodeVersion,
    should_stop: Callable[[], bool],
    loaded: Loaded,
) -> None:
    cell = directory.cell
    config = cell.config
    dataset = dataset_of(directory, config, loaded)
    n_classes = len(dataset.class_names)
    models = {
        role: _upstream(directory, fingerprint) for role, fingerprint in cell.upstream.items()
    }

    torch.manual_seed(initial_seed(config))
    new_head = stage_of(cell.kind).new_head
    if "initial" in models:
        path = models["initial"] / "model.pt"
        model = load_model(path, config.network, None if new_head else n_classes)
        if new_head:
            model.fc = config.network.build(n_classes).fc
    else:
        model = config.network.build(n_classes)
    teacher = kept = None
    if "teacher" in models:
        source = models["teacher"]
        teacher = load_model(source / "model.pt", source.cell.config.network)
        teacher = teacher.to(device).to(memory_format=torch.channels_last)
        kept = _kept_answers(directory, source, teacher, device)
    model = model.to(device).to(memory_format=torch.channels_last)

    n_workers = directory.options.get("n_workers", 0)
    images: dict[str, Images] = {
        name: on_device(dataset, part, device, n_workers) for name, part in dataset.parts.items()
    }
    if (selection := config.protocol.selection) not in ("last", *images):
        raise UserError(
            f"protocol.selection: {selection!r}, but there are no such images; use 'last'"
        )
    context = Context(config, images, n_classes, model, teacher, kept)
    training = training_of(cell.kind, context)
    state, epoch, lines = train(
        model,
        training,
        images["train"],
        config,
        cell.epochs,
        directory,
        should_stop,
        directory.pause_after,
    )

    results = summary(lines, epoch)
    accuracy = lines[epoch - 1].get(metric_name("validation", training.metric))
    content = {
        "state_dict": state,
        "validating_accuracy": accuracy,
        "epoch": epoch,
        "about": about(config.network, dataset, config.data.digest, training.metric == ACCURACY),
    }
    data = to_bytes(content)
    write_atomically(directory / "model.pt", data)
    if "test" in images and training.metric == ACCURACY:  # else there is no classifier
        predicted = training.selected.get("test")
        if predicted is None:  # selected before a kill
            model.load_state_dict(state)
            predicted = classify(model, images["test"], config.optimizer.precision)
        file = predictions_file(predicted, images["test"].labels_cpu, dataset.class_names)
        write_atomically(directory / "predictions.npz", file)
    directory.append("end", selected_epoch=epoch)
    attempts = [e for e in directory.events() if e["event"] == "start"]
    directory.finish(
        {
            "results": results,
            "selected_epoch": epoch,
            "epochs": cell.epochs,
            "seconds": round(sum(line["seconds"] for line in lines), 2),
            EVALUATION_SECONDS: round(sum(line.get(EVALUATION_SECONDS, 0) for line in lines), 2),
            "parameters": sum(p.numel() for p in model.parameters()),
            "model_sha256": hashlib.sha256(data).hexdigest(),
            "data": data_summary(dataset, config),
            "device": describe(device),
            # Of all attempts: one that went on elsewhere has other last digits from there.
            "threads": _each(attempts, "threads"),
            "processor": _each(attempts, "processor"),
            "attempts": len(attempts),
            # A cell resumed after a pull was trained by more than one commit.
            "commits": sorted({a["commit"] or UNKNOWN for a in attempts}),
            "dirty": any(a["dirty"] for a in attempts),
            **software(),
        }
    )


def _kept_answers(
    directory: CellDir, source: CellDir, teacher: Network, device: torch.device
) -> TeacherCache | None:
    """Of the teacher that `source` is of; None where none are kept."""
    config, limit = directory.cell.config, directory.options.get("teacher_cache", 0)
    if not limit:
        return None
    precision = config.optimizer.precision

    @torch.no_grad()
    def embed(x: Tensor) -> Tensor:
        with autocast(device, precision):
            return teacher.embed(x)

    of = {
        "network": source.cell.config.as_json()["network"],
        "sha256": source.manifest["model_sha256"],
    }
    machine = {
        "device": describe(device),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": software()["torch"],
    }
    identity = identity_of(config, of, machine)
    width = teacher.embedding_dim
    return TeacherCache(directory.path.parent, identity, limit, embed, width, device)


def initial_seed(config: CellConfig) -> int:
    """Of the initial weights: networks of one kind and seed start alike, teacher and student, too,
    unless the protocol gives students a stream of their own."""
    if config.protocol.initial_weights == "own":
        return epoch_generator(config.seed, 0, stream=2).initial_seed()
    return config.seed


def _each(attempts: list[dict[str, Any]], field: str) -> Any:
    """The value of a field in the journal's start lines; a list of them if they differ."""
    values = sorted({a[field] for a in attempts if field in a})
    return values[0] if len(values) == 1 else values


def predictions_file(predicted: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> bytes:
    """An .npz file of labels (N,) and predictions (N,), as small integers, and class_names (C,)."""
    small = np.min_scalar_type(len(class_names) - 1)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        labels=labels.numpy().astype(small),
        predictions=predicted.cpu().numpy().astype(small),
        class_names=np.array(class_names),
    )
    return buffer.getvalue()


def predict_again(directory: CellDir) -> None:
    """Write predictions.npz of a finished cell anew. Only under the lease.

    Raises:
        UserError: the cell's data are not on this machine.
    """
    config = directory.cell.config
    dataset = dataset_of(directory, config)
    if dataset.test is None:
        return
    device = resolve_device("cpu")
    model = load_model(directory / "model.pt", config.network, len(dataset.class_names))
    model = model.to(memory_format=torch.channels_last)
    images = on_device(dataset, dataset.test, device, 0)
    predicted = classify(model, images, config.optimizer.precision)
    file = predictions_file(predicted, images.labels_cpu, dataset.class_names)
    write_atomically(directory / "predictions.npz", file)


class Loaded:
    """The data set that a worker's last cell had: the next one mostly has the same."""

    def __init__(self) -> None:
        self._of: tuple[DatasetOptions, bool, str | None] | None = None
        self._dataset: Dataset | None = None

    def dataset(self, options: DatasetOptions, with_test: bool, root: str | None) -> Dataset:
        """`harness.data.load`, of files below `root`."""

        def made() -> Dataset:
            with using_data_root(root):
                return load(options, with_test)

        return self.bring(options, with_test, root, made)

    def bring(
        self,
        options: DatasetOptions,
        with_test: bool,
        root: str | None,
        make: Callable[[], Dataset],
    ) -> Dataset:
        """The same, from wherever `make` has it, if it is not here: it will be."""
        if self._dataset is None or self._of != (options, with_test, root):
            self._dataset = None  # one of them is enough for the memory
            self._dataset = make()
            self._of = (options, with_test, root)
        return self._dataset


def dataset_of(directory: CellDir, config: CellConfig, loaded: Loaded | None = None) -> Dataset:
    """The cell's data: the part of the data set that it has the view of."""
    wanted = data_request(directory)
    dataset = (loaded or Loaded()).dataset(wanted.options, wanted.with_test, wanted.root)
    if dataset.digest != wanted.digest:
        raise UserError(
            f"dataset: {wanted.options.name} on this machine is not the data this cell was planned "
            "with (other digest); plan again here with `harness run`"
        )
    if config.protocol.train_on == "train+validation":
        dataset = join_validation(dataset)
    return apply(dataset, config.data.view)


def data_summary(dataset: Dataset, config: CellConfig) -> dict[str, Any]:
    """Of what a cell has seen: name, number of images of each part, and the digest, of a view its
    own."""
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
    if status in (FAILED, WRONG_INPUT):
        with contextlib.suppress(Damaged):  # said before
            if (last := directory.events()[-1])["event"] == "failed":
                print(f"error: {last['error']}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
