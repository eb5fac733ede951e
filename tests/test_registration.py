"""A network family and a data set are found in their packages, with nothing else edited."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training import Grid, train_all

from harness import networks
from harness.data import DATASETS, find_datasets, load, register_dataset, sets
from harness.experiment.file import parse
from harness.networks import NETWORKS, register_network
from harness.networks.options import FAMILIES
from harness.plan import make_plan
from harness.store import Store

OPTIONS = """
from typing import ClassVar, Literal
from harness.networks.options import NetworkOptions, register_network

@register_network
class LinearOptions(NetworkOptions):
    module: ClassVar[str] = "harness.networks.linear.network:Linear"
    n_maps: ClassVar[int] = 1
    network: Literal["linear"] = "linear"
    size: int

    @property
    def label(self):
        return f"linear-{self.size}"
"""
NETWORK = """
from torch import nn
from harness.networks.base import Network

class Linear(Network):
    def __init__(self, n_classes, size):
        super().__init__()
        self.conv = nn.Conv2d(3, size, 3)
        self.fc = nn.Linear(size, n_classes)
        self.embedding_dim, self.map_channels = size, (size,)

    def feature_maps(self, x):
        yield self.conv(x)

    def pool(self, deepest):
        return deepest.mean((2, 3))
"""
DATASET = """
from typing import Literal
import numpy as np
from harness.data.dataset import Augmentation, Dataset, ImageSet, normalisation
from harness.data.options import DatasetOptions, register_dataset
from harness.data.split import split

@register_dataset
class StripesOptions(DatasetOptions):
    name: Literal["stripes"] = "stripes"
    label: Literal["stripes"] = "stripes"

    def load(self, with_test):
        labels = np.arange(60) % 2
        images = np.zeros((60, 8, 8, 3), np.uint8)
        images[labels == 1, ::2] = 255
        parts = split(labels, self.split_seed, self.validation, 20)
        train, validation, test = (ImageSet(images[i], labels[i]) for i in parts)
        mean, std = normalisation(train.images)
        return Dataset("stripes", ("plain", "striped"), train, validation, test, mean, std,
                       Augmentation(1, False))
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder that belongs to both packages, with one new module of each."""
    (tmp_path / "networks" / "linear").mkdir(parents=True)
    (tmp_path / "networks" / "linear" / "__init__.py").write_text(OPTIONS)
    (tmp_path / "networks" / "linear" / "network.py").write_text(NETWORK)
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "stripes.py").write_text(DATASET)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path / "networks")])
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path / "sets")])
    networks.find_families()
    find_datasets()
    yield
    for name in [m for m in sys.modules if m.endswith(".stripes") or ".networks.linear" in m]:
        del sys.modules[name]
    for registry, name in ((DATASETS, "stripes"), (NETWORKS, "linear"), (FAMILIES, "linear")):
        del registry[name]


@pytest.mark.usefixtures("added")
def test_new_modules_are_planned_and_trained(tmp_path: Path) -> None:
    experiment = parse(
        {
            "name": "new",
            "dataset": "stripes",
            "network": "linear",
            "teacher": {"size": 4},
            "students": [{"size": 2}],
            "methods": ["plain", "kd"],
            "training": {"epochs": 2},
        }
    )
    plan = make_plan(experiment, load(experiment.dataset))
    assert experiment.students[0].label == "linear-2"
    store = Store(tmp_path)
    train_all(Grid(plan, store))
    assert all(store.directory(fingerprint).is_done for fingerprint in plan.cells)


@pytest.mark.parametrize(
    ("register", "options"),
    [(register_network, NETWORKS["resnet"]), (register_dataset, DATASETS["digits"])],
)
def test_a_name_is_registered_once(register: Any, options: Any) -> None:
    with pytest.raises(ValueError, match=r"two .*(resnet|digits)"):
        register(type("Other", (options,), {}))
    assert NETWORKS["resnet"].__name__ == "ResNetOptions"
