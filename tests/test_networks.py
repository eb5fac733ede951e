"""The network registry. The published layouts and numbers are in test_golden.py."""

import copy
import re
import weakref
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks import NETWORKS, build
from harness.networks.base import Network
from harness.networks.foreign import ForeignOptions

# Each kind of module of each family, under its label: the family and its options.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "wrn-10-1": ("wide_resnet", {"depth": 10, "width": 1}),
    "resnet-8": ("resnet", {"depth": 8}),
    "mobilenet-0.25": ("mobile_net", {"ca": 0.25}),
    "resnet8": ("repdistiller", {"name": "resnet8"}),
    "wrn-16-1": ("repdistiller", {"name": "wrn_16_1"}),
    "vgg8": ("repdistiller", {"name": "vgg8"}),
    "MobileNetV2": ("repdistiller", {"name": "MobileNetV2"}),
    "ShuffleNetV1": ("repdistiller", {"name": "ShuffleV1"}),
    "ShuffleNetV2": ("repdistiller", {"name": "ShuffleV2"}),
}
# Group by group: the module whose output is the map, its channels, and how many times smaller than
# the image it is.
MAPS: dict[str, list[tuple[str, int, int]]] = {
    "wrn-10-1": [("layer1", 16, 1), ("layer2", 32, 2), ("layer3", 64, 4)],
    "resnet-8": [("layer1", 16, 1), ("layer2", 32, 2), ("layer3", 64, 4)],
    "mobilenet-0.25": [
        ("layers.0", 16, 2),
        ("layers.2", 32, 4),
        ("layers.4", 64, 8),
        ("layers.10", 128, 16),
        ("layers.12", 256, 32),
    ],
    "resnet8": [("layer1", 16, 1), ("layer2", 32, 2), ("layer3", 64, 4)],
    "wrn-16-1": [("block1", 16, 1), ("block2", 32, 2), ("block3", 64, 4)],
    "vgg8": [("block1", 128, 2), ("block2", 256, 4), ("block3", 512, 8), ("block4", 512, 8)],
    "MobileNetV2": [
        ("blocks.1", 12, 2),
        ("blocks.2", 16, 4),
        ("blocks.4", 48, 8),
        ("blocks.6", 160, 16),
    ],
    "ShuffleNetV1": [("layer1", 240, 2), ("layer2", 480, 4), ("layer3", 960, 8)],
    "ShuffleNetV2": [("layer1", 116, 2), ("layer2", 232, 4), ("layer3", 464, 8)],
}
HAS_DROPOUT = ("wrn-10-1", "mobilenet-0.25")


def small(label: str, n_classes: int, **options: Any) -> Network:
    """Return the small network with more options."""
    family, own = SMALL[label]
    return build(family, n_classes, **own, **options)


def test_each_family_has_small_networks() -> None:
    """Those that are written elsewhere are in test_foreign_networks.py."""
    ours = {name for name, options in NETWORKS.items() if not issubclass(options, ForeignOptions)}
    assert {family for family, _ in SMALL.values()} == ours


