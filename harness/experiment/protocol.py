"""Which images train, which choose the epoch: the switches, and their two presets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from harness.common import metrics
from harness.methods.base import Epochs, Frozen


class Protocol(Frozen):
    """Which images train, which choose the epoch, and how centres are taken (docs/protocol.md).

    ties: which of equally good epochs is kept. last_look: whether stage 1 is also looked at after
    its last epoch where its rhythm does not fall on it. initial_weights: whether a student of the
    teacher's network starts from the weights that the teacher started from. evaluate_every: after
    how many epochs a classifier is measured; after its last one always. Stage 1 has a rhythm of its
    own, stage1.select_every. select_by: what the selected epoch of a classifier is best in; of
    stage 1 it is always NCM accuracy.
    """

    preset: Literal["strict", "legacy"]
    train_on: Literal["train", "train+validation"]
    selection: Literal["validation", "last", "test"]
    ncm_centers: Literal["train", "evaluated"]
    center_images: Literal["plain", "augmented"]
    ties: Literal["later", "first"]
    last_look: Literal["always", "rhythm"]
    initial_weights: Literal["shared", "own"]
    evaluate_every: Epochs
    select_by: Literal["accuracy", "loss"]

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> Protocol:
        if self.train_on == "train+validation" and self.selection == "validation":
            raise ValueError(
                "selection 'validation' needs held-out images, but train_on is "
                "'train+validation'; use selection 'last'"
            )
        return self

    @model_validator(mode="after")
    def _loss_is_of_validation(self) -> Protocol:
        if self.select_by == "loss" and self.selection != "validation":
            raise ValueError(
                f"select_by 'loss' is measured on the validation split, but selection is "
                f"{self.selection!r}; use selection 'validation', or select_by 'accuracy'"
            )
        return self

    @property
    def reported(self) -> str:
        """Which form of a cell's accuracies (harness.common.metrics) the tables show."""
        return {"validation": "selected", "last": "last", "test": "best_on_test"}[self.selection]

    def main_metric(self, result: str) -> str:
        """The metric that stands for a stage with this `result`: of NCM, the form it goes by."""
        return metrics.main_metric(result, self.ncm_centers)

    @property
    def changed(self) -> dict[str, Any]:
        """The switches that differ from the preset's."""
        preset = PRESETS[self.preset]
        return {f: v for f in preset if (v := getattr(self, f)) != preset[f]}

    @property
    def label(self) -> str:
        changed = [f"{field}={value}" for field, value in self.changed.items()]
        return f"{self.preset}({', '.join(changed)})" if changed else self.preset


PRESETS: dict[str, dict[str, Any]] = {
    "strict": {
        "train_on": "train",
        "selection": "validation",
        "ncm_centers": "train",
        "center_images": "plain",
        "ties": "later",
        "last_look": "always",
        "initial_weights": "shared",
        "evaluate_every": 1,
        "select_by": "accuracy",
    },
    "legacy": {
        "train_on": "train+validation",
        "selection": "test",
        "ncm_centers": "evaluated",
        "center_images": "augmented",
        "ties": "first",
        "last_look": "rhythm",
        "initial_weights": "own",
        "evaluate_every": 1,
        "select_by": "accuracy",
    },
}
