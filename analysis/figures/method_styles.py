"""One colour, marker and line for each method, the same in every figure of every bundle.

A family of methods shares a colour, and every method has a marker or a filling of its own, so that
figures can be read in grey. Grey is what trains no student. The same method with other settings or
epochs ("kd@both") is drawn as the method is, but with an open marker.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from harness.analysis.bundle import Bundle
from harness.analysis.figures.style import COLORS, Fill, Style
from harness.analysis.tables.rows import rows_of
from harness.methods import AT
from harness.methods.variants import split_settings

BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = COLORS
GREY = "#808080"
TEACHER_STYLE = Style("8", "--", GREY, "open")
STYLES: dict[str, Style] = {
    "plain": Style("o", "-", BLACK),
    "finetune": Style("p", "--", BLACK),
    "kd": Style("s", "--", BLUE),
    "dkd": Style("d", "-.", BLUE),
    "kd_standardised": Style("h", ":", BLUE),
    "refilled-tuple": Style("D", "-", VERMILION),
    "refilled-triplet": Style("^", "-.", ORANGE),
    "refilled-one-negative": Style("v", ":", ORANGE),
    "rkd": Style(">", "--", GREEN),
    "sp": Style("<", "-.", GREEN),
    "pkt": Style("*", ":", GREEN),
    "at": Style("P", "--", SKY),
    "fitnet": Style("X", "-.", SKY),
    "nst": Style("s", ":", SKY, "left"),
    "crd": Style("o", "-", PURPLE, "left"),
    "vid": Style("D", "--", PURPLE, "left"),
    "kd+vid": Style("^", "-.", PURPLE, "left"),
    "pixels_ncm": Style("x", ":", GREY),
    "untrained_ncm": Style("+", "-.", GREY),
    "teacher_ncm": Style("1", "--", GREY),
    "probe": Style("2", "-", GREY),
}
_FILLS: tuple[Fill, ...] = ("bottom", "left", "open", "full")
_UNUSED = tuple(product(_FILLS, "osD^v><pdh*PX"))


def _base(name: str, relation: str) -> tuple[str, bool]:
    """Return the method's name without settings and epochs, and whether it had any.

    Args:
        name: as in an experiment file.
        relation: what the experiment's `refilled` matches in stage 1.
    """
    name, settings = split_settings(name)
    base, _, epochs = name.partition(AT)
    return (f"refilled-{relation}" if base == "refilled" else base), bool(settings or epochs)


def styles_of(bundle: Bundle) -> dict[str, Style]:
    """Return label of a method -> its style.

    What STYLES does not list (a method of one's own, a sum, a second variant of the same method)
    gets a marker that nothing else in the bundle has.
    """
    stage1 = bundle.experiment.get("stage1") or {}
    relation = str(stage1.get("relation", "tuple"))
    styles: dict[str, Style] = {}
    unknown: list[tuple[str, Style]] = []
    for row in (row for row in rows_of(bundle) if row.is_final):
        base, is_variant = _base(row.method, relation)
        known = STYLES.get(base)
        if known is None:
            unknown.append((row.label, Style("o", "-", PURPLE)))
            continue
        style = replace(known, fill="open") if is_variant else known
        if style in styles.values() and styles.get(row.label) != style:
            unknown.append((row.label, known))
        else:
            styles[row.label] = style
    for label, like in unknown:
        taken = {(s.marker, s.fill) for s in (*STYLES.values(), *styles.values())}
        fill, marker = next((f, m) for f, m in _UNUSED if (m, f) not in taken)
        styles.setdefault(label, replace(like, marker=marker, fill=fill))
    return styles
