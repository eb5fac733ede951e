"""Methods with settings of their own: how they are named, and how an experiment file says them.

    methods: [plain, {method: kd, label: KD T=8, kd: {temperature: 8}},
              {method: refilled, stage1: {tau1: [1, 4, 16]}}]      # a sweep: three methods

Each is a method with a name that says everything, "kd(kd.temperature=8)", so that tables, tags and
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
WORD = re.compile(r"[A-Za-z_][\w.-]*")  # of a setting that is text
EXPECTED = (
    f"expected a name, or {{method: NAME}} with `epochs: {BOTH}`, `label: TEXT` or settings as in "
    "`kd: {temperature: 8}`"
)
SPECIAL = {"true": True, "false": False, "null": None}
Settings = dict[str, Any]  # "section.field" -> value


def text_of(value: Any) -> str:
    """A setting's value as it stands in a name: of equal values the same.

    Raises:
        ValueError: it is no number, word, true, false or null.
    """
    for word, special in SPECIAL.items():
        if value is special:
            return word
    if isinstance(value, int | float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    if isinstance(value, str) and WORD.fullmatch(value) and value not in SPECIAL:
        return value
    raise ValueError(f"{value!r} is no number, word, true, false or null; use one")


def value_of(text: str) -> Any:
    """What `text_of` wrote."""
    if text in SPECIAL:
        return SPECIAL[text]
    if WORD.fullmatch(text):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number == int(number) else number


def split(name: str) -> tuple[str, Settings]:
    """The name without its settings, and these: ("kd@2", {"kd.temperature": 8}) of
    "kd(kd.temperature=8)@2".

    Raises:
        ValueError: there are parentheses, but not like that.
    """
    if "(" not in name and ")" not in name:
        return name, {}
    match = NAME.fullmatch(name)
    parts = [part.partition("=") for part in match["settings"].split(";")] if match else []
    if match is None or not all(equals for _, equals, _ in parts):
        raise ValueError(f"cannot read {name!r}; write it as kd(kd.temperature=8)")
    settings = {field.strip(): value_of(text.strip()) for field, _, text in parts}
    return match["base"] + (match["rest"] or ""), settings


def joined(name: str, settings: Settings) -> str:
    """The name with these settings, before what says how long it trains.

    Raises:
        ValueError: a value cannot stand in a name.
    """
    if not settings:
        return name
    base, at, epochs = name.partition(AT)
    texts = []
    for field, value in sorted(settings.items()):
        try:
            texts.append(f"{field}={text_of(value)}")
        except ValueError as error:
            raise ValueError(f"{name}: {field}: {error}") from None
    return f"{base}({';'.join(texts)}){at}{epochs}"


def variant(method: Method, settings: Settings) -> Method:
    """The method with these settings in place of the experiment's.

    Raises:
        ValueError: a section that decides nothing about it.
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
        name=joined(method.name, settings),
        label=f"{method.label}, {in_words(settings)}",
        overrides=overrides,
        is_default=False,
        variant_of=method.name,
    )


def in_words(settings: Mapping[str, Any]) -> str:
    """ "temperature 8, alpha 0.5"; with the section where two have a field of that name."""
    names = Counter(field.partition(".")[2] for field in settings)
    shown = {f: f if names[f.partition(".")[2]] > 1 else f.partition(".")[2] for f in settings}
    return ", ".join(f"{shown[f]} {text_of(v)}" for f, v in sorted(settings.items()))


def expanded(item: Any) -> list[tuple[Any, str | None]]:
    """The names that an item of `methods` stands for, and what each is called in tables (None: as
    the method says).

    Raises:
        ValueError: a mapping that names no method, or a setting that no name can hold.
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
    several = {field for field, v in values.items() if len(v) > 1}
    found: list[tuple[Any, str | None]] = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(fields, combination, strict=True))
        full = joined(name, settings)
        swept = {field: settings[field] for field in several}
        words = f", {in_words(swept)}" if swept else ""
        found.append((full, None if label is None else f"{label}{words}"))
    return found
