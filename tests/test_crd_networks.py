"""The networks of the CRD benchmark equal those that its public code builds.

`pytest -k crd --golden DIR` tests against another folder of the same format.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.networks import build
from harness.networks.pretrained import LocalFile, load_weights
from harness.networks.repdistiller import ARCHITECTURES
from harness.networks.repdistiller.network import BenchmarkNetwork

FACTS, NUMBERS = "crd_networks.json", "crd_networks.npz"
TOLERANCE = 1e-9


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test a network; a folder without them is an error, not a pass."""
    folder: Path = metafunc.config.getoption("--golden")
    for file in (FACTS, NUMBERS):
        if not (folder / file).is_file():
            raise pytest.UsageError(f"--golden: no {file} in {folder.absolute()}")
    if "crd_name" in metafunc.fixturenames:
        metafunc.parametrize("crd_name", json.loads((folder / FACTS).read_text())["networks"])


@pytest.fixture(scope="module")
def facts(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / FACTS).read_text())
    return content


def built(name: str) -> BenchmarkNetwork:
    network = build("repdistiller", 100, name=name)
    assert isinstance(network, BenchmarkNetwork)
    return network


def fill(network: nn.Module, frequency: float, offset: float) -> None:
    """Set the deterministic weights that tests/golden/README.md describes."""
    for i, (name, entry) in enumerate(network.state_dict().items()):
        if not entry.is_floating_point():
            continue
        j = torch.arange(entry.numel(), dtype=torch.float64)
        s = torch.sin(frequency * j + i + offset).reshape(entry.shape)
        if name.endswith("running_var"):
            value = 1 + 0.1 * s.abs()
        elif entry.ndim >= 2:
            value = s * (0.4 / entry[0].numel()) ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.1 * s
        else:
            value = 0.1 * s
        entry.copy_(value)


def test_crd_layout(crd_name: str, facts: dict[str, Any]) -> None:
    network, expected = built(crd_name), facts["networks"][crd_name]
    ours = [[name, list(entry.shape)] for name, entry in network.state_dict().items()]
    assert ours == expected["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]
    *maps, (_, width) = expected["features"]
    assert network.embedding_dim == width
    assert network.map_channels == tuple(channels for _, channels, _, _ in maps[1:])
    assert ARCHITECTURES[crd_name].n_maps == len(maps) - 1


@torch.no_grad()
def test_crd_outputs(crd_name: str, facts: dict[str, Any], golden: Path) -> None:
    """Check the logits, the embedding, and the maps after the benchmark's first feature."""
    network = built(crd_name).double().eval()
    fill(network, *facts["fill"])
    x = torch.sin(0.013 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)).reshape(2, 3, 32, 32)
    embedding, maps = network.embed_with_maps(x)
    ours: dict[str, Tensor] = {"logits": network(x), "embedding": embedding}
    features = [network.stem(x), *maps]
    shapes = [list(each.shape) for each in (*features, embedding)]
    assert shapes == facts["networks"][crd_name]["features"]
    ours |= {f"feature{i}_mean": each.mean((2, 3)) for i, each in enumerate(features)}
    with np.load(golden / NUMBERS) as numbers:
        assert {k for k in numbers.files if k.startswith(f"{crd_name}/")} == {
            f"{crd_name}/{key}" for key in ours
        }
        for key, value in ours.items():
            expected = torch.from_numpy(numbers[f"{crd_name}/{key}"])
            assert value.shape == expected.shape
            assert (value - expected).abs().max() < TOLERANCE * expected.abs().max(), key
    assert torch.equal(network.fc(embedding), ours["logits"])


@pytest.mark.parametrize(
    ("name", "convolution", "std", "classifier_std"),
    [
        ("resnet8", "layer3.0.conv2", (2 / (9 * 64)) ** 0.5, (1 / (3 * 64)) ** 0.5),
        ("wrn_16_1", "block3.layer.1.conv1", (2 / (9 * 64)) ** 0.5, (1 / (3 * 64)) ** 0.5),
        ("vgg8", "block1.0", (2 / (9 * 128)) ** 0.5, 0.01),
        ("MobileNetV2", "blocks.6.0.conv.3", (2 / (9 * 480)) ** 0.5, 0.01),
        ("ShuffleV1", "layer3.1.conv2", (1 / (3 * 9)) ** 0.5, (1 / (3 * 960)) ** 0.5),
    ],
)
def test_initial_weights_of_the_crd_benchmark(
    name: str, convolution: str, std: float, classifier_std: float
) -> None:
    """He's over the fan-out, without biases; the ShuffleNets and two classifiers as PyTorch's."""
    torch.manual_seed(0)
    network = built(name)
    drawn = network.get_submodule(convolution)
    assert isinstance(drawn, nn.Conv2d)
    assert drawn.weight.std().item() == pytest.approx(std, rel=0.05)
    assert network.fc.weight.std().item() == pytest.approx(classifier_std, rel=0.05)
    assert (drawn.bias is None or not drawn.bias.any()) and (
        bool(network.fc.bias.any()) == (name in ("resnet8", "ShuffleV1"))
    )


def test_a_file_of_weights_gives_all_but_the_last_layer(tmp_path: Path) -> None:
    """The last layer has another name in some networks, and other classes in the file."""
    networks = [build("repdistiller", n, name="vgg8") for n in (5, 10)]
    torch.save(networks[0].state_dict(), tmp_path / "x.pt")
    digest = hashlib.sha256((tmp_path / "x.pt").read_bytes()).hexdigest()
    load_weights(networks[1], LocalFile(sha256=digest, path=str(tmp_path / "x.pt")))
    source, loaded = (n.state_dict() for n in networks)
    assert len(loaded["classifier.weight"]) == 10
    assert all(torch.equal(loaded[k], v) for k, v in source.items() if "classifier" not in k)
