"""Tables in a terminal of a given width."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.analysis.tables.result_table import Cell, Command, ResultTable
from harness.analysis.tables.terminal import terminal_text
from harness.common.columns import GAP, column_lines, terminal_width

WORDS = st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), min_size=1, max_size=9).map(" ".join)
NUMBER = Cell(98.43, 0.31, 3)


def lines_of(table: ResultTable, width: int | None = None) -> list[str]:
    return terminal_text([table], width).splitlines()


def test_without_a_width_nothing_is_wrapped() -> None:
    long = "a name of many words that goes on and on and on and on and on"
    table = ResultTable(["", "x"], [[Cell(long), NUMBER]], caption=[long * 3])
    lines = lines_of(table)
    assert long in lines[1] and long * 3 in lines


def test_plain_text_alone() -> None:
    cell = Cell("name", link="x", bold=True, note=" (note)")
    table = ResultTable(["[red]a", "b"], [[cell, Cell()]], title="title")
    assert lines_of(table) == ["title", "", "[red]a       b", "name (note)  –"]


def test_names_wrap_first() -> None:
    row = [Cell("a name of some words"), Cell(1.0, digits=1), Cell(2.0, digits=1)]
    assert lines_of(ResultTable(["", "x", "y"], [row]), 26) == [
        f"{'':16}    x    y",
        f"{'a name of some':16}  1.0  2.0",
        "words",
    ]


def test_columns_that_do_not_fit_stand_below() -> None:
    whole = ResultTable(["", *"abc"], [[Cell("row"), NUMBER, NUMBER, NUMBER]])
    heads = {}
    for width in (38, 39, 56, 57):
        lines = [line.split() for line in lines_of(whole, width)]
        heads[width] = ["".join(line) for line in lines if line[:1] != ["row"]]
    assert heads == {
        38: ["a", "", "b", "", "c"],
        39: ["ab", "", "c"],
        56: ["ab", "", "c"],
        57: ["abc"],
    }


def test_a_number_wider_than_the_terminal_is_shown_whole() -> None:
    table = ResultTable(["", "x"], [[Cell("row"), NUMBER]])
    assert NUMBER.text in terminal_text([table], 10)


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 6), st.integers(50, 100))
def test_nothing_is_lost_and_all_fits(names: list[str], n: int, width: int) -> None:
    number = Cell(-12.345, 10.5, 100)
    table = ResultTable(["", *map(str, range(n))], [[Cell(name), *[number] * n] for name in names])
    lines = lines_of(table, width)
    assert max(map(len, lines)) <= width
    assert " ".join(lines).count(number.text) == n * len(names)


def test_several_columns_of_words() -> None:
    row = ["one two three four five", "six seven eight nine ten", "0.1", "undecided; why it is"]
    table = ResultTable(["claim", "", "p", "verdict"], [[*map(Cell, row)]], align="llrl")
    shown = terminal_text([table], 60)
    assert max(map(len, shown.splitlines())) <= 60
    assert sorted(shown.split()) == sorted(["claim", "p", "verdict", *" ".join(row).split()])


def test_paragraphs_wrap_but_commands_do_not() -> None:
    command = Command(f"Command: `harness run {'x' * 70} --set {'y' * 70}`")
    lines = terminal_text(["a word " * 30, command], 60).splitlines()
    assert max(map(len, lines[:-1])) <= 60 and lines[-1] == command and "" in lines


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert terminal_width() == 77
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert terminal_width() is None, "a pipe's lines are as long as they like"


@given(
    st.lists(st.lists(st.text("ab 漢"), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(1, 40),
)
def test_columns_fit_the_width_and_cut_no_word(rows: list[list[str]], width: int) -> None:
    lines = list(column_lines(rows, width))
    words = sorted(" ".join(cell for row in rows for cell in row).split())
    assert sorted(" ".join(lines).split()) == words
    columns = zip(*(r for r in rows), strict=True)
    longest = [
        max((cell_len(w) for c in column for w in c.split()), default=0) for column in columns
    ]
    assert max(map(cell_len, lines)) <= max(width, sum(longest) + 2 * GAP)
    assert len(list(column_lines(rows))) == len(rows)
