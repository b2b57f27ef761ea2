"""Files of any kind as rows of text: text with separators, spreadsheets, parquet."""

import csv
import datetime
import io
import math
import os
import pathlib
import re
import zipfile
from typing import Any, NamedTuple

from psl_jax.runtime.csv_files import SEPARATORS, plain_read_errors
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import local_copy

Row = tuple[int, list[str]]  # its line in the file, from 1, and its cells


class Sheet(NamedTuple):
    """A table with a header."""

    path: str
    separator: str  # between columns; "" where the file needs none
    header: list[str]
    rows: list[Row]  # without the header; each has as many cells


def read_text(path: pathlib.Path) -> str:
    """The text of a file in UTF-8, in UTF-16 with its mark, or in Windows' Western European."""
    with plain_read_errors(path):
        content = path.read_bytes()
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
        other_letters = "[\0\x80-\x9f]"
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        # Of words in Cyrillic or Chinese; of a sign within a word, as in other alphabets of Europe.
        other_letters = "[\0\x80-\x9f]|[\xa1-\xff]{3}"
        other_letters += r"|[^\W\d_][\xa1-\xa8\xab\xac\xb1-\xb3\xb6\xb8\xb9\xbb-\xbf][a-z]"
    if odd := re.search(other_letters, text):
        row = text[: odd.start()].count("\n") + 1
        raise UserError(f"{path}, row {row}: not a table in UTF-8 (or UTF-16). Save it as UTF-8")
    return text


def split_literal_rows(text: str) -> list[Row]:
    """The rows of a text with tabs in which a quote is a character like others."""
    lines = re.split("\r\n|\n|\r", text)
    return [
        (row, [cell.strip() for cell in line.split("\t")])
        for row, line in enumerate(lines, 1)
        if line.strip()
    ]


def make_sheet(path: str, separator: str, rows: list[Row]) -> Sheet:
    """The rows as a table, the first as its header. Raises UserError for a row that is too long."""
    header = rows[0][1] if rows else []
    while header and not header[-1]:
        header = header[:-1]
    body = []
    for row, cells in rows[1:]:
        if any(cells[len(header) :]):
            separator_name = SEPARATORS.get(separator, "the separator")
            raise UserError(
                f"{path}, row {row}: more cells than the {len(header)} columns that row "
                f"{rows[0][0]} names. Name all columns there, and quote a cell that holds "
                f"{separator_name}"
            )
        body.append((row, [*cells, *[""] * len(header)][: len(header)]))
    return Sheet(path, separator, header, body)


def read_separated(path: str, text: str) -> Sheet:
    """A table with commas, semicolons, tabs or bars, and cells in quotes where need be."""
    first = next((line for line in text.splitlines() if line.strip(",;\t| ")), "")
    named = re.fullmatch(r"sep=([,;\t|])", first)  # a line of Excel's
    separator = named[1] if named else max(SEPARATORS, key=first.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    rows: list[Row] = []
    row = 1
    try:
        for line in reader:
            cells = [cell.strip() for cell in line]
            if any(separator in line for cell in cells for line in cell.splitlines()[1:]):
                raise UserError(
                    f"{path}, row {row}: a cell of several lines that look like rows. Is a quote "
                    "not closed?"
                )
            if any(cells) or (cells and rows):  # the header is the first row that is not empty
                rows.append((row, cells))
            row = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f'{path}, row {row}: {error}. Is a quote (") not closed?') from error
    return make_sheet(path, separator, rows[1:] if named else rows)


def read_spreadsheet(path: pathlib.Path) -> Sheet:
    """The one sheet of an .xlsx file that is not empty. Raises UserError for several.

    Raises it also for formulas that no spreadsheet program has computed: they have no value.
    """
    with local_copy(path) as copy:
        values, formulas = (_read_sheets(path, copy, data_only=flag) for flag in (True, False))
        _refuse_merged_cells(path, copy)
    filled = {title: rows for title, rows in formulas.items() if rows}
    if len(filled) != 1:
        names = ", ".join(filled) or "none"
        raise UserError(f"{path}: expected one sheet with rows, found {names}. Keep one in a file")
    ((title, rows),) = filled.items()
    cells = [(row, text) for row, cells_of_row in rows for text in cells_of_row if text]
    of_formulas = [(row, text) for row, text in cells if text.startswith("=")]
    num_values = sum(bool(text) for _, cells_of_row in values[title] for text in cells_of_row)
    if of_formulas and len(cells) - len(of_formulas) == num_values:
        row, text = of_formulas[0]
        raise UserError(
            f"{path}, row {row}: the formula {text!r:.40} has no value. Open and save the file in "
            "a spreadsheet program"
        )
    return make_sheet(str(path), "", values[title])


def _read_sheets(
    path: pathlib.Path, copy: str | os.PathLike[str], *, data_only: bool
) -> dict[str, list[Row]]:
    """The rows of each sheet that are not empty, with the values of formulas or with their text."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(copy, read_only=True, data_only=data_only)
    except Exception as error:  # zip, XML and openpyxl's own
        raise UserError(f"{path}: no spreadsheet that can be read: {error}") from error
    sheets: dict[str, list[Row]] = {}
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # which some programs state wrongly
        sheets[sheet.title] = [
            (row, cells)
            for row, row_cells in enumerate(sheet.iter_rows(), 1)
            if any(cells := list(map(_format_spreadsheet_cell, row_cells)))
        ]
    book.close()
    return sheets


def _format_spreadsheet_cell(cell: Any) -> str:
    """The text of a cell. Who typed 1:30 may mean minutes, so this is no time of an event."""
    if isinstance(cell.value, datetime.time) and "s" not in cell.number_format.lower():
        return f"{cell.value:%H:%M} (hours and minutes)"
    return _format_cell(getattr(cell.value, "text", cell.value))  # the text of an array formula


def _refuse_merged_cells(path: pathlib.Path, copy: str | os.PathLike[str]) -> None:
    """Raises UserError: of merged cells only the first holds their value."""
    with zipfile.ZipFile(copy) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and (
                merged := re.search(rb'<mergeCell\s+ref="(\w+:\w+)"', archive.read(name))
            ):
                cells = merged[1].decode()
                raise UserError(f"{path}: the cells {cells} are merged. Part and fill all of them")


def read_parquet(path: pathlib.Path) -> Sheet:
    """A parquet file; its rows count from 1. Raises UserError without pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(path, "pyarrow", "corpora") from error
    with local_copy(path) as copy:
        try:
            table = pyarrow.parquet.read_table(copy)
            values = [column.to_pylist() for column in table.columns]
        except (OSError, ValueError) as error:  # the latter also of a time in nanoseconds
            raise UserError(f"{path}: no parquet file that can be read: {error}") from error
    columns = [list(map(_format_cell, values_of_column)) for values_of_column in values]
    rows = [(row, list(cells)) for row, cells in enumerate(zip(*columns, strict=True), 1)]
    return make_sheet(str(path), "", [(0, list(table.column_names)), *rows])


def _format_cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, datetime.timedelta):
        return repr(value.total_seconds())
    if isinstance(value, bytes):
        return value.decode(errors="replace").strip()
    # Whole numbers beside empty cells are floats in parquet files of pandas.
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value).strip()
