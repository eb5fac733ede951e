"""Accuracies of the classifier, and of nearest class means (NCM) in both published forms."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from harness.common.metrics import ACCURACY, NCM_EVAL, NCM_TRAIN, group_metric, metric_name
from harness.data.batches import Images
from harness.distill.centers import class_centers
from harness.distill.ncm import ncm_classes
from harness.distill.relations import upcast_to_float32
from harness.networks.base import Network


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a network computes in the given precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def _run(
    model: Network, images: Images, precision: str, compute: Callable[[Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return the outputs (N, ..) of a model in eval mode, for all un-augmented images."""
    was_training = model.training
    model.eval()
    with autocast(images.device, precision):
        parts = [tuple(map(upcast_to_float32, compute(batch.x))) for batch in images.plain()]
    model.train(was_training)
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def embed_and_classify(
    model: Network, images: Images, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """Return embeddings (N, D) and logits (N, C) of un-augmented images, at least float32.

    The model is in eval mode.
    """
    embeddings, logits = _run(model, images, precision, model.embed_and_classify)
    return embeddings, logits


def accuracy(model: Network, images: Images, precision: str = "float32") -> float:
    """Return the fraction of images whose largest logit is that of their class."""
    return accuracies(classify(model, images, precision), images.labels, {})[ACCURACY]


def classify(model: Network, images: Images, precision: str = "float32") -> Tensor:
    """Return the class (N,) with the largest logit for each un-augmented image."""
    return logits_of(model, images, precision).argmax(1)


def logits_of(model: Network, images: Images, precision: str = "float32") -> Tensor:
    """Return only the logits of `embed_and_classify`: embeddings of all images may be large."""
    return _run(model, images, precision, lambda x: (model(x),))[0]


def accuracies(
    predictions: Tensor, labels: Tensor, groups: dict[str, list[int]]
) -> dict[str, float]:
    """Return the accuracy for all images, and for the images of each group of labels.

    Args:
        predictions: (N,), among all classes, whatever the group.
        labels: (N,).
        groups: Name -> its labels.

    Returns:
        "accuracy", and "accuracy_old" for a group "old" that has images, as fractions.
    """
    is_right = predictions == labels
    measured = {ACCURACY: is_right.double().mean().item()}
    for group, members in groups.items():
        in_group = torch.isin(labels, torch.tensor(members, device=labels.device))
        if in_group.any():
            measured[group_metric(group)] = is_right[in_group].double().mean().item()
    return measured


def ncm_accuracies(
    model: Network,
    train: Images,
    evaluated: dict[str, Images],
    n_classes: int,
    precision: str = "float32",
) -> tuple[dict[str, float], dict[str, dict[str, Tensor]]]:
    """Return the NCM accuracy on each evaluated set, with one forward pass per set.

    Returns:
        "{set}/ncm_train_centers": Centres from the training images (unbiased).
        "{set}/ncm_eval_centers": Centres from the evaluated images with their own labels, as in
            the published "after stage 1" rows (inflated: each image contributes to its centre).
        The predicted classes (N,) by metric and set come second.
    """
    embedding, _ = embed_and_classify(model, train, precision)
    train_centers = class_centers(embedding, train.labels, n_classes)
    measured: dict[str, float] = {}
    predicted: dict[str, dict[str, Tensor]] = {NCM_TRAIN: {}, NCM_EVAL: {}}
    for name, images in evaluated.items():
        embedding, _ = embed_and_classify(model, images, precision)
        own_centers = class_centers(embedding, images.labels, n_classes)
        for form, centers in ((NCM_TRAIN, train_centers), (NCM_EVAL, own_centers)):
            classes = ncm_classes(embedding, centers)
            measured |= {metric_name(name, form): accuracies(classes, images.labels, {})[ACCURACY]}
            predicted[form][name] = classes
    return measured, predicted
