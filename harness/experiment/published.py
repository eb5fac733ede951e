"""The reader of published numbers, a CSV file.

Its columns are source, row, metric, protocol, one per network and, optionally,

- `of`: the number of ours that a row is compared with (harness.experiment.claims);
- `preset`: the protocol of ours that it holds under (`Experiment.protocol_label`), as far as that
  is known. `protocol` is what the source itself says;
- those of ABOUT: how the number was made, for a table that shows it beside numbers of other data.

Experiments and tables read it here, so everything that a table needs is checked before anything
trains.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from harness.common.errors import UserError, nearest
from harness.common.names import normalise_name, printable
from harness.experiment.claims import parse_quantity
from harness.experiment.protocol import PRESETS, canonical_preset

REQUIRED = ("source", "row", "metric", "protocol")
OF, PRESET = "of", "preset"
ABOUT = ("dataset", "classes", "image_size", "train", "epochs", "seeds", "device")
OPTIONAL = (OF, PRESET, *ABOUT)
SHOWN = ("row", "source", "protocol")  # in the table, so they may not be empty
DELIMITERS = ",;\t|"  # the standard one, and those that spreadsheets write
NOTHING = {"", "-", "–", "—", "n/a", "na", "nan"}
NUMBER = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*%?(?:\s*±\s*(\d{1,3}(?:[.,]\d+)?)\s*%?)?")
Row = dict[str, str]


def read_published(path: Path, networks: Iterable[str]) -> list[Row]:
    """Return the rows: every field as text, numbers in % with a decimal point, "" for none.

    Args:
        path: the CSV file.
        networks: the labels of the experiment's networks; columns match in any case.

    Raises:
        UserError: no such file, or one with a row or a column that a table could not show.
    """
    return _read(path, {*networks}, "published")


def read_paper_table(path: Path) -> list[Row]:
    """Return the rows as `read_published`; every column with a name of its own is a network.

    Raises:
        UserError: as there, or no row names one of our numbers.
    """
    rows = _read(path, None, "paper_table")
    if not any(row.get(OF) for row in rows):
        raise UserError(
            f"paper_table: {printable(path)}: no row says which number of ours it is beside; "
            f"name it in the column {OF!r}, as in experiments/published"
        )
    return rows


def networks_of(columns: Iterable[str]) -> list[str]:
    """Return the columns that are named after networks."""
    return [column for column in columns if column and column not in (*REQUIRED, *OPTIONAL)]


def _read(path: Path, labels: set[str] | None, field: str) -> list[Row]:
    """Return the rows of a file that `field` of an experiment names.

    Args:
        path: the CSV file.
        labels: the networks; None for all that the file has.
        field: for error messages.
    """
    text, skipped = _text(path, field), 0
    if hint := re.match(r"sep=(.)\r?\n", text):  # from a spreadsheet
        text, skipped = text[hint.end() :], 1
    delimiter = hint[1] if hint else _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    rows = []
    try:
        for fields in reader:
            where = f"{field}: {printable(path)}, line {reader.line_num + skipped}"
            fields = [normalise_name(value) for value in fields]
            if not any(fields):
                continue
            if bad := next((f for f in fields if printable(f) != f), None):
                raise UserError(f"{where}: {bad[:60]!r} is not plain text; retype it")
            if columns is None:
                columns = _columns(fields, labels, where)
            else:
                networks = {*networks_of(columns)} if labels is None else labels
                rows.append(_row(columns, fields, networks, where, delimiter))
    except csv.Error as error:
        line = reader.line_num + skipped
        raise UserError(
            f"{field}: {printable(path)}, line {line}: broken CSV ({error}); close the quotes"
        ) from None
    if columns is None:
        raise UserError(
            f"{field}: {printable(path)}, line 1: empty; begin with {','.join(REQUIRED)}"
        )
    return rows


def _text(path: Path, field: str) -> str:
    if not path.is_file():
        raise UserError(f"{field}: no file {path}; fix the path")
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{field}: cannot read {path} ({error.strerror}); allow it") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{field}: {path}, line {line}: not UTF-8 text; save it as CSV in UTF-8"
        ) from None


def _delimiter(text: str) -> str:
    """Return the delimiter that yields most of the required columns in the first line."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def n_known(delimiter: str) -> int:
        return len({*REQUIRED} & {_plain(f).strip('"') for f in first.split(delimiter)})

    return max(DELIMITERS, key=n_known)


