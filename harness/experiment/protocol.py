"""The switches of the training protocol, and their presets: `strict`, and one per release."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from harness.common import metrics
from harness.methods.base import Epochs, Frozen

ALIASES = {"legacy": "legacy-2021"}  # its name before the other releases had presets


def canonical_preset(name: Any) -> Any:
    """Return the name of a preset in place of an alias."""
    return ALIASES.get(name, name) if isinstance(name, str) else name


class Protocol(Frozen):
    """The training protocol (docs/protocol.md). Its defaults are the preset `strict`.

    Attributes:
        preset: the preset that the other fields start from.
        train_on: the images that train.
        selection: the images that select the epoch.
        ncm_centers: the images whose class centres NCM uses.
        center_images: whether the centres of stage 2 come from plain or augmented images.
        ties: which of equally good epochs is kept.
        last_look: whether stage 1 is always measured after its last epoch, or only if the epoch is
            due by stage1.select_every.
        initial_weights: whether a student with the teacher's network starts from the weights that
            the teacher started from, or from its own.
        evaluate_every: the number of epochs between measurements of a classifier, which is always
            measured after its last epoch. Stage 1 has stage1.select_every instead.
        convolution_init: how the convolutions of a new network are drawn: as PyTorch does, or
            Xavier-uniform with gain sqrt(2) and biases of 0, as the release of 2020-06 does.
        select_by: the measure that selects a classifier's epoch. Stage 1 always uses NCM accuracy.
    """

    preset: Annotated[
        Literal["strict", "legacy-2020", "legacy-2021", "legacy-2022"],
        BeforeValidator(canonical_preset),
    ] = "strict"
    train_on: Literal["train", "train+validation"] = "train"
    selection: Literal["validation", "last", "test"] = "validation"
    ncm_centers: Literal["train", "evaluated"] = "train"
    center_images: Literal["plain", "augmented"] = "plain"
    ties: Literal["later", "first"] = "later"
    last_look: Literal["always", "rhythm"] = "always"
    initial_weights: Literal["shared", "own"] = "shared"
    convolution_init: Literal["pytorch", "xavier"] = "pytorch"
    evaluate_every: Epochs = 1
    select_by: Literal["accuracy", "loss"] = "accuracy"

    @model_validator(mode="after")
    def _selection_needs_held_out_images(self) -> Protocol:
        if self.train_on == "train+validation" and self.selection == "validation":
            raise ValueError(
                "selection 'validation' needs held-out images, but train_on is "
                "'train+validation'; use selection 'last'"
            )
        return self

    @model_validator(mode="after")
    def _loss_needs_validation(self) -> Protocol:
        if self.select_by == "loss" and self.selection != "validation":
            raise ValueError(
                f"select_by 'loss' is measured on the validation split, but selection is "
                f"{self.selection!r}; use selection 'validation', or select_by 'accuracy'"
            )
        return self

    @property
    def reported(self) -> str:
        """The selection rule whose accuracies the tables show (harness.common.metrics)."""
        return {"validation": "selected", "last": "last", "test": "best_on_test"}[self.selection]

    def main_metric(self, metric: str) -> str:
        """Return the metric that represents a stage: for NCM, the form with `ncm_centers`."""
        return metrics.main_metric(metric, self.ncm_centers)

    @property
    def changed(self) -> dict[str, Any]:
        """The switches that differ from the preset."""
        preset = PRESETS[self.preset]
        return {f: v for f in preset if (v := getattr(self, f)) != preset[f]}


STRICT = {name: f.default for name, f in Protocol.model_fields.items() if name != "preset"}
LEGACY = STRICT | {
    "train_on": "train+validation",
    "selection": "test",
    "ncm_centers": "evaluated",
    "center_images": "augmented",
    "ties": "first",
    "last_look": "rhythm",
    "initial_weights": "own",
}
PRESETS: dict[str, dict[str, Any]] = {
    "strict": STRICT,
    "legacy-2020": LEGACY | {"convolution_init": "xavier"},
    "legacy-2021": LEGACY,
    "legacy-2022": LEGACY,
}
