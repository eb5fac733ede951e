"""How a method is marked in figures: the same in every figure of every experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Color = Literal["black", "blue", "vermilion", "green", "purple", "orange", "sky", "grey"]
Dashes = Literal["-", "--", "-.", ":"]
Fill = Literal["full", "open", "left", "bottom"]


@dataclass(frozen=True)
class Mark:
    """The mark of a method.

    Methods of one family share a colour. No two methods share both marker and fill, so that figures
    can be read in grey; "open" is left for a method with other settings or epochs, as "kd@both".

    Attributes:
        marker: A marker of matplotlib.
        color: Grey is for what trains no student.
        dashes: Of its lines.
        fill: The part of the marker that has the colour.
    """

    marker: str
    color: Color
    dashes: Dashes = "-"
    fill: Fill = "full"
