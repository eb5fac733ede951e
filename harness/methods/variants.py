"""Methods with settings of their own: their names, and how an experiment file writes them.

    methods: [plain, {method: kd, label: KD T=8, kd: {temperature: 8}},
              {method: refilled, stage1: {tau1: [1, 4, 16]}}]      # a sweep: three methods

Each is a method whose name holds its settings, "kd(kd.temperature=8)", so that tables, tags and
claims need nothing else.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.common.canonical_json import flatten
from harness.methods.base import AT, BOTH, Method

NAME = re.compile(r"(?P<base>[^()]+)\((?P<settings>[^()]+)\)(?P<rest>@[^()]+)?")
WORD = re.compile(r"[A-Za-z_][\w.-]*")  # the value of a setting that is text
EXPECTED = (
    f"expected a name, or {{method: NAME}} with `epochs: {BOTH}`, `label: TEXT` or settings as in "
    "`kd: {temperature: 8}`"
)
SPECIAL = {"true": True, "false": False, "null": None}
Settings = dict[str, Any]  # "section.field" -> value


def format_value(value: Any) -> str:
    """Return a setting's value as it stands in a name; equal values give equal text.

    Raises:
        ValueError: it is not a number, word, true, false or null.
    """
    for word, special in SPECIAL.items():
        if value is special:
            return word
    if isinstance(value, int | float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    if isinstance(value, str) and WORD.fullmatch(value) and value not in SPECIAL:
        return value
    raise ValueError(f"{value!r} is not a number, word, true, false or null; use one")


def parse_value(text: str) -> Any:
    """Return the value that `format_value` wrote."""
    if text in SPECIAL:
        return SPECIAL[text]
    if WORD.fullmatch(text):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number == int(number) else number


def split_settings(name: str) -> tuple[str, Settings]:
    """Split "kd(kd.temperature=8)@2" into ("kd@2", {"kd.temperature": 8}).

    Raises:
        ValueError: it has parentheses of another form.
    """
    if "(" not in name and ")" not in name:
        return name, {}
    match = NAME.fullmatch(name)
    parts = [part.partition("=") for part in match["settings"].split(";")] if match else []
    if match is None or not all(equals for _, equals, _ in parts):
        raise ValueError(f"cannot read {name!r}; write it as kd(kd.temperature=8)")
    settings = {field.strip(): parse_value(text.strip()) for field, _, text in parts}
    return match["base"] + (match["rest"] or ""), settings


def join_settings(name: str, settings: Settings) -> str:
    """Put settings into a name, as in "kd(kd.temperature=8)@2".

    Raises:
        ValueError: a value cannot stand in a name.
    """
    if not settings:
        return name
    base, at, epochs = name.partition(AT)
    texts = []
    for field, value in sorted(settings.items()):
        try:
            texts.append(f"{field}={format_value(value)}")
        except ValueError as error:
            raise ValueError(f"{name}: {field}: {error}") from None
    return f"{base}({';'.join(texts)}){at}{epochs}"


def with_settings(method: Method, settings: Settings) -> Method:
    """Return the method with these settings in place of the experiment's.

    Raises:
        ValueError: the method does not read one of the sections.
    """
    overrides: dict[str, dict[str, Any]] = {}
    for field, value in sorted(settings.items()):
        section, dot, key = field.partition(".")
        if not dot or section not in method.sections:
            raise ValueError(
                f"{method.name}: {field}: no setting of this method; use SECTION.FIELD with one of "
                f"the sections {', '.join(method.sections)}"
            )
        overrides.setdefault(section, {})[key] = value
    return replace(
        method,
        name=join_settings(method.name, settings),
        label=f"{method.label}, {settings_text(settings)}",
        overrides=overrides,
        is_default=False,
        variant_of=method.name,
    )


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return "temperature 8, alpha 0.5"; fields of equal names keep their section."""
    short = {field: field.partition(".")[2] for field in settings}
    count = Counter(short.values())
    return ", ".join(
        f"{short[field] if count[short[field]] == 1 else field} {format_value(value)}"
        for field, value in sorted(settings.items())
    )


def expand_item(item: Any) -> list[tuple[Any, str | None]]:
    """Return (name, label) of every method that an item of `methods` stands for.

    The label is None if the method's own is to be used.

    Raises:
        ValueError: a mapping that names no method, or a setting that cannot stand in a name.
    """
    if not isinstance(item, dict):
        return [(item, None)]
    rest = dict(item)
    method, epochs, label = (rest.pop(key, None) for key in ("method", "epochs", "label"))
    fields = flatten(rest)
    if not isinstance(method, str) or not all("." in field for field in fields):
        raise ValueError(f"{item}: {EXPECTED}")
    if fields and "(" in method:
        raise ValueError(f"{item}: has settings in two places; write them below the method alone")
    name = method if epochs is None else f"{method}{AT}{epochs}"
    values = {f: v if isinstance(v, list) else [v] for f, v in fields.items()}
    if empty := next((f for f, v in values.items() if not v), None):
        raise ValueError(f"{method}: {empty}: an empty list; give one value at least")
    swept = [field for field, v in values.items() if len(v) > 1]
    expanded: list[tuple[Any, str | None]] = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(fields, combination, strict=True))
        name_in_full = join_settings(name, settings)
        suffix = f", {settings_text({f: settings[f] for f in swept})}" if swept else ""
        expanded.append((name_in_full, None if label is None else f"{label}{suffix}"))
    return expanded
