"""The one exception that users see: one line that names the field and the remedy."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from harness.common.exit_status import FAILED, WRONG_USE
from harness.common.names import printable
from harness.common.os_errors import describe_os_error
from harness.common.redaction import redacted

# Type of a pydantic error -> the remedy, where pydantic's message speaks of Python's types.
_MAPPING = "not a mapping; write `{key}{{KEY: VALUE}}`"
_IN_YAML = {
    "tuple_type": "not a list; write `{key}{items}`",
    "too_short": "too short; list at least {min_length}",
    "string_type": "not text; put it in quotes",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}

Items = TypeVar("Items", bound=Sequence[Any])


class UserError(Exception):
    """Wrong input, which the command line prints as one line on stderr before it exits with 2.

    Whatever the message quotes from a file or a name cannot break the line, and is printable.

    Attributes:
        status: The command's exit status.
    """

    status = WRONG_USE

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class LostError(UserError):
    """Something went away while the command used it; what is done stays, and it exits with 1."""

    status = FAILED


def one_line(error: BaseException) -> str:
    """Return an error's first line without secrets, with its type if it is not ours."""
    if isinstance(error, OSError) and error.errno and error.filename:
        return printable(redacted(describe_os_error(error)))
    if isinstance(error, UnicodeEncodeError):  # a path, for a library that takes text alone
        return f"{printable(redacted(error.object))[:200]} has a name that is not UTF-8; rename it"
    text = redacted(str(error)).strip().splitlines()
    if isinstance(error, UserError) and text:
        return text[0]
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean 'X'?" for the closest allowed name, else "; allowed: ..."."""
    names = sorted(allowed)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(names)}"


def distinct(items: Items) -> Items:
    """Return the items unchanged.

    Raises:
        ValueError: one of them is listed twice.
    """
    if len(set(items)) < len(items):
        twice = next(item for item in items if items.count(item) > 1)
        raise ValueError(f"{twice!r} is listed twice; drop one")
    return items


def first_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return the first problem on one line, as `field: what is wrong; what is allowed`."""
    problems = error.errors()
    # A misspelt required key is also reported as missing; its nearest name helps more.
    unknown = (p for p in problems if p["type"] == "extra_forbidden")
    problem = next(unknown, problems[0])
    loc = [str(part) for part in problem["loc"]]
    field = ".".join([prefix, *loc] if prefix else loc)
    if problem["type"] == "extra_forbidden":
        siblings = _model_at(model, loc[:-1])
        allowed = list(siblings.model_fields) if siblings else []
        return f"{field}: unknown key{nearest(loc[-1], allowed)}"
    if problem["type"] == "missing":
        return f"{field}: missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    if not loc and not prefix:
        return message.replace("\n", " ")  # a check of the whole model names the field itself
    given = problem.get("input")
    if problem["type"] in _IN_YAML:
        key = field.rpartition(".")[2]
        message = _IN_YAML[problem["type"]].format(
            key="" if key.isdigit() else f"{key}: ",
            items=f"[{given}]" if isinstance(given, str | int | float) else "[..]",
            **problem.get("ctx", {}),
        )
    written = "null" if given is None else repr(redacted(str(given))[:60])
    text = "" if isinstance(given, dict | BaseModel) else f" (given: {written})"
    return f"{field}: {message[0].lower() + message[1:]}{text}".replace("\n", " ")


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """Return the model of the field at a path, or None if the field has none."""
    for part in path:
        field = model.model_fields.get(part)
        annotation: Any = field.annotation if field else None
        if isinstance(annotation, types.UnionType):  # `Tasks | None`
            annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
        if isinstance(annotation, types.GenericAlias) or annotation is None:
            return None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model
