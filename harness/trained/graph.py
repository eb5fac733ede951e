"""`harness export`: a network for other runtimes, including its normalisation."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.common.errors import UserError
from harness.common.files import write_user_file
from harness.trained.model import TrainedModel

NEEDED = ("onnx", "onnxscript")


class _PixelModel(nn.Module):
    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.model.normalised(images))
        return logits


def pixel_model(model: TrainedModel) -> nn.Module:
    """Return a module that normalises its input: (B, 3, height, width) of [0, 1] -> logits."""
    return _PixelModel(model).eval()


def example(model: TrainedModel) -> Tensor:
    """Return an input of `pixel_model`.

    It has two images: an exporter would make a batch of one the only possible size.
    """
    return torch.zeros(2, 3, *model.image_size)


def metadata(model: TrainedModel) -> dict[str, Any]:
    """Return the network, classes and input that `pixel_model` needs to be used, as plain data."""
    return {
        "network": model.network_options,
        "class_names": list(model.class_names),
        "image_size": list(model.image_size),
        "resize": model.resize,
        "input": "RGB, pixels scaled to [0, 1]; the normalisation is in the graph",
    }


def to_onnx(model: TrainedModel, path: Path) -> None:
    """Write an ONNX file.

    Its input `images` is (B, 3, height, width) float32 of [0, 1], its output `logits` (B, classes).
    Its metadata has the fields of `metadata`, all but `input` as JSON.

    Raises:
        UserError: The packages for it are not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--onnx: needs the package {missing[0]}; `pip install 'refilled-harness[onnx]'`"
        )
    import onnx

    program = torch.onnx.export(
        pixel_model(model),
        (example(model),),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for key, value in metadata(model).items():
        proto.metadata_props.add(key=key, value=value if key == "input" else json.dumps(value))
    onnx.checker.check_model(proto)
    write_user_file(path, proto.SerializeToString())
