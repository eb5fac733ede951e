"""`harness export`: a network for other runtimes, with its normalisation inside."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.store import write_atomically
from harness.trained.model import TrainedModel

NEEDED = ("onnx", "onnxscript")


class _OfPixels(nn.Module):
    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.model.normalised(images))
        return logits


def of_pixels(model: TrainedModel) -> nn.Module:
    """(B, 3, height, width) of [0, 1] -> logits (B, classes): for who has no normalisation."""
    return _OfPixels(model).eval()


def example(model: TrainedModel) -> Tensor:
    """An input of `of_pixels`, of two images: of one, an exporter would make that the only size."""
    return torch.zeros(2, 3, *model.image_size)


def to_onnx(model: TrainedModel, path: Path) -> None:
    """Write an ONNX file: input `images`, (B, 3, height, width) float32 of [0, 1]; output `logits`,
    (B, classes). Its metadata has `class_names` (JSON), `image_size` and `resize`.

    Raises:
        UserError: the packages for it are not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--onnx: needs the package {missing[0]}; `pip install 'refilled-harness[onnx]'`"
        )
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own deprecations inside
        program = torch.onnx.export(
            of_pixels(model),
            (example(model),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    height, width = model.image_size
    for key, value in {
        "class_names": json.dumps(model.class_names),
        "image_size": f"{height}x{width}",
        "resize": str(model.resize),
        "input": "RGB, pixels scaled to [0, 1]; the normalisation is in the graph",
    }.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, proto.SerializeToString())
