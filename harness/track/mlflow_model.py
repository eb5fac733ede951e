"""A trained network as an MLflow model, which can be used with PyTorch and MLflow alone."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.trained.graph import example, metadata, pixel_model
from harness.trained.model import TrainedModel


def save(model: TrainedModel, folder: Path) -> Path:
    """Write a network as an MLflow model.

    `mlflow.pytorch.load_model` gives a module that takes images, (B, 3, height, width) float32 in
    [0, 1], and returns logits, (B, classes). It is saved as a graph, since MLflow refuses to read
    pickles. Its metadata describes classes and preprocessing. The folder, which must not exist yet,
    is created and returned.
    """
    import mlflow.pytorch
    from mlflow.models import infer_signature

    module, images = pixel_model(model), example(model)
    with torch.no_grad():
        signature = infer_signature(images.numpy(), module(images).numpy())
    mlflow.pytorch.save_model(
        module,
        str(folder),
        serialization_format="pt2",
        signature=signature,
        input_example=images.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "mlflow"],
        metadata=metadata(model),
    )
    return folder
