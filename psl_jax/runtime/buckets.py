"""Paths in Google Cloud Storage (gs://) and S3 (s3://): universal-pathlib's, made safe.

The file systems below are gcsfs and s3fs, which find their credentials where Google's and Amazon's
own tools do.
"""

import contextlib
import errno
import functools
import glob
import io
import logging
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import IO, Any

from upath.implementations.cloud import CloudPath

from psl_jax.runtime.errors import MissingPackageError, UnreachableError, UserError

# TensorFlow's gs:// would keep what it once saw for a minute; other processes write, too.
os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")
# gcsfs would first ask by gRPC which kind a bucket is, and wait a minute where that is closed.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_EXTRAS = {"gs": "gcs", "s3": "s3"}
_STORES = {"gs": "Google Cloud Storage", "s3": "S3"}
_LOGINS = {"gs": "gcloud auth application-default login", "s3": "aws configure"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "gs": {"finalize_on_close": True},
    "s3": {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 6}}},
}
_LIBRARIES = ("gcsfs", "aiohttp", "google.auth", "botocore", "aiobotocore")
_WRITES = ("pipe_file", "put_file", "put")


class BucketPath(CloudPath):
    """gs://bucket/place or s3://bucket/place, with the methods of pathlib.Path.

    Objects are read, written and replaced whole; a prefix of an object's name is a folder. Errors
    besides a missing object are UserErrors that name the place and say what to do.
    """

    # What a listing said of this place; it is not asked for again.
    _listed: dict[str, Any] | None = None

    def __new__(cls, *parts: Any, **options: Any) -> "BucketPath":
        return object.__new__(cls)  # not a class that universal-pathlib chooses by the protocol

    @classmethod
    def _fs_factory(cls, urlpath: str, protocol: str, storage_options: Any) -> Any:
        return file_system(protocol)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def bucket(self) -> str:
        return self.path.partition("/")[0]

    def _info(self) -> dict[str, Any] | None:
        if self._listed is None:
            with contextlib.suppress(FileNotFoundError):
                info: dict[str, Any] = self.fs.info(self.path)
                return info
        return self._listed

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._info() is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return (info := self._info()) is not None and info["type"] == "file"

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return (info := self._info()) is not None and info["type"] == "directory"

    def iterdir(self) -> Iterator["BucketPath"]:
        """Sorted. Raises FileNotFoundError where there is nothing."""
        yield from self._places(self.fs.ls(self.path, detail=True))

    def glob(self, pattern: str, **options: Any) -> Iterator["BucketPath"]:
        """Objects and folders that match, sorted."""
        names = self.fs.glob(f"{glob.escape(self.path)}/{pattern}", detail=True)
        yield from self._places(names.values())

    def rglob(self, pattern: str, **options: Any) -> Iterator["BucketPath"]:
        """Objects at any depth whose name matches, sorted."""
        names = self.fs.find(self.path, detail=True)
        yield from (
            place for place in self._places(names.values()) if fnmatchcase(place.name, pattern)
        )

    def _places(self, infos: Any) -> list["BucketPath"]:
        """Sorted; without the empty objects that stand for folders."""
        places = []
        for info in sorted(infos, key=lambda info: info["name"]):
            place = self.with_segments(info["name"].rstrip("/"))
            if place != self and not (info["name"].endswith("/") and info["type"] == "file"):
                place._listed = info
                places.append(place)
        return places

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:  # type: ignore[override]
        """The whole object, in memory; for reading only: see `files.atomic_open`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self}: opened with {mode!r}; objects are written whole")
        content = io.BytesIO(self.read_bytes())
        if mode == "rb":
            return content
        encoding = options.pop("encoding", None) or "utf-8"
        return io.TextIOWrapper(content, encoding, **options)

    def read_bytes(self) -> bytes:
        content: bytes = self.fs.cat_file(self.path)
        return content

    def read_text(self, encoding: str | None = "utf-8", **options: Any) -> str:  # type: ignore[override]
        with self.open(encoding=encoding, **options) as file:
            return str(file.read())

    def download(self, target: str | os.PathLike[str]) -> None:
        """Copies an object to the file `target`, or what lies below a folder into that folder."""
        self.fs.get(self.path, os.fspath(target), recursive=self.is_dir())

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: an object needs no folder."""

    def write_bytes(self, data: bytes) -> int:
        self.fs.pipe_file(self.path, data)
        return len(data)

    def write_text(self, data: str, encoding: str | None = "utf-8", **options: Any) -> int:  # type: ignore[override]
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def upload(self, source: str | os.PathLike[str]) -> None:
        """Makes the object of a local file, or an object of each file below a local folder."""
        if os.path.isdir(source):
            self.fs.put(os.path.join(source, ""), self.path, recursive=True)
        else:
            self.fs.put_file(os.fspath(source), self.path)

    def remove_tree(self) -> None:
        """Deletes everything below; nothing where there is nothing."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.path, recursive=True)


def check(place: str | os.PathLike[str]) -> None:
    """Raises UserError where the bucket of a place is not there or cannot be read: one request."""
    path = BucketPath(os.fspath(place))
    if not path.bucket:
        raise UserError(f"{os.fspath(place)}: expected {path.protocol}://BUCKET/PLACE")
    store = path.fs._file_system
    with _explained_errors(f"{path.protocol}://{path.path}", is_written=True):
        if path.protocol == "s3":
            store.call_s3("list_objects_v2", Bucket=path.bucket, MaxKeys=1)
        else:
            store.call("GET", "b/{}/o", path.bucket, maxResults=1, fields="kind", json_out=True)


@functools.cache
def file_system(protocol: str) -> Any:
    """The file system of a store. It remembers no listings: other processes write, too."""
    import fsspec

    try:
        __import__(_PACKAGES[protocol])
    except ImportError as error:
        extra = _EXTRAS[protocol]
        raise MissingPackageError(f"{protocol}://", f"{error.name}", extra) from error
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what we explain
    options = {"use_listings_cache": False} | _OPTIONS[protocol]
    return _Explained(protocol, fsspec.filesystem(protocol, **options))


class _Explained:
    """A file system whose methods raise FileNotFoundError, or a UserError that says what to do."""

    def __init__(self, protocol: str, file_system: Any):
        self._protocol, self._file_system = protocol, file_system

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._file_system, name)
        return functools.partial(self._call, name, attribute) if callable(attribute) else attribute

    def _call(self, name: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        named = arguments[1 if name.startswith("put") else 0]
        place = named if isinstance(named, str) else named[0]
        place = f"{self._protocol}://{place.removeprefix(f'{self._protocol}://')}"
        with _explained_errors(place, is_written=name in _WRITES):
            return method(*arguments, **options)


@contextlib.contextmanager
def _explained_errors(place: str, *, is_written: bool = False) -> Iterator[None]:
    """Turns errors besides FileNotFoundError into a UserError about `place`.

    is_written: what is not found then is the bucket.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not is_written:
            raise FileNotFoundError(errno.ENOENT, "no such object", place) from error
        protocol, _, bucket, *_ = place.split("/")
        raise UserError(
            f"{place}: there is no bucket {protocol}//{bucket}, or it is not ours to see. Make it, "
            "or correct the name (docs/BUCKETS.md)"
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and not _is_of_a_store(error):
            raise
        raise _explain(place, error) from error


def error_within(error: BaseException | None) -> UserError | None:
    """The explained error where `error`, or what caused it, comes from a store's library."""
    while error is not None:
        if isinstance(error, Exception) and _is_of_a_store(error):
            return _explain("a bucket", error)
        error = error.__cause__ or error.__context__
    return None


def _is_of_a_store(error: Exception) -> bool:
    return type(error).__module__.startswith(_LIBRARIES)


def _explain(place: str, error: Exception) -> UserError:
    """What an error of a store's library means, and what to do."""
    module, name = type(error).__module__, type(error).__name__
    protocol = "s3" if place.startswith("s3:") or "botocore" in module else "gs"
    store, text = _STORES[protocol], f"{' '.join(str(error).split()):.200}"
    if (
        isinstance(error, PermissionError)
        or getattr(error, "code", None) in (401, 403)
        or module.startswith("google.auth")
        or any(word in name + text for word in ("Credentials", "Forbidden", "not have storage."))
    ):
        return UserError(
            f"{place}: no permission, or no credentials for {store} ({text}). Log in "
            f"({_LOGINS[protocol]}), let the account read and write objects of the bucket, or "
            "correct the name (docs/BUCKETS.md)"
        )
    return UnreachableError(
        f"{place}: {store} cannot be reached ({name}: {text}). Is there a network?"
    )
