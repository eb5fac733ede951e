"""A trained network as an MLflow model, which needs PyTorch and MLflow alone to be used."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.trained.graph import described, example, of_pixels
from harness.trained.model import TrainedModel


def save(model: TrainedModel, folder: Path) -> Path:
    """Write an MLflow model: `mlflow.pytorch.load_model` gives a module that takes images (B, 3,
    height, width) float32 of [0, 1] and returns logits (B, classes). It is saved as a graph, not as
    a pickle, which MLflow refuses to read. Its metadata says classes and preprocessing.

    Args:
        folder: made by this.

    Returns:
        folder
    """
    import mlflow.pytorch
    from mlflow.models import infer_signature

    module, images = of_pixels(model), example(model)
    with torch.no_grad():
        signature = infer_signature(images.numpy(), module(images).numpy())
    mlflow.pytorch.save_model(
        module,
        str(folder),
        serialization_format="pt2",
        signature=signature,
        input_example=images.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "mlflow"],
        metadata=described(model),
    )
    return folder