@pytest.mark.parametrize(
    ("name", "options", "label"),
    [
        ("wide_resnet", {"depth": 40, "width": 2}, "wrn-40-2"),
        ("resnet", {"depth": 110}, "resnet-110"),
        ("mobile_net", {}, "mobilenet-1.00"),
        ("mobile_net", {"ca": 0.5}, "mobilenet-0.50"),
        *((family, options, label) for label, (family, options) in SMALL.items()),
    ],
)
def test_labels(name: str, options: dict[str, Any], label: str) -> None:
    assert NETWORKS[name](network=name, **options).label == label


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wide_resnet", {"depth": 38, "width": 2}, r"38 is no depth of wide_resnet.*use 34 or 40"),
        ("wide_resnet", {"depth": 4, "width": 2}, r"use 10$"),
        ("wide_resnet", {"depth": -2, "width": 2}, r"use 10$"),
        ("wide_resnet", {"depth": 10, "width": 0}, r"greater than or equal to 1"),
        ("wide_resnet", {"depth": 10}, r"width\n  Field required"),
        ("wide_resnet", {"depth": 10, "width": 1, "ca": 1}, r"ca\n  Extra inputs"),
        ("wide_resnet", {"depth": 10, "width": 1, "dropout": 1}, r"less than 1"),
        ("wide_resnet", {"depth": 10, "width": 1, "final_bn_momentum": 0}, r"greater than 0"),
        ("resnet", {"depth": 10}, r"10 is no depth of resnet.*use 8 or 14"),
        ("resnet", {"depth": 2}, r"use 8$"),
        ("resnet", {"depth": 20, "dropout": 0.1}, r"dropout\n  Extra inputs"),
        ("mobile_net", {"ca": 0.01}, r"greater than or equal to 0.05"),
        ("mobile_net", {"ca": 1.5}, r"less than or equal to 1"),
        ("repdistiller", {"name": "shufleV1"}, r"did you mean 'ShuffleV1'"),
    ],
)
def test_impossible_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        build(name, 10, **options)
    first = str(caught.value).partition(" [type=")[0]
    assert re.search(message, first)


def test_unknown_network() -> None:
    with pytest.raises(KeyError, match="lenet"):
        build("lenet", 10)


@pytest.mark.parametrize("label", SMALL)
@pytest.mark.parametrize("size", [8, 32])
def test_the_three_calls_agree(label: str, size: int) -> None:
    model = small(label, 7).eval()
    x = torch.randn(3, 3, size, size)
    embedding, logits = model.embed_and_classify(x)
    assert embedding.shape == (3, model.embedding_dim)
    assert logits.shape == (3, 7)
    assert model.fc.in_features == model.embedding_dim
    torch.testing.assert_close(model.embed(x), embedding)
    torch.testing.assert_close(model(x), logits)
    torch.testing.assert_close(model.fc(embedding), logits)


def outputs(model: Network, modules: list[str]) -> list[weakref.ref[Tensor]]:
    """Fills up with what these modules return, as the network runs; keeps none of it alive."""
    seen: list[weakref.ref[Tensor]] = []
    for module in modules:
        model.get_submodule(module).register_forward_hook(
            lambda _module, _inputs, output: seen.append(weakref.ref(output))
        )
    return seen


