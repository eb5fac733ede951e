"""The section `optimizer` of an experiment file. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from harness.methods.base import Choices, NotNegative, Positive, Section

BatchSize = Annotated[int, Field(ge=2)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _two(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("expected two numbers, as in [0.9, 0.999]")
    return value


class Optimizer(Section):
    """SGD, with the settings of the 2021 release, or AdamW; what the weights go through besides.

    Attributes:
        clip_norm: the largest norm of all gradients together; longer ones are shortened to it.
        ema_decay: the weight of the past in an exponential moving average of the network's weights
            after each step, which is then what is measured, kept and taught from.
        determinism: bits: equal seeds give equal bits on one device. fast: whatever a GPU does
            fastest.
    """

    untunable: ClassVar[frozenset[str]] = frozenset({"determinism", "betas"})
    later: ClassVar[frozenset[str]] = frozenset({"determinism", "name", "clip_norm", "ema_decay"})
    choices: ClassVar[Choices] = {"name": {"sgd": ("momentum", "nesterov"), "adamw": ("betas",)}}

    name: Literal["sgd", "adamw"] = "sgd"
    batch_size: BatchSize = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(_two)] = (0.9, 0.999)
    weight_decay: NotNegative = 5e-4
    clip_norm: Positive | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    determinism: Literal["bits", "fast"] = "bits"

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Optimizer:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0; set optimizer.nesterov to false")
        return self
