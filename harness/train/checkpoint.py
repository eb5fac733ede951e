"""Writing and reading weights. Files are read with weights_only: a pickle cannot run code.

model.pt has the keys of the published checkpoints (`state_dict`, `validating_accuracy`, `epoch`),
and `about`, which holds what is needed to use the network (harness.trained).
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.data import Dataset, ResizedCrop
from harness.networks import NetworkOptions
from harness.networks.base import Network, ShapesOnly
from harness.networks.published_file import first_difference, weights_problem
from harness.store import CellDir

State = dict[str, Tensor]


def to_bytes(value: dict[str, Any]) -> bytes:
    """Return the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, where: Path) -> dict[str, Any]:
    """Read a checkpoint from the bytes of the file `where`.

    Raises:
        UserError: It is no checkpoint, or holds more than tensors and plain values.
    """
    try:
        if not is_uncompressed(data):
            raise ValueError("it is compressed, which PyTorch does not do")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint: {where} cannot be read ({first[:120]})") from None


def is_uncompressed(data: bytes) -> bool:
    """Return whether a file unpacks to no more bytes than it has, unless it is no zip archive."""
    if not data.startswith(b"PK"):
        return True
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(member.file_size for member in archive.infolist()) <= len(data)


def about(
    network: NetworkOptions, dataset: Dataset, digest: str, classifies: bool = True
) -> dict[str, Any]:
    """Return the description of its network that a file of weights contains, as plain data.

    Args:
        network: The network's options.
        dataset: The data that the network has learned, seen through its view.
        digest: The digest of the whole data set with its split, before the view.
        classifies: Whether the last layer is trained, and not only the embedding.

    Returns:
        network: The network's options.
        classifies: See above.
        data, data_digest: The label and the digest of the data set.
        class_names: In the order of the logits.
        mean, std: Subtracted from and dividing pixels scaled to [0, 1].
        image_size: [height, width] of the network's input.
        resize: The length in pixels to which the shorter side of a picture is scaled before the
            input is cut from its centre.
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
    """Return a module's state_dict, copied to the CPU in the ordinary memory layout."""
    state = dict(model.state_dict())
    if all(v.device.type == "cpu" for v in state.values()):
        return {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    return {k: v.contiguous() for k, v in to_cpu(state).items()}


def to_cpu(tree: Any) -> Any:
    """Return nested containers with the tensors in them on the CPU, in one copy from a GPU.

    Strides stay; tensors on the CPU are not copied.
    """
    leaves, structure = tree_flatten(tree)
    away = [x for x in leaves if isinstance(x, Tensor) and x.device.type != "cpu"]
    if not away:
        return tree
    # Each tensor's memory as bytes, whatever its type and the order of its axes.
    flat = torch.cat([memory_of(x.detach()).view(torch.uint8) for x in away]).cpu()
    parts = iter(flat.split([x.nbytes for x in away]))
    moved = [
        next(parts).clone().view(x.dtype).as_strided(x.shape, x.stride())
        if isinstance(x, Tensor) and x.device.type != "cpu"
        else x
        for x in leaves
    ]
    return tree_unflatten(moved, structure)


def memory_of(tensor: Tensor) -> Tensor:
    """Return a dense tensor's values (numel,) in the order in which they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def load_model(path: Path, options: NetworkOptions, n_classes: int | None = None) -> Network:
    """Return a network with the weights of a finished cell's model.pt.

    It must have `n_classes`; None stands for as many as the file has, as a teacher's task may
    differ from the student's.

    Raises:
        UserError: The file is unreadable, or its keys or shapes are those of another network.
    """
    return network_of(from_bytes(path.read_bytes(), path), path, options, n_classes)


def network_of(
    content: dict[str, Any], path: Path, options: NetworkOptions, n_classes: int | None = None
) -> Network:
    """Return a network with the weights in the content of the file `path` (see `load_model`)."""
    try:
        if options.files:  # where they lie is written beside the cell's weights
            options = options.located(CellDir(path.parent).options.pretrained)
        state = content["state_dict"]
        with ShapesOnly():  # takes no memory
            if n_classes is None:
                n_classes = len(state[f"{options.build(1).head}.weight"])
            expected = options.build(n_classes).state_dict()
        if problem := first_difference(expected, state) or weights_problem(state):
            raise KeyError(problem)
        model = options.build(n_classes)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [""])[-1].strip()
        raise UserError(f"checkpoint: {path} does not fit the network ({first[:160]})") from None
    return model
