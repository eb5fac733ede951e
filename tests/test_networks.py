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

SMALL: dict[str, dict[str, Any]] = {
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet": {"depth": 8},
    "mobile_net": {"ca": 0.25},
}
# Of the SMALL ones, group by group: the module whose output is the map, its channels, and how many
# times smaller than the image it is.
MAPS: dict[str, list[tuple[str, int, int]]] = {
    "wide_resnet": [("layer1", 16, 1), ("layer2", 32, 2), ("layer3", 64, 4)],
    "resnet": [("layer1", 16, 1), ("layer2", 32, 2), ("layer3", 64, 4)],
    "mobile_net": [
        ("layers.0", 16, 2),
        ("layers.2", 32, 4),
        ("layers.4", 64, 8),
        ("layers.10", 128, 16),
        ("layers.12", 256, 32),
    ],
}


@pytest.mark.parametrize(
    ("name", "options", "label"),
    [
        ("wide_resnet", {"depth": 40, "width": 2}, "wrn-40-2"),
        ("resnet", {"depth": 110}, "resnet-110"),
        ("mobile_net", {}, "mobilenet-1.00"),
        ("mobile_net", {"ca": 0.5}, "mobilenet-0.50"),
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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [8, 32])
def test_the_three_calls_agree(name: str, size: int) -> None:
    model = build(name, 7, **SMALL[name]).eval()
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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [8, 33, 64])
def test_maps_are_the_outputs_of_the_groups(name: str, size: int) -> None:
    model = build(name, 7, **SMALL[name])
    seen = outputs(model, [module for module, _, _ in MAPS[name]])
    _, maps = model.embed_with_maps(torch.randn(3, 3, size, size))
    sizes = [-(-size // smaller) for _, _, smaller in MAPS[name]]  # rounded up
    expected = [(3, c, s, s) for (_, c, _), s in zip(MAPS[name], sizes, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected
    assert len(seen) == len(maps) == NETWORKS[name].n_maps
    assert tuple(m.shape[1] for m in maps) == model.map_channels
    assert all(m is output() for m, output in zip(maps, seen, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()  # where autograd would refuse nothing
def test_neither_images_nor_maps_are_overwritten(name: str, training: bool) -> None:
    """A body works in place, but only on what it has made and not given away."""
    model, x = build(name, 7, **SMALL[name]).train(training), torch.randn(3, 3, 64, 64)
    before, given, copies = x.clone(), list[Tensor](), list[Tensor]()
    for each in model.feature_maps(x):
        given.append(each)
        copies.append(each.clone())
    model.pool(given[-1])
    assert torch.equal(x, before)
    assert all(torch.equal(m, c) for m, c in zip(given, copies, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_asking_for_the_maps_changes_nothing(name: str, training: bool) -> None:
    """Neither the embedding, with dropout at work or not, nor what a forward pass leaves behind."""
    dropout = {} if name == "resnet" else {"dropout": 0.5}
    model = build(name, 7, **SMALL[name], **dropout).train(training)
    twin = copy.deepcopy(model)
    x = torch.randn(4, 3, 16, 16)
    torch.manual_seed(0)
    embedding, _ = model.embed_with_maps(x)
    torch.manual_seed(0)
    assert torch.equal(embedding, twin.embed(x))
    ours, theirs = model.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_embedding_is_the_mean_of_the_last_map(name: str) -> None:
    """The map of a wide_resnet is a bare sum of blocks; the mean follows batch norm and ReLU."""
    model, x = build(name, 7, **SMALL[name]), torch.randn(3, 3, 64, 64)
    model(x)  # batch norm that has learnt nothing would change nothing
    embedding, maps = model.eval().embed_with_maps(x)
    assert all((m >= 0).all() == (name != "wide_resnet") for m in maps)
    last = F.relu(model.bn(maps[-1])) if name == "wide_resnet" else maps[-1]
    torch.testing.assert_close(embedding, last.mean((2, 3)))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_pass_through_the_maps(name: str) -> None:
    model = build(name, 7, **SMALL[name])
    embedding, maps = model.embed_with_maps(torch.randn(4, 3, 32, 32))
    from_embedding = torch.autograd.grad(embedding.square().sum(), maps, retain_graph=True)
    assert all(g.isfinite().all() and (g != 0).any() for g in from_embedding)
    # A loss of a map teaches the group that made it and those before, and none after it.
    maps[1].square().sum().backward()
    for i, (module, _, _) in enumerate(MAPS[name]):
        grads = [p.grad for p in model.get_submodule(module).parameters()]
        assert all((g is None) == (i > 1) for g in grads)
    assert model.conv1.weight.grad is not None
    assert model.fc.weight.grad is None


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_maps_nobody_asked_for_are_let_go(name: str) -> None:
    """When the last group is done, its input is the only other map in memory."""
    model = build(name, 7, **SMALL[name]).eval()
    modules = [module for module, _, _ in MAPS[name]]
    seen = outputs(model, modules)
    alive: list[bool] = []
    model.get_submodule(modules[-1]).register_forward_hook(
        lambda *_: alive.extend(output() is not None for output in seen)
    )
    model(torch.randn(2, 3, 8, 8))
    assert alive == [False] * (len(modules) - 2) + [True, True]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_from_8x8_images(name: str) -> None:
    model = build(name, 5, **SMALL[name])
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["wide_resnet", "mobile_net"])
def test_dropout_acts_in_training_only(name: str) -> None:
    x = torch.randn(4, 3, 8, 8)
    model = build(name, 5, **SMALL[name], dropout=0.5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    model = build(name, 5, **SMALL[name], dropout=0.0)
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
