"""The style of each method, as its description marks it (harness.methods.mark)."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from harness.analysis.bundle import Bundle
from harness.analysis.figures.style import COLORS, Style
from harness.analysis.tables.rows import methods_of
from harness.methods import AT, REGISTRY, Method
from harness.methods.mark import Color, Fill, Mark
from harness.methods.variants import split_settings

NAMED: tuple[Color, ...] = ("black", "blue", "vermilion", "green", "purple", "orange", "sky")
PALETTE: dict[Color, str] = {**dict(zip(NAMED, COLORS, strict=True)), "grey": "#808080"}
UNMARKED = Mark("o", "purple")
FILLS: tuple[Fill, ...] = ("bottom", "left", "open", "full")
SPARE = tuple(product(FILLS, "osD^v><pdh*PX"))
TEACHER_STYLE = Style("8", "--", PALETTE["grey"], "open")


def style_of(mark: Mark) -> Style:
    """Return a mark as matplotlib's options."""
    return Style(mark.marker, mark.dashes, PALETTE[mark.color], mark.fill)


def _mark_of(method: Method, bundle: Bundle) -> Mark | None:
    """Return the method's mark, or that of the variant which it is by the experiment's settings."""
    if method.mark:
        return method.mark
    name = split_settings(method.name)[0].partition(AT)[0]
    for variant in (m for m in REGISTRY.values() if m.variant_of == name):
        implied = ((s, f, v) for s, fields in variant.implied.items() for f, v in fields.items())
        if all((bundle.experiment.get(s) or {}).get(f) == v for s, f, v in implied):
            return variant.mark
    return None


def styles_of(bundle: Bundle) -> dict[str, Style]:
    """Return label of a method -> its style.

    A method with other settings or epochs has an open marker. What has no mark (a method of one's
    own, a sum, a second variant of the same method) gets a marker that nothing else has.
    """
    taken = {(m.mark.marker, m.mark.fill) for m in REGISTRY.values() if m.mark}
    styles: dict[str, Style] = {}
    used: set[Style] = set()
    for method in methods_of(bundle):
        mark = _mark_of(method, bundle)
        style = style_of(mark or UNMARKED)
        if method.overrides or method.epochs_factor != 1:
            style = replace(style, fill="open")
        if mark is None or style in used:
            fill, marker = next((f, m) for f, m in SPARE if (m, f) not in taken)
            style = replace(style, marker=marker, fill=fill)
        taken.add((style.marker, style.fill))
        used.add(style)
        styles[_label(method, bundle)] = style
    return styles


def _label(method: Method, bundle: Bundle) -> str:
    label = method.label_in(bundle.experiment)
    return f"{label} (upper bound)" if method.is_upper_bound else label
