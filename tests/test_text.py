"""Tables in a terminal of a given width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.tables import text
from harness.analysis.tables.text import for_terminal, table, terminal_width

WORDS = st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), min_size=1, max_size=9).map(" ".join)
NUMBER = "98.43 ± 0.31 (3)"


def test_without_a_width_nothing_is_wrapped() -> None:
    long = "a name of many words that goes on and on and on and on and on"
    shown = for_terminal(table(["", "x"], [[long, NUMBER]]) + "\n" + long * 3)
    assert long in shown.splitlines()[1] and long * 3 in shown


def test_names_wrap_first() -> None:
    shown = for_terminal(table(["", "x", "y"], [["a name of some words", "1.0", "2.0"]]), 26)
    assert shown.splitlines() == [
        f"{'':16}    x    y",
        f"{'a name of some':16}  1.0  2.0",
        "words",
    ]


def test_columns_that_do_not_fit_stand_below() -> None:
    whole = table(["", *"abc"], [["row", NUMBER, NUMBER, NUMBER]])
    heads = {}
    for width in (38, 39, 56, 57):
        lines = [line.split() for line in for_terminal(whole, width).splitlines()]
        heads[width] = ["".join(line) for line in lines if line[:1] != ["row"]]
    assert heads == {
        38: ["a", "", "b", "", "c"],
        39: ["ab", "", "c"],
        56: ["ab", "", "c"],
        57: ["abc"],
    }


def test_a_column_wider_than_the_terminal_is_shown_whole() -> None:
    assert NUMBER in for_terminal(table(["", "x"], [["row", NUMBER]]), 10)


def test_several_columns_of_words() -> None:
    row = ["one two three four five", "six seven eight nine ten", "0.1", "undecided; why it is"]
    shown = for_terminal(table(["claim", "", "p", "verdict"], [row], "llrl"), 60)
    assert max(map(len, shown.splitlines())) <= 60
    words = ["claim", "p", "verdict", *" ".join(row).split()]
    assert sorted(shown.split()) == sorted(words)


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 6), st.integers(50, 100))
def test_nothing_is_lost_and_all_fits(names: list[str], n: int, width: int) -> None:
    rows = [[name, *[NUMBER] * n] for name in names]
    lines = for_terminal(table(["", *map(str, range(n))], rows), width).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines).count(NUMBER) == n * len(names)


def test_paragraphs_wrap_but_commands_do_not() -> None:
    command = f"Command: `harness run {'x' * 70} --set {'y' * 70}`"
    shown = for_terminal(f"{'a word ' * 30}\n\n{command}\n", 60).splitlines()
    assert max(map(len, shown[:-1])) <= 60 and shown[-1] == command and "" in shown


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    monkeypatch.setattr(text.sys.stdout, "isatty", lambda: True, raising=False)
    assert terminal_width() == 77
    monkeypatch.setattr(text.sys.stdout, "isatty", lambda: False, raising=False)
    assert terminal_width() is None, "a pipe's lines are as long as they like"