def _plain(name: str) -> str:
    return normalise_name(name).casefold()


def _columns(fields: list[str], labels: set[str] | None, where: str) -> list[str]:
    """Return the header, spelled as the table expects it."""
    networks = labels or set()
    usual = {_plain(n): n for n in (*REQUIRED, *OPTIONAL, *networks)}
    columns = [usual.get(_plain(f), f) for f in fields]
    missing = [r for r in REQUIRED if r not in columns]
    if missing:
        raise UserError(
            f"{where}: no column {missing[0]!r}; a published table has {', '.join(REQUIRED)} and "
            "one for each network, with commas between them"
        )
    twice = next((c for c in columns if c and columns.count(c) > 1), None)
    if twice:
        raise UserError(f"{where}: two columns are called {twice!r}; rename one")
    letters = {re.sub(r"[\W_]", "", n.casefold()): n for n in networks}
    for column in columns:
        near = letters.get(re.sub(r"[\W_]", "", column.casefold()))
        if near and near not in columns:
            raise UserError(f"{where}: column {column!r}: did you mean {near!r}? rename it")
    if labels is None and not networks_of(columns):
        raise UserError(f"{where}: no column is a network; add one, such as wrn-40-2")
    if labels is not None and not networks & {*columns}:
        given = networks_of(columns)
        raise UserError(
            f"{where}: no column is named after one of this experiment's networks "
            f"({', '.join(sorted(networks))}), only {', '.join(given) or 'none'}; rename them"
        )
    return columns


def _row(
    columns: list[str], fields: list[str], networks: set[str], where: str, delimiter: str
) -> Row:
    n = len(columns)
    if len(fields) != n:
        remedy = "put quotes around a field with a comma in it, and write 97.10 for 97,10"
        remedy = remedy if delimiter == "," and len(fields) > n else "give every column its field"
        raise UserError(f"{where}: {len(fields)} fields for {n} columns; {remedy}")
    row = {}
    for column, field in zip(columns, fields, strict=True):
        if column in SHOWN and not field:
            raise UserError(f"{where}: column {column!r} is empty; the table shows it")
        if not column and field:
            raise UserError(f"{where}: {field!r} is in a column without a name; name it")
        if column:
            known = column in networks
            row[column] = _number(field, f"{where}, column {column}") if known else field
    if row.get(OF):
        try:
            parse_quantity(row[OF])
        except ValueError as error:
            raise UserError(f"{where}, column {OF}: {error}") from None
    if row.get(PRESET):
        name, bracket, rest = row[PRESET].partition("(")
        name = canonical_preset(name)
        if name not in PRESETS:
            raise UserError(
                f"{where}, column {PRESET}: unknown protocol {name!r}{nearest(name, PRESETS)}"
            )
        row[PRESET] = name + bracket + rest
    return row


def published_accuracy(text: str) -> float:
    """Return the number of a row, such as "91.00 ± 0.3" in per cent, as a fraction."""
    return float(text.partition(" ")[0]) / 100


def published_protocol(row: Row) -> str:
    """Return a row's protocol as tables show it: the source's words, and the preset."""
    return "; ".join(filter(None, (row["protocol"], row.get(PRESET))))


def why_not_comparable(row: Row, protocol: str) -> str:
    """Return why a published number cannot be tested against ours; "" if it can.

    Args:
        row: that of the number (`harness.experiment.claims.find_published`).
        protocol: the label of our protocol (`Experiment.protocol_label`, `Bundle.protocol`).
    """
    theirs = row.get(PRESET) or f"{row['protocol']!r}, for which there is no preset"
    ours = f"this experiment runs {protocol}"
    return "" if theirs == protocol else f"{row['source']} reports {theirs}; {ours}"


def _number(field: str, where: str) -> str:
    if field.casefold() in NOTHING:
        return ""
    match = NUMBER.fullmatch(field)
    values = [v.replace(",", ".") for v in match.groups() if v] if match else []
    if not values or float(values[0]) > 100:
        raise UserError(
            f"{where}: {field[:40]!r} is not an accuracy; write a percentage such as 97.10, or "
            "nothing"
        )
    return " ± ".join(values)
