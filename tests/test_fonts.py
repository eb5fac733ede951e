"""Names in scripts that the figures' font lacks become numbers or question marks."""

import warnings

import pytest
from matplotlib.figure import Figure

from harness.analysis.figures.base import default_settings, pixels, readable, writable
from harness.analysis.figures.confusion import readable_names


@pytest.mark.parametrize("name", ["gull", "Möwe", "Mo\u0308we", "чайка", "γλάρος", "$x_1$", "a→b"])
def test_what_the_font_has_is_shown(name: str) -> None:
    assert readable(name)
    assert readable_names([name]) == ([name], [])


@pytest.mark.parametrize(
    "name", ["海鸥", "カモメ", "갈매기", "نورس", "שחף", "नीर", "🐦", "a\tb", "", "\ud800"]
)
def test_what_it_lacks_is_a_number(name: str) -> None:
    assert not readable(name)
    names, (caption,) = readable_names(["gull", name, "tern"])
    assert names == ["gull", "1", "tern"] and "1 of 3" in caption
    assert "all" in readable_names([name, name])[1][0]


def test_no_title_or_legend_of_a_figure_has_empty_boxes() -> None:
    with default_settings(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure()
        axes = figure.subplots()
        axes.set_title("data set 鸟\nof نورس")
        figure.suptitle("gull")
        pixels(figure)
        assert axes.get_title() == "data set ?\nof ????"
    assert writable("a鸟\nb") == "a?\nb"
