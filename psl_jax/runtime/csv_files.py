"""Finds and reads the tables that come with a corpus, and those that people write themselves."""

import contextlib
import csv
import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# A quote may follow a space: a.wav, "dog, rain".
_csv_reader = functools.partial(csv.reader, skipinitialspace=True)


class Table(NamedTuple):
    """A table that is being read."""

    header: list[str]  # columns that were asked for are spelt as they were asked for
    separator: str  # one of SEPARATORS
    rows: Iterator[tuple[int, list[str]]]  # (number of its first line, fields) of each


def find_tables(folder: str | os.PathLike[str], pattern: str) -> list[pathlib.Path]:
    """Files that match `pattern` in `folder` or in one of the folders in it, sorted."""
    root = path_of(folder)
    paths = [*root.glob(pattern), *root.glob(f"*/{pattern}")]
    return sorted(p for p in paths if p.is_file() and not p.name.startswith("._"))  # of macOS


@contextlib.contextmanager
def open_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[Table]:
    """Opens a table whose columns are separated by that of SEPARATORS by which it has `columns`.

    They are found in any case (Filename). Raises UserError for what is no table.
    """
    if not is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is a folder or a pipe; expected a file")
    with plain_read_errors(path), path_of(path).open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        headers = {separator: _fields(first, separator) for separator in SEPARATORS}
        wanted = {name.casefold() for name in columns}
        separator = next(
            (s for s, names in headers.items() if wanted <= {n.casefold() for n in names}), ","
        )
        asked = {name.casefold(): name for name in columns if name not in headers[separator]}
        header = [asked.get(name.casefold(), name) for name in headers[separator]]
        yield Table(header, separator, _rows(path, file, separator))


def read_header(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> list[str]:
    """The names of a table's columns, see `open_table`."""
    with open_table(path, columns) as table:
        return table.header


def read_rows(
    path: str | os.PathLike[str], columns: Sequence[str], expected: str = ""
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column) of a table with at least `columns`, see `open_table`.

    Raises UserError for a file of another form and for a row with more fields than columns; fields
    that a row lacks are empty.
    """
    with open_table(path, columns) as table:
        header = table.header
        if missing := [name for name in columns if name not in header]:
            raise UserError(
                f"{path}: no column {', '.join(missing)}. Found {','.join(header) or 'no header'}; "
                f"expected {expected or ','.join(columns)}, separated by commas (or semicolons, "
                "tabs, bars)."
            )
        if twice := [name for name in columns if header.count(name) > 1]:
            raise UserError(
                f"{path}: two columns are called {twice[0]}: rename one, or leave it out"
            )
        for line, fields in table.rows:
            while len(fields) > len(header) and not fields[-1].strip():
                fields.pop()  # empty columns of spreadsheets
            if len(fields) > len(header):
                raise UserError(
                    f"{path}, line {line}: more fields than the {len(header)} columns; quote a "
                    f"field that holds {SEPARATORS[table.separator]}"
                )
            row = dict(itertools.zip_longest(header, fields, fillvalue=""))
            for name in columns:
                if len(row[name].strip().splitlines()) > 1:
                    raise UserError(
                        f"{path}, line {line}: {name} {row[name]!r:.60} goes over several lines. "
                        'Is a quote (") not closed?'
                    )
            yield line, row


def parse_number(text: str) -> float:
    """A number with a decimal point or comma. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        return float(text.replace(",", ".", 1))


def _fields(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(_csv_reader([line], delimiter=separator), [])]


def _rows(
    path: str | os.PathLike[str], file: IO[str], separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, fields) of each row that is not empty, after the header."""
    reader = _csv_reader(file, delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 2  # the header is not counted
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f'{path}, line {line}: {error}. Is a quote (") not closed?') from error
        if any(map(str.strip, fields)):  # a spreadsheet may have empty rows at its end
            yield line, fields


@contextlib.contextmanager
def plain_read_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what goes wrong in reading a table into a UserError."""
    try:
        yield
    except csv.Error as error:
        raise UserError(f"{path}: not a table: {error}") from error
    except UnicodeDecodeError as error:
        text = path_of(path).read_bytes().decode("utf-8", "surrogateescape")
        line = text[: next(re.finditer("[\udc80-\udcff]", text)).start()].count("\n") + 1
        raise UserError(
            f"{path}, line {line}: not a table in UTF-8. Save it as UTF-8; Excel calls that file "
            'type "CSV UTF-8".'
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def hash_files(paths: Iterable[pathlib.Path]) -> str:
    """A hash of the contents of files; where they lie and their order do not matter."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: (p.name, str(p))):
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def existing_folder(path: str | os.PathLike[str], what: str, *, takes_buckets: bool = False) -> str:
    """The real path of a folder; UserError if there is none, or a bucket that is not taken."""
    if is_remote(path):
        if not takes_buckets:
            raise UserError(
                f"{path}: of corpora in buckets only audioset and own_data are read. Copy it "
                "(gcloud storage cp -r), or mount the bucket, and give the path there "
                "(docs/BUCKETS.md)"
            )
        if path_of(path).is_dir():
            return os.fspath(path).rstrip("/")
    elif os.path.isdir(path):
        return os.path.realpath(path)
    raise UserError(f"{path} is not a folder: expected {what}")


def listing(names: Iterable[str]) -> str:
    """Names one a line, for messages."""
    return "".join(f"  {name}\n" for name in names) or "  (none)\n"
