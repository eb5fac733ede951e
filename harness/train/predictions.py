"""The predicted class of each test image: predictions.npz of a cell."""

from __future__ import annotations

import io

import numpy as np
from torch import Tensor

from harness.cell import Cell
from harness.common.files import write_atomically
from harness.common.metrics import NCM, ncm_metric
from harness.data.batches import Images
from harness.data.placement import on_device
from harness.networks.base import Network
from harness.store import CellDir
from harness.train.checkpoint import load_model
from harness.train.data_request import load_dataset
from harness.train.device import resolve_device
from harness.train.evaluate import classify, ncm_accuracies
from harness.train.initial import placed


def predictions_file(predicted: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> bytes:
    """Return an .npz file of labels (N,), predictions (N,) and class_names (C,)."""
    small = np.min_scalar_type(len(class_names) - 1)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        labels=labels.numpy().astype(small),
        predictions=predicted.clamp(min=0).cpu().numpy().astype(small),  # -1: no class could win
        class_names=np.array(class_names),
    )
    return buffer.getvalue()


def predict(model: Network, cell: Cell, train: Images, test: Images, n_classes: int) -> Tensor:
    """Return the class (N,) of each test image: the classifier's, or the nearest class mean's."""
    config = cell.config
    if cell.metric != NCM:
        return classify(model, test, config.optimizer.precision)
    evaluated, precision = {"test": test}, config.optimizer.precision
    _, by_form = ncm_accuracies(model, train, evaluated, n_classes, precision)
    return by_form[ncm_metric(config.protocol.ncm_centers)]["test"]


def predict_again(directory: CellDir) -> None:
    """Rewrite predictions.npz of a finished cell; the cell has to be leased.

    Raises:
        UserError: The cell's data are not on this machine.
    """
    config = directory.cell.config
    dataset = load_dataset(directory, config)
    if dataset.test is None:
        return
    device, n_classes = resolve_device("cpu"), len(dataset.class_names)
    model = load_model(directory / "model.pt", config.network, n_classes)
    model = placed(model, dataset, device)
    images = on_device(dataset, dataset.test, device, 0)
    train = on_device(dataset, dataset.train, device, 0)
    predicted = predict(model, directory.cell, train, images, n_classes)
    file = predictions_file(predicted, images.labels_cpu, dataset.class_names)
    write_atomically(directory / "predictions.npz", file)
