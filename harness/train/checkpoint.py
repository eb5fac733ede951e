"""Writing and reading weights. Files are read with weights_only: a pickle cannot run code.

model.pt has the keys of the published checkpoints, `state_dict`, `validating_accuracy` and `epoch`,
and beside them `about`: what one needs to use the network (`about`, harness.trained).
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.data import Dataset, ResizedCrop
from harness.networks import NetworkOptions
from harness.networks.base import Network

State = dict[str, Tensor]


def to_bytes(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, where: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: not a checkpoint, or one that holds more than tensors and plain values.
    """
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint: {where} cannot be read ({first[:120]})") from None


def about(
    network: NetworkOptions, dataset: Dataset, digest: str, classifies: bool = True
) -> dict[str, Any]:
    """What a file of weights says of its network, as plain data.

    Args:
        dataset: what the network has learned, after its view.
        digest: of the whole data set with its split, before the view.
        classifies: whether its last layer is trained, or only its embedding.

    Returns:
        network; classifies; data: the data set's label; data_digest; class_names: in the order of
        the logits; mean, std: of pixels scaled to [0, 1], subtracted and divided by; image_size:
        [height, width] of what it sees; resize: to how many pixels the shorter side of a picture
        is scaled before that is cut from its centre.
    """
    augmentation, (height, width) = dataset.augmentation, dataset.image_size
    resize = min(height, width)
    written = network.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(augmentation, ResizedCrop):
        resize = augmentation.shorter_side
    return {
        "network": json.loads(canonical(written)),  # byte for byte as cell.json has it
        "classifies": classifies,
        "data": dataset.name,
        "data_digest": digest,
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "image_size": [height, width],
        "resize": resize,
    }


def copy_state(model: nn.Module) -> State:
    """A module's state_dict, copied to the CPU in the ordinary memory layout."""
    return {
        k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for k, v in model.state_dict().items()
    }


def load_model(path: Path, options: NetworkOptions, n_classes: int | None = None) -> Network:
    """A network of the given options with the weights of a finished cell's model.pt.

    Args:
        n_classes: that it must have; None for as many as the file has (a teacher's task may differ
            from the student's).

    Raises:
        UserError: the file is unreadable or its keys or shapes are another network's.
    """
    return network_of(from_bytes(path.read_bytes(), path), path, options, n_classes)


def network_of(
    content: dict[str, Any], path: Path, options: NetworkOptions, n_classes: int | None = None
) -> Network:
    """The same, of what `path` holds."""
    try:
        state = content["state_dict"]
        n_outputs = len(state["fc.weight"]) if n_classes is None else n_classes
        model = options.build(n_outputs)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [""])[-1].strip()
        raise UserError(f"checkpoint: {path} does not fit the network ({first[:160]})") from None
    return model
