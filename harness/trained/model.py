"""A trained network with its classes and its preprocessing, all from one file."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harness.cell import network_options
from harness.common.errors import UserError, one_line
from harness.common.reading import read_file
from harness.data.batches import chunk_size
from harness.data.decode import Encoded, ImageFormat, center_crop, read_rgb, resize_image
from harness.networks.base import Network
from harness.store import CellDir
from harness.train.checkpoint import from_bytes, network_of

LARGEST = 4096  # pixels of a side: a data set has at most 1024, and crops of larger pictures
WEIGHTS_FILE = "model.pt"
Picture = str | Path | bytes | Image.Image | np.ndarray


class TrainedModel(nn.Module):
    """A trained network in eval mode, as `harness.load_student` returns it.

    Attributes:
        network: The harness.networks.base.Network itself.
        network_options: Its entry in an experiment file.
        data: The label of the data it was trained on.
        data_digest: The digest of the whole data set and its split.
        classifies: Whether its last layer is trained. After a first stage, and with methods that
            measure nearest class means, only the embedding is.
        class_names: In the order of the logits.
        mean, std: (3, 1, 1), of pixels scaled to [0, 1].
        image_size: (height, width) of its input.
        resize: The number of pixels to which the shorter side of a picture is scaled before the
            centre is cut out.
        cell: The directory of the cell that trained it; None if it comes from a file alone.
    """

    cell: CellDir | None = None
    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, about: dict[str, Any]) -> None:
        """Wrap a network with its weights and its description (`harness.train.checkpoint.about`).

        Raises:
            KeyError, TypeError, ValueError: The description lacks a field, or a field is wrong.
        """
        super().__init__()
        self.network = network
        self.network_options = dict(about["network"])
        self.data, self.data_digest = str(about["data"]), str(about["data_digest"])
        self.classifies = bool(about["classifies"])
        self.class_names = tuple(map(str, about["class_names"]))
        height, width = about["image_size"]
        self.image_size, self.resize = (int(height), int(width)), int(about["resize"])
        if not all(1 <= n <= LARGEST for n in (*self.image_size, self.resize)):
            raise ValueError(f"image_size and resize are 1 to {LARGEST}")
        for name in ("mean", "std"):
            value = torch.tensor(about[name], dtype=torch.float32).reshape(3, 1, 1)
            if not bool(value.isfinite().all()) or (name == "std" and not bool((value > 0).all())):
                raise ValueError(f"{name} is no number to normalise with")
            self.register_buffer(name, value, persistent=False)
        network.expect(self.mean.flatten().tolist(), self.std.flatten().tolist())
        self.eval()

    def preprocess(self, picture: Picture) -> Tensor:
        """Turn a picture into an input of the network.

        It is converted to 8-bit RGB, its shorter side is scaled to `resize` (bilinear, with
        antialiasing), its centre is cut out, and the pixels are normalised.

        Args:
            picture: A file's path, its bytes, a PIL image, or a (H, W, 3) or (H, W) uint8 array.

        Returns:
            (3, height, width) float32.

        Raises:
            UserError: It cannot be read as an image.
        """
        pixels = torch.from_numpy(self.pixels(picture)).permute(2, 0, 1)
        return self.normalised(pixels.float().div_(255).to(self.mean.device))

    def normalised(self, x: Tensor) -> Tensor:
        """Normalise pixels of [0, 1], (.., 3, H, W)."""
        return (x - self.mean) / self.std

    def pixels(self, picture: Picture) -> np.ndarray:
        """Return the pixels of a picture, (height, width, 3) uint8."""
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise UserError(
                    f"picture: an array of {picture.dtype}; give uint8, of 0 to 255, as (H, W, 3)"
                )
            picture = Image.fromarray(picture)
        if isinstance(picture, Image.Image):
            image, name = picture.convert("RGB"), "picture"
        elif isinstance(picture, bytes):
            image, name = read_rgb(Encoded(picture, "picture")), "picture"
        else:
            image, name = read_rgb(Encoded(Path(picture), str(picture))), str(picture)
        return np.array(
            center_crop(
                resize_image(image, ImageFormat(self.resize, square=False), name), *self.image_size
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of preprocessed pictures (B, 3, height, width)."""
        logits: Tensor = self.network(x)
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, D) of preprocessed pictures, the input of the last layer."""
        embedding: Tensor = self.network.embed(x)
        return embedding

    def probabilities(self, pictures: Iterable[Picture]) -> Tensor:
        """Return the class probabilities of pictures, (N, classes) float32 on the CPU.

        Raises:
            UserError: One cannot be read as an image, or the network does not classify.
        """
        self.check_classifies()
        parts, rest = [torch.empty(0, len(self.class_names))], iter(pictures)
        chunk = chunk_size(self.mean.device, *self.image_size)
        with torch.no_grad():
            while some := list(islice(rest, chunk)):
                x = torch.stack([self.preprocess(picture) for picture in some])
                parts.append(self(x).float().softmax(1).cpu())
        return torch.cat(parts)

    def check_classifies(self) -> None:
        """Check that the network classifies.

        Raises:
            UserError: Only its embedding is trained.
        """
        if not self.classifies:
            raise UserError(
                "MODEL: only its embedding is trained, not its last layer; name the method's last "
                "stage, or use `embed`"
            )


def read_model(path: Path) -> TrainedModel:
    """Read a model.pt of a cell or of a run of MLflow.

    Raises:
        UserError: There is no such file, it is broken, or it does not describe its network.
    """
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise UserError(f"MODEL: no file {path}; check the path") from None
    return model_of(from_bytes(data, path), path)


def model_of(content: dict[str, Any], path: Path) -> TrainedModel:
    """Build a network from the content of the file `path`.

    Raises:
        UserError: The file does not describe its network, or does not fit the description.
    """
    about = content.get("about") if isinstance(content, dict) else None
    if about is None:
        raise UserError(
            f"MODEL: {path} does not describe its network and classes; if it is a published or an "
            "older file, `harness import-checkpoint FILE EXPERIMENT` makes a cell of it"
        )
    try:
        options = network_options(about["network"])
        network = network_of(content, path, options, len(about["class_names"]))
        return TrainedModel(network, about)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"MODEL: {path} does not fully describe its network and classes ({one_line(error)}); "
            "train it again"
        ) from None
