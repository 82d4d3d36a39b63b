"""Tables with headings in files: CSV and Parquet, both as texts."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matconvnet.errors import FormatError

Table = tuple[list[str], Iterator[tuple[str, list[str]]]]
"""The headings, and for every row where it stands, for messages, and its texts."""


def read_csv(path: Path) -> Table:
    """Read a CSV file with a line of headings and commas, semicolons or tabs between fields.

    Returns: the headings, and for every row that is not blank where it stands and its texts.
    Raises: FormatError (a ValueError), naming the line that is wrong; OSError.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start} is no UTF-8; wanted a text") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True
    )
    headings: list[str] = []
    rows: list[tuple[str, list[str]]] = []
    try:
        for row in reader:
            row = [cell.strip() for cell in row]
            if not any(row):
                continue
            place = f"{path}, line {reader.line_num}"
            if not headings:
                headings = row
            elif len(row) == len(headings):
                rows.append((place, row))
            else:
                raise FormatError(
                    f"{place}: found {len(row)} fields; wanted {len(headings)}: "
                    f"{', '.join(headings)}"
                )
    except csv.Error as error:
        raise FormatError(f"{path}, line {reader.line_num}: no CSV: {error}") from error
    if not headings:
        raise FormatError(f"{path}: the file is empty; wanted a line of headings")
    return headings, iter(rows)


def read_parquet(path: Path) -> Table:
    """Read a Parquet file as `read_csv` reads a CSV file.

    Raises: FormatError (a ValueError), if it is none; ImportError, without pyarrow; OSError.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError(
            "Parquet lists need pyarrow: pip install 'matconvnet[parquet]'"
        ) from error
    with path.open("rb") as file:  # OSError with the usual words
        try:
            table = parquet.read_table(file)
        except (ArrowException, OSError) as error:
            raise FormatError(f"{path}: cannot be read as Parquet: {error}") from error
    columns = [[_text(value) for value in column.to_pylist()] for column in table.itercolumns()]
    rows = ((f"{path}, row {i}", list(row)) for i, row in enumerate(zip(*columns, strict=True)))
    return table.column_names, rows


def _text(value: Any) -> str:
    """What a CSV file would say; whole numbers that a column of floats holds are whole."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