@pytest.mark.parametrize("label", SMALL)
@pytest.mark.parametrize("size", [8, 33, 64])
def test_maps_are_the_outputs_of_the_groups(label: str, size: int) -> None:
    model = small(label, 7)
    seen = outputs(model, [module for module, _, _ in MAPS[label]])
    _, maps = model.embed_with_maps(torch.randn(3, 3, size, size))
    if label == "vgg8":  # the largest of two by two pixels, where there are two by two
        sizes = [size // 2, size // 4, size // 8, size // (16 if size >= 64 else 8)]
    else:
        sizes = [-(-size // smaller) for _, _, smaller in MAPS[label]]  # rounded up
    expected = [(3, c, s, s) for (_, c, _), s in zip(MAPS[label], sizes, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected
    family, options = SMALL[label]
    assert len(seen) == len(maps) == NETWORKS[family](network=family, **options).n_maps
    assert tuple(m.shape[1] for m in maps) == model.map_channels
    assert all(m is output() for m, output in zip(maps, seen, strict=True))


@pytest.mark.parametrize("label", SMALL)
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()  # where autograd would refuse nothing
def test_neither_images_nor_maps_are_overwritten(label: str, training: bool) -> None:
    """A body works in place, but only on what it has made and not given away."""
    model, x = small(label, 7).train(training), torch.randn(3, 3, 64, 64)
    before, given, copies = x.clone(), list[Tensor](), list[Tensor]()
    for each in model.feature_maps(x):
        given.append(each)
        copies.append(each.clone())
    model.pool(given[-1])
    assert torch.equal(x, before)
    assert all(torch.equal(m, c) for m, c in zip(given, copies, strict=True))


@pytest.mark.parametrize("label", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_asking_for_the_maps_changes_nothing(label: str, training: bool) -> None:
    """Neither the embedding, with dropout at work or not, nor what a forward pass leaves behind."""
    dropout = {"dropout": 0.5} if label in HAS_DROPOUT else {}
    model = small(label, 7, **dropout).train(training)
    twin = copy.deepcopy(model)
    x = torch.randn(4, 3, 16, 16)
    torch.manual_seed(0)
    embedding, _ = model.embed_with_maps(x)
    torch.manual_seed(0)
    assert torch.equal(embedding, twin.embed(x))
    ours, theirs = model.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("label", SMALL)
def test_the_embedding_is_the_mean_of_the_last_map(label: str) -> None:
    """Batch norm and ReLU come in between where the map is a bare sum; in two, a convolution."""
    model, x = small(label, 7), torch.randn(3, 3, 64, 64)
    model(x)  # batch norm that has learnt nothing would change nothing
    embedding, maps = model.eval().embed_with_maps(x)
    is_linear = label in {"wrn-10-1", "wrn-16-1", "MobileNetV2"}
    assert all((m >= 0).all() == (not is_linear) for m in maps)
    last = maps[-1]
    if label.startswith("wrn"):
        last = F.relu(model.get_submodule("bn" if label == "wrn-10-1" else "bn1")(last))
    if label == "MobileNetV2":
        last = model.get_submodule("conv2")(last)
    if label == "ShuffleNetV2":
        last = F.relu(model.get_submodule("bn2")(model.get_submodule("conv2")(last)))
    torch.testing.assert_close(embedding, last.mean((2, 3)))


@pytest.mark.parametrize("label", SMALL)
def test_gradients_pass_through_the_maps(label: str) -> None:
    model = small(label, 7)
    embedding, maps = model.embed_with_maps(torch.randn(4, 3, 32, 32))
    from_embedding = torch.autograd.grad(embedding.square().sum(), maps, retain_graph=True)
    assert all(g.isfinite().all() and (g != 0).any() for g in from_embedding)
    # A loss of a map teaches the group that made it and those before, and none after it.
    maps[1].square().sum().backward()
    for i, (module, _, _) in enumerate(MAPS[label]):
        grads = [p.grad for p in model.get_submodule(module).parameters()]
        assert all((g is None) == (i > 1) for g in grads)
    assert next(model.parameters()).grad is not None
    assert model.fc.weight.grad is None


@pytest.mark.parametrize("label", SMALL)
@torch.no_grad()
def test_maps_nobody_asked_for_are_let_go(label: str) -> None:
    """When the last group is done, its input is the only other map in memory."""
    model = small(label, 7).eval()
    modules = [module for module, _, _ in MAPS[label]]
    seen = outputs(model, modules)
    alive: list[bool] = []
    model.get_submodule(modules[-1]).register_forward_hook(
        lambda *_: alive.extend(output() is not None for output in seen)
    )
    model(torch.randn(2, 3, 8, 8))
    assert alive == [False] * (len(modules) - 2) + [True, True]


@pytest.mark.parametrize("label", SMALL)
def test_every_parameter_learns_from_8x8_images(label: str) -> None:
    model = small(label, 5)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("label", HAS_DROPOUT)
def test_dropout_acts_in_training_only(label: str) -> None:
    x = torch.randn(4, 3, 8, 8)
    model = small(label, 5, dropout=0.5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    model = small(label, 5, dropout=0.0)
    assert torch.equal(model(x), model(x))


def test_final_bn_momentum_is_switchable() -> None:
    def momenta(**options: Any) -> dict[str, float | None]:
        model = build("wide_resnet", 5, depth=10, width=1, **options)
        return {n: m.momentum for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}

    default, switched = momenta(), momenta(final_bn_momentum=0.1)
    assert default.pop("bn") == 0.9
    assert set(default.values()) == {0.1}
    assert set(switched.values()) == {0.1}


def test_same_seed_builds_the_same_network() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build("wide_resnet", 5, depth=10, width=1).conv1.weight.detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
