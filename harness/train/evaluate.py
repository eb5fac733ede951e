"""Accuracies: of the classifier, and of the nearest class mean (NCM) in both published forms."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from harness.common.metrics import ACCURACY, NCM_EVAL, NCM_TRAIN, group_metric, metric_name
from harness.data.batches import Images
from harness.distill.centers import class_centers
from harness.distill.ncm import ncm_accuracy
from harness.distill.relations import upcast_to_float32
from harness.networks.base import Network


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def _of_all(
    model: Network,
    images: Images,
    precision: str,
    answer: Callable[[Tensor], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """The answers (N, ..) to all un-augmented images, in float32 or, of a float64 model, in
    float64; model in eval mode."""
    was_training = model.training
    model.eval()
    with autocast(images.device, precision):
        parts = [tuple(map(upcast_to_float32, answer(batch.x))) for batch in images.plain()]
    model.train(was_training)
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def embed_and_classify(
    model: Network, images: Images, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) and logits (N, C) of un-augmented images, in float32 or, of a
    float64 model, in float64; model in eval mode."""
    embeddings, logits = _of_all(model, images, precision, model.embed_and_classify)
    return embeddings, logits


def accuracy(model: Network, images: Images, precision: str = "float32") -> float:
    """Fraction of images whose largest logit is their class."""
    return accuracies(classify(model, images, precision), images.labels, {})[ACCURACY]


def classify(model: Network, images: Images, precision: str = "float32") -> Tensor:
    """(N,) the class with the largest logit of each un-augmented image; model in eval mode."""
    return logits_of(model, images, precision).argmax(1)


def logits_of(model: Network, images: Images, precision: str = "float32") -> Tensor:
    """The logits alone of `embed_and_classify`: the embeddings of all images may be large."""
    return _of_all(model, images, precision, lambda x: (model(x),))[0]


def accuracies(
    predictions: Tensor, labels: Tensor, groups: dict[str, list[int]]
) -> dict[str, float]:
    """Fractions by name, of all images and of those of each group of labels: "accuracy", and
    "accuracy_old" for a group "old" that has images. Among all classes, whatever the group.

    Args:
        predictions, labels: (N,). groups: name -> its labels.
    """
    is_right = predictions == labels
    found = {ACCURACY: is_right.double().mean().item()}
    for group, members in groups.items():
        in_group = torch.isin(labels, torch.tensor(members, device=labels.device))
        if in_group.any():
            found[group_metric(group)] = is_right[in_group].double().mean().item()
    return found


def ncm_accuracies(
    model: Network,
    train: Images,
    evaluated: dict[str, Images],
    n_classes: int,
    precision: str = "float32",
) -> dict[str, float]:
    """NCM accuracy on each evaluated set, one forward pass a set.

    Returns:
        "{set}/ncm_train_centers": centres from the training images (honest), and
        "{set}/ncm_eval_centers": centres from the evaluated images with their own labels, as in
        the published "after stage 1" rows (inflated: each image helps its own centre).
    """
    embedding, _ = embed_and_classify(model, train, precision)
    train_centers = class_centers(embedding, train.labels, n_classes)
    result = {}
    for name, images in evaluated.items():
        embedding, _ = embed_and_classify(model, images, precision)
        own_centers = class_centers(embedding, images.labels, n_classes)
        for form, centers in ((NCM_TRAIN, train_centers), (NCM_EVAL, own_centers)):
            result[metric_name(name, form)] = ncm_accuracy(embedding, images.labels, centers).item()
    return result
