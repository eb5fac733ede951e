"""Lines of JSON: a header, then records, each read as an object of a pydantic model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.common.errors import first_error
from harness.store.cell_files import parse_json

H = TypeVar("H", bound=BaseModel)  # a header
R = TypeVar("R", bound=BaseModel)  # a record


def read_records(
    text: str, header_model: type[H], model_of: Callable[[dict[str, Any]], type[R]]
) -> tuple[dict[str, Any], H, list[R]]:
    """Parse JSON lines: a header, then records.

    Args:
        text: The lines.
        header_model: The model of the header.
        model_of: Returns the model of a record.

    Returns:
        The header as plain data and as its model, and the records.

    Raises:
        ValueError: A line cannot be read, or a field is missing or has another type; which one.
    """
    lines = text.split("\n")
    raw_header: dict[str, Any] = {}
    header: H | None = None
    records: list[R] = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        try:
            raw = parse_json(line.encode("utf-8", "surrogateescape"))
            if not isinstance(raw, dict):
                raise ValueError("is no JSON object")
            if header is None:
                raw_header, header = raw, validated(header_model, raw)
            else:
                records.append(validated(model_of(raw), raw))
        except ValueError as error:
            raise ValueError(f"line {number} {error}") from None
    if header is None:
        raise ValueError("is empty")
    return raw_header, header, records


def validated(model: type[R], line: dict[str, Any]) -> R:
    """Return a line, as plain data, as an object of a model.

    Raises:
        ValueError: A field is missing or has another type; which one.
    """
    try:
        return model.model_validate(line)
    except ValidationError as error:
        raise ValueError(f"has a wrong field: {first_error(error, model)[:200]}") from None
