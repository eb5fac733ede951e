"""A trained network with its classes and its preprocessing, from a file that says all of it."""

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
from harness.data.batches import chunk_size
from harness.data.decode import Encoded, ImageFormat, center_crop, read_rgb, resize_image
from harness.networks.base import Network
from harness.train.checkpoint import from_bytes, network_of

WEIGHTS_FILE = "model.pt"
Picture = str | Path | bytes | Image.Image | np.ndarray


class TrainedModel(nn.Module):
    """What `harness.load_student` gives; in eval mode.

    classifies: whether its last layer is trained; after a first stage, and of methods that measure
    nearest class means, the embedding alone is. network: the harness.networks.base.Network itself.
    network_options: its entry in an experiment file. data, data_digest: label of what it
    has learned, and the digest of the whole data set with its split.
    class_names: in the order of the logits. mean, std: (3, 1, 1), of pixels scaled to [0, 1].
    image_size: (height, width) of its input. resize: to how many pixels the shorter side of a
    picture is scaled before that is cut from its centre.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, about: dict[str, Any]) -> None:
        """
        Args:
            about: `harness.train.checkpoint.about`.

        Raises:
            KeyError, TypeError, ValueError: it lacks a field, or holds something else there.
        """
        super().__init__()
        self.network = network
        self.network_options = dict(about["network"])
        self.data, self.data_digest = str(about["data"]), str(about["data_digest"])
        self.classifies = bool(about["classifies"])
        self.class_names = tuple(map(str, about["class_names"]))
        height, width = about["image_size"]
        self.image_size, self.resize = (int(height), int(width)), int(about["resize"])
        for name in ("mean", "std"):
            value = torch.tensor(about[name], dtype=torch.float32).reshape(3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.eval()

    def preprocess(self, picture: Picture) -> Tensor:
        """A picture as the network's input: 8-bit RGB, its shorter side scaled to `resize`
        (bilinear, antialiased), its centre cut out, normalised.

        Args:
            picture: a file's path, its bytes, a PIL image, or a (H, W, 3) or (H, W) uint8 array.

        Returns:
            (3, height, width) float32.

        Raises:
            UserError: it cannot be read as an image.
        """
        pixels = torch.from_numpy(self._pixels(picture)).permute(2, 0, 1)
        return self.normalised(pixels.float().div_(255).to(self.mean.device))

    def normalised(self, x: Tensor) -> Tensor:
        """(.., 3, H, W) of [0, 1] -> what the network takes."""
        return (x - self.mean) / self.std

    def _pixels(self, picture: Picture) -> np.ndarray:
        """(height, width, 3) uint8."""
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
        """Logits (B, classes) of preprocessed pictures (B, 3, height, width)."""
        logits: Tensor = self.network(x)
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (B, D), the input of the last layer, of preprocessed pictures."""
        embedding: Tensor = self.network.embed(x)
        return embedding

    def probabilities(self, pictures: Iterable[Picture]) -> Tensor:
        """Softmax of the logits of each picture, (N, classes) float32 on the CPU.

        Raises:
            UserError: one cannot be read as an image, or the network does not classify.
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
        """
        Raises:
            UserError: it does not.
        """
        if not self.classifies:
            raise UserError(
                "MODEL: only its embedding is trained, not its last layer; name the method's last "
                "stage, or use `embed`"
            )


def read_model(path: Path) -> TrainedModel:
    """
    Args:
        path: a model.pt, as cells and MLflow's runs have it.

    Raises:
        UserError: no such file, a broken one, or one that does not say what it is of.
    """
    if not path.is_file():
        raise UserError(f"MODEL: no file {path}; check the path")
    return model_of(from_bytes(path.read_bytes(), path), path)


def model_of(content: dict[str, Any], path: Path) -> TrainedModel:
    """
    Args:
        content: of the file `path`.

    Raises:
        UserError: it does not say what it is of, or does not fit that.
    """
    about = content.get("about") if isinstance(content, dict) else None
    if about is None:
        raise UserError(
            f"MODEL: {path} does not say which network and classes it has, as published files and "
            "older ones do not; `harness import-checkpoint FILE EXPERIMENT` makes a cell of it"
        )
    try:
        options = network_options(about["network"])
        network = network_of(content, path, options, len(about["class_names"]))
        return TrainedModel(network, about)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"MODEL: {path} does not say all of its network and classes ({one_line(error)}); "
            "train it again"
        ) from None
