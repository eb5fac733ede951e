"""The training loop of every kind of cell.

Everything random in an epoch follows from (seed, epoch) alone (harness.data.batches), so resuming
needs no generator states and gives, on a CPU, the same bits as an uninterrupted training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.cell import CellConfig
from harness.common.metrics import ACCURACY, EVALUATION_SECONDS, VALIDATION_LOSS, metric_name
from harness.data.batches import Batch, Epoch, Images, epoch_generator
from harness.experiment.protocol import Protocol
from harness.methods.schedules import Schedule
from harness.networks.base import Network
from harness.store import CellDir
from harness.store.cell_files import Damaged
from harness.train.checkpoint import State, copy_state, from_bytes, to_bytes, to_cpu
from harness.train.graphs import Graphs
from harness.train.methods.base import Training
from harness.train.optimizer import WeightAverage, load_optimizer, make_average, make_optimizer
from harness.train.steps import Steps, batch_norms_count_at_once

# Writing a checkpoint takes as long as a short epoch. If epochs are short, one is written only when
# the training since the last one took CHECKPOINT_SHARE times as long as writing that one, or
# CHECKPOINT_SECONDS if that is less. A kill costs at most that and the epoch under way.
CHECKPOINT_SHARE, CHECKPOINT_SECONDS = 100, 5.0


class Interrupted(Exception):
    """The training was asked to stop, and can be resumed from its checkpoint."""


class Diverged(Exception):
    """The loss is no longer finite."""


class Best:
    """The best value so far; `ties` tells which of several equal epochs counts."""

    def __init__(self, value: float = -math.inf, epoch: int = 0, ties: str = "later") -> None:
        self.value, self.epoch, self.ties = value, epoch, ties

    def update(self, value: float | None, epoch: int) -> bool:
        """Take the value of an epoch, and return whether it is the best one now."""
        if value is None or value < self.value or (value == self.value and self.ties == "first"):
            return False
        self.value, self.epoch = value, epoch
        return True


def train(
    model: Network,
    training: Training,
    images: Images,
    config: CellConfig,
    n_epochs: int,
    directory: CellDir,
    should_stop: Callable[[], bool],
    pause_after: int | None = None,
    graphs: Graphs | None = None,
) -> tuple[State, int, list[dict[str, Any]]]:
    """Train up to the last epoch, or until it stops early, from the checkpoint if there is one.

    Args:
        model: The student, on the images' device.
        images: The training images.
        config: The config of the cell.
        n_epochs: The number of epochs.
        directory: The cell's directory, for checkpoints and the journal.
        should_stop: Called before every batch.
        training: What is minimised and measured; its module is trained with the model.
        pause_after: The epoch after which the training is interrupted on purpose.
        graphs: Takes the steps as CUDA graphs; None for single launches.

    Returns:
        The selected weights, their epoch (from 1), and the journal's epoch lines.

    Raises:
        Interrupted: `should_stop` or `pause_after` asked for it; call again to resume.
        Diverged: The loss became NaN or infinite.
        UserError: The checkpoint is broken.
    """
    module = training.module.to(images.device)
    parameters = [*model.parameters(), *module.parameters()]
    optimizer = make_optimizer(parameters, config.optimizer, images.device)
    average = make_average(model, config.optimizer) if training.takes_steps else None
    measured_model = model if average is None else average.model
    score, stops = scoring(config.protocol, training.metric), stopping(config, training)
    ties = config.protocol.ties
    best, selected, done = Best(ties=ties), copy_state(model), 0

    data = directory.read_checkpoint()
    if data is not None:
        saved = from_bytes(data, directory / "checkpoint.pt")
        model.load_state_dict(saved["model"])
        module.load_state_dict(saved.get("training", {}))  # older checkpoints have none
        load_optimizer(optimizer, saved["optimizer"])
        if average is not None:
            average.model.load_state_dict(saved["average"])
        selected, done = saved["selected"], saved["epoch"]
        best = Best(saved["best_value"], saved["best_epoch"], ties)
        lines = saved.get("lines") or [saved["line"]]  # older checkpoints have one line
        known = len(directory.epochs())
        if known < done - len(lines):
            raise Damaged(
                directory / "journal.jsonl", f"lacks epochs before its checkpoint's {done}"
            )
        # The training was stopped between writing the checkpoint and the journal.
        directory.extend([line for line in lines if line["epoch"] > known])

    unsaved: list[dict[str, Any]] = []
    # Without its checkpoint a training begins anew, and the journal's lines are of an earlier one.
    history = directory.epochs() if done else []
    saved_at, due = time.monotonic(), 0.0
    for epoch in range(done, n_epochs):
        if pause_after is not None and epoch >= pause_after:
            raise Interrupted
        if stops(history):  # before a kill
            break
        try:
            line = train_epoch(
                model, training, optimizer, images, config, epoch, should_stop, graphs, average
            )
        except Diverged:
            directory.extend(unsaved)  # what led to it
            raise
        if graphs is not None and epoch == done and graphs.problem is not None:
            directory.append("graphs", used=not graphs.problem, problem=graphs.problem)
        started = time.perf_counter()
        measured = training.evaluate(measured_model, epoch)
        if measured is not None:
            line |= measured | {EVALUATION_SECONDS: round(time.perf_counter() - started, 4)}
        if score is None or best.update(score(line) if measured else None, epoch + 1):
            best.epoch = epoch + 1
            selected = copy_state(measured_model)
            training.selected = training.predicted
        unsaved.append({"event": "epoch", "time": round(time.time(), 3), **line})
        history.append(unsaved[-1])
        began, is_over = time.monotonic(), stops(history)
        if began - saved_at < due and epoch + 1 not in (n_epochs, pause_after) and not is_over:
            continue
        content = {
            "epoch": epoch + 1,
            "model": copy_state(model),
            "training": copy_state(module),
            "optimizer": to_cpu(optimizer.state_dict()),
            "selected": selected,
            "best_value": best.value,
            "best_epoch": best.epoch,
            "lines": unsaved,
        }
        if average is not None:
            content["average"] = copy_state(average.model)
        directory.write_checkpoint(to_bytes(content))
        directory.extend(unsaved)
        unsaved, saved_at = [], time.monotonic()
        due = min(CHECKPOINT_SHARE * (saved_at - began), CHECKPOINT_SECONDS)
    return selected, best.epoch, directory.epochs()


def scoring(protocol: Protocol, metric: str) -> Callable[[dict[str, Any]], float | None] | None:
    """Return the function that scores an epoch by its journal line; None to select the last one.

    The protocol's select_by does not apply to NCM accuracies.
    """
    if protocol.selection == "last":
        return None
    if protocol.select_by == "loss" and metric == ACCURACY:
        return lambda line: (
            -line.get(VALIDATION_LOSS, math.inf)
        )  # left out of the line if it is not finite
    return lambda line: line.get(metric_name(protocol.selection, metric))


def stopping(config: CellConfig, training: Training) -> Callable[[list[dict[str, Any]]], bool]:
    """Return the function that tells from the journal lines so far whether the training is over.

    It is after `early_stopping` epochs (harness.methods.schedules) since the best measurement on
    the validation images; of equal ones the first counts. An unmeasured epoch ends nothing.
    """
    settings = training.settings
    patience = settings.early_stopping if isinstance(settings, Schedule) else None
    by_loss = config.protocol.select_by == "loss" and training.metric == ACCURACY
    name = VALIDATION_LOSS if by_loss else metric_name("validation", training.metric)

    def is_over(lines: list[dict[str, Any]]) -> bool:
        if patience is None:
            return False
        measured = [(line[name], line["epoch"]) for line in lines if name in line]
        if not measured or measured[-1][1] != lines[-1]["epoch"]:
            return False
        best = (min if by_loss else max)(value for value, _ in measured)
        best_epoch = next(epoch for value, epoch in measured if value == best)
        return measured[-1][1] - best_epoch >= patience

    return is_over


def train_epoch(
    model: Network,
    training: Training,
    optimizer: torch.optim.Optimizer,
    images: Images,
    config: CellConfig,
    epoch: int,
    should_stop: Callable[[], bool],
    graphs: Graphs | None = None,
    average: WeightAverage | None = None,
) -> dict[str, Any]:
    """Train for one epoch, counted from 0, and return its journal line."""
    generator = epoch_generator(config.seed, epoch)
    torch.manual_seed(epoch_generator(config.seed, epoch, stream=1).initial_seed())  # dropout
    lr = training.lr(epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    model.train()
    training.module.train()
    started = time.perf_counter()
    averages = training.fit(model, epoch)
    if averages is None:
        o = config.optimizer
        steps = Steps(model, training, optimizer, o.precision, epoch, o.clip_norm, average)
        take_steps(steps, images.augmented(o.batch_size, generator), should_stop, graphs)
        if average is not None:
            average.end_epoch()
        averages = steps.averages(len(images))
    seconds = time.perf_counter() - started
    for name, mean in averages.items():
        if not math.isfinite(mean):
            raise Diverged(f"{name} is {mean} in epoch {epoch + 1}; lower the learning rate")
    losses = [value for name, value in averages.items() if name.startswith("loss/")]
    total = {"loss/total": sum(losses)} if losses else {}
    return {
        "epoch": epoch + 1,
        "lr": lr,
        "seconds": round(seconds, 4),
        "images_per_second": round(len(images) / seconds, 1),
        **averages,
        **total,
    }


def take_steps(
    steps: Steps, batches: Epoch, should_stop: Callable[[], bool], graphs: Graphs | None = None
) -> None:
    """Take the steps of an epoch.

    Raises:
        Interrupted: `should_stop` asked for it.
    """
    mixed = steps.training.mix(batches, steps.epoch)
    ready = steps.training.prepare_batches(mixed, steps.epoch)
    n_batches = len(batches.labels)
    take: Callable[[Batch], None] = steps
    modules = steps.model, steps.training.module
    with batch_norms_count_at_once(*modules, n_batches=n_batches):
        if graphs is not None:
            take, ready = graphs.choose(steps, ready, n_batches)
        for batch in ready:
            if should_stop():
                raise Interrupted
            take(batch)
