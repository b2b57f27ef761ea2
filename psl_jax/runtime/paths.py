"""Paths from text: of this machine's file systems, or in buckets (gs://bucket/..., s3://...).

A local path is pathlib's; a place in a bucket has the same methods (`buckets.BucketPath`). A bucket
cannot append, rename a folder, lock, or be mapped into memory: see the functions here and `files`.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, cast

from psl_jax.runtime.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_READ = ("gs", "s3")
_REFUSED = ("gcs", "s3a", "abfs", "abfss", "az", "hdfs", "oci")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a place in a bucket. Raises UserError for one in another kind of store."""
    scheme = _SCHEME.match(os.fspath(path))
    if scheme is None:
        return False
    if scheme[1] in _REFUSED:
        raise UserError(
            f"{os.fspath(path)}: expected gs:// or s3://, {scheme[1]}:// cannot be read or "
            "written. Mount it, or copy what is needed, and give that path (docs/BUCKETS.md)"
        )
    return scheme[1] in _READ


def path_of(text: str | os.PathLike[str]) -> pathlib.Path:
    """The path that a text means; one in a bucket has the methods of pathlib.Path."""
    if not is_remote(text):
        return pathlib.Path(text)
    from psl_jax.runtime import buckets

    return cast(pathlib.Path, buckets.BucketPath(os.fspath(text)))


def absolute(text: str | os.PathLike[str]) -> pathlib.Path:
    """The path that a text means, wherever this process goes; links are not followed."""
    return path_of(text if is_remote(text) else os.path.abspath(text))


def remove_tree(path: str | os.PathLike[str], ignore_errors: bool = False) -> None:
    """Deletes a folder and what is in it."""
    place = path_of(path)
    if is_remote(place):
        place.remove_tree()  # type: ignore[attr-defined]
    else:
        shutil.rmtree(place, ignore_errors)


@contextlib.contextmanager
def local_copy(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A file or folder of this machine with the contents of `path`, within `with`.

    What lies in a bucket is copied, under its own name, into a temporary folder.
    """
    place = path_of(path)
    if not is_remote(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="psl_jax-") as folder:
        copy = pathlib.Path(folder) / place.name
        place.download(copy)  # type: ignore[attr-defined]
        yield copy


def read_ranges(paths: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """The bytes from `starts[i]` to `ends[i]` of each object in a bucket, asked for at once."""
    from psl_jax.runtime import buckets

    if not paths:
        return []
    store = buckets.file_system(paths[0].partition(":")[0])
    ranges: list[bytes] = store.cat_ranges(list(paths), list(starts), list(ends), on_error="raise")
    return ranges


def open_ranges(path: str | os.PathLike[str]) -> io.RawIOBase:
    """A file that is opened for reading; of an object in a bucket each read asks for its bytes."""
    if not is_remote(path):
        return open(path, "rb", buffering=0)
    return _ObjectOfRanges(os.fspath(path))


class _ObjectOfRanges(io.RawIOBase):
    """An object in a bucket. Its errors are UserErrors: OSErrors mean a damaged file to readers."""

    def __init__(self, path: str):
        self._path, self._place = path, 0
        self._size = path_of(path).stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        (content,) = read_ranges([self._path], [self._place], [end])
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def make_printable(name: str) -> str:
    """Makes a file's name printable text; of what is no UTF-8 the bytes are written as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
