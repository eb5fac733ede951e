"""The network registry. The published layouts and numbers are in test_golden.py."""

import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from harness.networks import NETWORKS, build

SMALL: dict[str, dict[str, Any]] = {
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet": {"depth": 8},
    "mobile_net": {"ca": 0.25},
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
    assert NETWORKS[name][0](network=name, **options).label == label


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
