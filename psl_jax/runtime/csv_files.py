"""Finds and reads the tables that come with a corpus."""

import contextlib
import csv
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of


def find_tables(folder: str | os.PathLike, pattern: str) -> list[pathlib.Path]:
    """Files that match `pattern` in `folder` or in one of the folders in it, sorted."""
    root = path_of(folder)
    return sorted(p for p in [*root.glob(pattern), *root.glob(f"*/{pattern}")] if p.is_file())


def read_header(path: str | os.PathLike) -> list[str]:
    """The names of a table's columns. Raises UserError for a file that is no table."""
    with plain_read_errors(path), path_of(path).open(encoding="utf-8-sig", newline="") as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def read_rows(
    path: str | os.PathLike, columns: Sequence[str], delimiter: str = ",", expected: str = ""
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column) of a table with at least `columns`.

    Raises UserError for a file of another form; fields that a row lacks are empty.
    """
    with plain_read_errors(path), path_of(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, restval="")
        found = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = found
        if missing := [name for name in columns if name not in found]:
            raise UserError(
                f"{path}: no column {', '.join(missing)}. Found {', '.join(found) or 'no header'}; "
                f"expected {expected or ', '.join(columns)}."
            )
        for row in reader:
            yield reader.line_num, row


@contextlib.contextmanager
def plain_read_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns what goes wrong in reading a table into a UserError."""
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table in UTF-8: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def hash_files(paths: Iterable[pathlib.Path]) -> str:
    """A hash of the contents of files; where they lie and their order do not matter."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: (p.name, str(p))):
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def existing_folder(path: str | os.PathLike, what: str) -> str:
    """The real path of a folder; UserError if there is none, or it lies in a bucket."""
    if is_remote(path):
        raise UserError(
            f"{path}: of corpora in buckets only own_data is read. Copy it (gcloud storage cp -r), "
            "or mount the bucket, and give the path there (docs/BUCKETS.md)"
        )
    if not os.path.isdir(path):
        raise UserError(f"{path} is not a folder: expected {what}")
    return os.path.realpath(path)


def listing(names: Iterable[str]) -> str:
    """Names one a line, for messages."""
    return "".join(f"  {name}\n" for name in names) or "  (none)\n"
