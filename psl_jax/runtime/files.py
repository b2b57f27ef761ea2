"""Files that are either whole or not there, on this machine or in a bucket."""

import contextlib
import csv
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from psl_jax.runtime.errors import DamagedFileError
from psl_jax.runtime.paths import is_remote, path_of

# What NumPy raises for a damaged .npz, or another file, beside OSErrors.
NPZ_ERRORS = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str], mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`, renamed to it when the block ends without an error.

    An object in a bucket is written to a temporary file of this machine, and sent then.
    """
    path = path_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _renamed(path, f".psl_jax-{uuid.uuid4().hex}.tmp") as temporary,
        open(temporary, mode, **kwargs) as file,
    ):
        yield file


def atomic_path(
    path: str | os.PathLike[str], mark: str = ""
) -> contextlib.AbstractContextManager[pathlib.Path]:
    """A temporary path, renamed to `path` as that of `atomic_open`, for writers that open files.

    Its name depends on `path` and `mark` alone, so that what a killed process left is overwritten;
    `mark` tells writers apart that may write the same file at once.
    """
    path = path_of(path)
    return _renamed(path, f".{path.name}.{mark}tmp")


@contextlib.contextmanager
def _renamed(path: pathlib.Path, temporary_name: str) -> Iterator[pathlib.Path]:
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="psl_jax-") as folder:
            local = pathlib.Path(folder) / path.name
            yield local
            if local.exists():
                path.upload(local)  # type: ignore[attr-defined]
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path  # a device or a pipe, such as /dev/stdout, would be gone
        return
    temporary = path.with_name(temporary_name)
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file of this machine."""
    with atomic_path(target) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, temporary)


def copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies all files below a folder of this machine to the same places below `target`."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy(path, target / path.relative_to(source))


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
    with atomic_open(path) as file:
        json.dump(value, file, indent=indent)
        file.write("\n")


def read_json(path: str | os.PathLike[str], form: type = dict) -> Any:
    """The value of a JSON file. Raises DamagedFileError where it is no `form`, and OSError."""
    try:
        value = json.loads(path_of(path).read_text(encoding="utf-8"))
        if not isinstance(value, form):
            raise ValueError(f"a {type(value).__name__}, expected a {form.__name__}")
    except ValueError as error:
        raise DamagedFileError(
            f"{path} is damaged, it is no such JSON ({error}): restore it, or delete it and give "
            "the command again that made it"
        ) from error
    return value


def find_json(path: str | os.PathLike[str], form: type = dict) -> Any:
    """The value of a JSON file, see `read_json`; None where there is no file."""
    return read_json(path, form) if path_of(path).exists() else None


def compute_sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's contents, in hexadecimal digits. Raises OSError."""
    with path_of(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sizes(paths: Sequence[pathlib.Path]) -> list[int | None]:
    """Bytes of each of some files, None where it is not; in a bucket each folder is listed once."""
    if not paths or not is_remote(paths[0]):
        # os.path: a name that is too long is none of a file.
        return [path.stat().st_size if os.path.exists(path) else None for path in paths]
    sizes: dict[pathlib.Path, int] = {}
    for folder in {path.parent for path in paths}:
        with contextlib.suppress(FileNotFoundError):
            sizes |= {entry: entry.stat().st_size for entry in folder.iterdir() if entry.is_file()}
    return [sizes.get(path) for path in paths]


def exist(paths: Sequence[pathlib.Path]) -> list[bool]:
    """Whether each of some files is there, see `read_sizes`."""
    return [size is not None for size in read_sizes(paths)]


def write_csv(
    path: str | os.PathLike[str], header: Iterable[str], rows: Iterable[Iterable[Any]]
) -> None:
    with atomic_open(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def as_json(value: Any) -> Any:
    """`value` as it would be read back from a JSON file: tuples become lists."""
    return json.loads(json.dumps(value))


def json_digest(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
