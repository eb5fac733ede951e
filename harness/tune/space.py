"""Search spaces of a tuning file: which fields can be tuned, and the values they can take."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from harness.common.errors import UserError, first_error, nearest
from harness.experiment.experiment import Experiment
from harness.methods import get_method
from harness.methods.base import Frozen, Method, Section

Scalar = bool | int | float | str | None  # None: without, as an augmentation


class Range(Frozen):
    """The values from low to high, linear or on a log scale, or only low, low + step, ..."""

    low: float
    high: float
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; swap or widen")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, not {self.low:g}; raise low, or drop log")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; drop one")
        if self.step is not None:  # Optuna would lower `high`
            low, high, step = (Fraction(repr(v)) for v in (self.low, self.high, self.step))
            n = (high - low) // step
            if low + n * step != high:
                ends = [f"{float(low + k * step):.10g}" for k in (n, n + 1) if k]
                raise ValueError(
                    f"steps of {self.step:g} from low {self.low:g} miss high {self.high:g}; use "
                    f"`high: {' or '.join(ends)}`, or another step"
                )
        return self

    @property
    def ends(self) -> list[Scalar]:
        """The lowest and the highest value."""
        return [self.low, self.high]


class Choices(Frozen):
    """A list of values. A field that a shared cell depends on (tau1) belongs here."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=2)]

    @field_validator("choices")
    @classmethod
    def _distinct(cls, value: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        for item in value:
            if value.count(item) > 1:
                raise ValueError(f"{item!r} stands twice; drop one")
        return value

    @property
    def ends(self) -> list[Scalar]:
        """The values."""
        return list(self.choices)


def flatten_space(value: Any) -> Any:
    """Return dotted field -> values, as a field may be written with a dot or below its section.

    {"stage1": {"tau1": [1, 4]}} becomes {"stage1.tau1": {"choices": [1, 4]}}.
    """
    if not isinstance(value, dict):
        raise ValueError("expected `field: values` lines, as in `kd.temperature: [2, 4, 8]`")
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, list | tuple):
            result[str(key)] = {"choices": item}
        elif not isinstance(item, dict) or item.keys() & {*Range.model_fields, "choices"}:
            result[str(key)] = item
        else:
            result |= {f"{key}.{field}": v for field, v in flatten_space(item).items()}
    return result


Space = Annotated[dict[str, Any], BeforeValidator(flatten_space)]


def as_field(base: Experiment, path: str, value: Scalar) -> Scalar:
    """Return the value as the field's type: a whole number for a field of whole numbers."""
    if is_whole(base, path) and isinstance(value, float) and value == int(value):
        return int(value)
    return value


def is_whole(base: Experiment, path: str) -> bool:
    """Return whether a field holds whole numbers."""
    section, _, field = path.partition(".")
    value = getattr(getattr(base, section), field)
    return isinstance(value, int) and not isinstance(value, bool)


def sections_of(base: Experiment, method: str) -> dict[str, Section]:
    """Return name -> section for those that a method has."""
    return {s: getattr(base, s) for s in get_method(method).sections}


def tunable(base: Experiment, method: str) -> list[str]:
    """Return the fields that can be tuned for a method, with dots."""
    sections = sections_of(base, method)
    return [
        f"{name}.{field}"
        for name, section in sections.items()
        for field in type(section).model_fields
        if field not in section.untunable
    ]


def common_fields(name: str, method: Method) -> list[str]:
    """Return the fields of a method that a field of `common` stands for.

    `lr` is the learning rate of each of its schedules. A method without the section gets none.
    """
    if name == "lr":
        return list(dict.fromkeys(f"{s.schedule}.lr" for s in method.stages if s.schedule))
    return [name] if name.partition(".")[0] in method.sections else []


def read_values(
    base: Experiment, method: str, field: str, value: Any, where: str
) -> Range | Choices:
    """Parse the values that a tuning file gives a method's field under `where`.

    Raises:
        UserError: the field cannot be tuned for this method, or the values are wrong.
    """
    fields = tunable(base, method)
    last = field.rpartition(".")[2]
    if last in ("seed", "seeds", "split_seed"):
        raise UserError(
            f"{where}.{field}: a seed is luck, not a setting; drop it (fresh_seeds measure luck)"
        )
    if any(last in section.untunable for section in sections_of(base, method).values()):
        raise UserError(f"{where}.{field}: the same for every trial; change it under `set:`")
    if field not in fields:
        dotted = [f for f in fields if f.endswith(f".{field}")]
        raise UserError(
            f"{where}.{field}: no field to tune here"
            f"{f'; did you mean {dotted[0]!r}?' if dotted else nearest(field, fields)}"
        )
    if not isinstance(value, dict):
        raise UserError(
            f"{where}.{field}: expected a list of values, or {{low: .., high: .., log: true}}"
        )
    model = Choices if "choices" in value else Range
    try:
        values = model.model_validate(value)
    except ValidationError as error:
        raise UserError(first_error(error, model, f"{where}.{field}")) from None
    if isinstance(values, Range) and is_whole(base, field):  # Optuna would round them
        for key in ("low", "high", "step"):
            number = getattr(values, key)
            if number is not None and number != int(number):
                raise UserError(
                    f"{where}.{field}.{key}: {number:g}, but the field holds whole numbers; use one"
                )
    return values
