"""The sections that say how long something trains, at which rates. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from harness.methods.base import Choices, Epochs, NotNegative, Positive, Section

# Fields that change the training images, and so what a teacher answers; not in the JSON if unused.
IMAGE_CHANGES = ("augment", "augment_ops", "augment_magnitude", "mixup_alpha", "cutmix_alpha")
ALPHAS = 0.001, 1000  # beyond, a Beta distribution cannot be drawn from in single precision


def _can_be_drawn(alpha: float) -> float:
    if alpha and not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise ValueError(f"expected 0 for none, or {ALPHAS[0]} to {ALPHAS[1]}")
    return alpha


Alpha = Annotated[NotNegative, AfterValidator(_can_be_drawn)]


class Schedule(Section):
    """A section that says for how many epochs something trains, and at which learning rate.

    Attributes:
        epochs: how many there are, unless the training stops early.
        lr: the rate after the warm-up.
        warmup_epochs: the epochs before the rate is reached: epoch e (from 0) has (e + 1) /
            (warmup_epochs + 1) of what the schedule says.
        early_stopping: the epochs without a better validation accuracy (or loss, as the protocol's
            `select_by` says) after which the training ends; None to train for all epochs.
        augment: random operations on each training image, after its crop and flip
            (harness.data.operations); None for none.
        augment_ops, augment_magnitude: how many operations RandAugment takes, and how strong they
            are, from 0 to 30.
    """

    untunable: ClassVar[frozenset[str]] = frozenset({"epochs", "early_stopping"})
    later: ClassVar[frozenset[str]] = frozenset({"warmup_epochs", "early_stopping", "augment"})
    choices: ClassVar[Choices] = {
        "augment": {"randaugment": ("augment_ops", "augment_magnitude"), "trivialaugment": ()}
    }

    epochs: Epochs = 200
    lr: Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0, strict=True)] = 0
    early_stopping: Epochs | None = None
    augment: Literal["randaugment", "trivialaugment"] | None = None
    augment_ops: Annotated[int, Field(ge=1, le=10, strict=True)] = 2
    augment_magnitude: Annotated[int, Field(ge=0, le=30, strict=True)] = 9

    @field_validator("warmup_epochs")
    @classmethod
    def _warmup_is_shorter(cls, value: int, info: ValidationInfo) -> int:
        epochs = info.data.get("epochs")
        if epochs and value >= epochs:
            raise ValueError(f"a warm-up of {value} epochs never ends in {epochs}; lower it")
        return value

    @property
    def image_changes(self) -> dict[str, Any]:
        """The changes to training images besides the data set's own crops and flips."""
        return {
            name: v for name, v in self.model_dump(mode="json").items() if name in IMAGE_CHANGES
        }

    def scaled(self, factor: float) -> Self:
        """Return the schedule with `factor` times the epochs, at least one, the rest in proportion.

        The warm-up stays shorter than the training.
        """
        epochs = max(1, round(self.epochs * factor))
        changed: dict[str, Any] = {"epochs": epochs}
        if self.warmup_epochs:
            changed["warmup_epochs"] = min(round(self.warmup_epochs * factor), epochs - 1)
        if self.early_stopping is not None:
            changed["early_stopping"] = max(1, round(self.early_stopping * factor))
        return self.model_copy(update=changed)


def milestones_at(percentages: Sequence[int], epochs: int) -> list[int]:
    """Return the milestones at these percentages of the epochs, without doubles and zeros."""
    return sorted({epochs * p // 100 for p in percentages} - {0})


class StepSchedule(Schedule):
    """A learning rate that is multiplied by gamma at each milestone, or falls along a cosine.

    Milestones default to 50, 70 and 90 % of the epochs: 100, 140 and 180 of the release's 200.

    Attributes:
        schedule: multistep, or cosine: half a cosine from lr, which would reach final_lr_ratio x lr
            in the epoch after the last.
        label_smoothing: the share of the label that the cross-entropy spreads over all classes
            (Szegedy et al., CVPR 2016).
    """

    untunable: ClassVar[frozenset[str]] = Schedule.untunable | {"milestones"}
    later: ClassVar[frozenset[str]] = Schedule.later | {"schedule", "label_smoothing"}
    choices: ClassVar[Choices] = {
        **Schedule.choices,
        "schedule": {"multistep": ("milestones", "gamma"), "cosine": ("final_lr_ratio",)},
    }

    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.2
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _default_milestones(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("milestones") is None:
            if values.get("schedule", "multistep") != "multistep":
                return {name: v for name, v in values.items() if name != "milestones"}
            epochs = values.get("epochs", 200)
            if isinstance(epochs, int) and epochs > 0:
                return {**values, "milestones": milestones_at((50, 70, 90), epochs)}
        return values

    def scaled(self, factor: float) -> Self:
        """Return the schedule with `factor` times the epochs, its milestones in proportion."""
        scaled = super().scaled(factor)
        points = {round(m * factor) for m in self.milestones}
        points = {p for p in points if 0 < p < scaled.epochs}
        return scaled.model_copy(update={"milestones": tuple(sorted(points))})

    @field_validator("milestones")
    @classmethod
    def _milestones_increase(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must increase; sort them and drop doubles")
        epochs = info.data.get("epochs")
        if value and epochs and value[-1] >= epochs:
            raise ValueError(
                f"milestone {value[-1]} is never reached in {epochs} epochs; "
                "lower it, or leave milestones out for 50, 70 and 90 %"
            )
        return value


class TrainingSettings(StepSchedule):
    """How teachers, plain students and those of one stage are trained.

    Attributes:
        mixup_alpha, cutmix_alpha: the alpha of the Beta distribution from which the shares of two
            mixed images are drawn (harness.data.mixing); 0 for none, both for either at random.
    """

    later: ClassVar[frozenset[str]] = StepSchedule.later | {"mixup_alpha", "cutmix_alpha"}

    mixup_alpha: Alpha = 0.0
    cutmix_alpha: Alpha = 0.0

    @property
    def mixing(self) -> list[str]:
        """The fields that mix images."""
        return [name for name in ("mixup_alpha", "cutmix_alpha") if getattr(self, name)]
