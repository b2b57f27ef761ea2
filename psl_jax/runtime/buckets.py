"""Places in Google Cloud Storage, by the package gcsfs: what our own files need of them.

Orbax writes arrays by TensorStore and the files beside them as epath does it, tf.data reads records
with TensorFlow's own gs://; all of them find their credentials in the same places.
"""

import contextlib
import errno
import functools
import io
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from etils.epath import gpath

from psl_jax.runtime.errors import UnreachableError, UserError

_LARGE = 8 << 20  # bytes; from here on an object is sent in pieces

# Set before epath and TensorFlow look. epath would import TensorFlow, which takes seconds, and
# where only JAX is there is none. What other processes write is to be seen.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")
# gcsfs would ask by gRPC first of what kind a bucket is, and wait a minute where that is closed.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


class Stat(NamedTuple):
    """What is known of an object, under the names of os.stat."""

    st_size: int
    st_mtime: float


class BucketPath(gpath.PosixGPath):
    """gs://bucket/place, with the methods of pathlib.Path that this package uses.

    An object appears whole when it is written, and is replaced whole. There are no folders: what
    has objects below it is one. What goes wrong besides a missing object is a UserError, which
    names the place: no permission, no such bucket, no network, no credentials.
    """

    _told: dict[str, Any] | None = None  # of one that was listed, what was told of it

    @property
    def bucket(self) -> str:
        return self.parts[2] if len(self.parts) > 2 else ""

    # --- looking ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        return self._info() is not None

    def is_file(self) -> bool:
        return (found := self._info()) is not None and found["type"] == "file"

    def is_dir(self) -> bool:
        return (found := self._info()) is not None and found["type"] == "directory"

    def stat(self) -> Stat:
        if (found := self._info()) is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        made = found.get("mtime")
        return Stat(int(found["size"]), made.timestamp() if made else 0.0)

    def iterdir(self) -> Iterator["BucketPath"]:
        """What is told of each with the listing is not asked for again.

        Raises FileNotFoundError where there is nothing.
        """
        with self._plain_errors():
            found = _file_system().ls(str(self), detail=True)
        yield from (place for place in self._listed(found) if place != self)

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Objects and folders that match; `**` is not known."""
        with self._plain_errors():
            names = _file_system().glob(f"{self}/{pattern}")
        yield from (self._new(f"gs://{name}") for name in sorted(names))

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """Objects at any depth whose name matches."""
        with self._plain_errors():
            found = _file_system().find(str(self), detail=True)
        yield from (place for place in self._listed(found.values()) if place.match(pattern))

    def _listed(self, found: Iterable[dict[str, Any]]) -> list["BucketPath"]:
        """Of what was listed, sorted; empty objects that stand for folders are left out."""
        places = []
        for told in sorted(found, key=lambda told: told["name"]):
            if not (told["name"].endswith("/") and told["type"] == "file"):
                place = self._new(f"gs://{told['name'].rstrip('/')}")
                place._told = told
                places.append(place)
        return places

    # --- reading ---------------------------------------------------------------------------------

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """The whole object, in memory; for reading only: see `files.atomic_open`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self}: opened with {mode!r}; objects are written whole")
        content = io.BytesIO(self.read_bytes())
        if mode == "rb":
            return content
        return io.TextIOWrapper(content, **({"encoding": "utf-8"} | options))

    def read_bytes(self) -> bytes:
        with self._plain_errors():
            return _file_system().cat_file(str(self))

    def read_text(self, encoding: str | None = "utf-8", **options: Any) -> str:
        with self.open(encoding=encoding, **options) as file:
            return file.read()

    def download(self, target: str | os.PathLike) -> None:
        """Copies an object to the file `target`, or what lies below a folder into that folder."""
        if self.is_file():
            with self._plain_errors():
                _file_system().get_file(str(self), os.fspath(target))
            return
        found = list(self.rglob("*"))
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        for place in found:
            copy = pathlib.Path(target, *place.relative_to(self).parts)
            copy.parent.mkdir(parents=True, exist_ok=True)
            place.download(copy)

    # --- writing ---------------------------------------------------------------------------------

    def mkdir(self, mode: Any = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: an object needs no folder."""

    def write_bytes(self, data: bytes) -> int:
        with self._plain_errors(writes=True):
            _file_system().pipe_file(str(self), data)
        return len(data)

    def write_text(self, data: str, encoding: str = "utf-8", **options: Any) -> int:
        return self.write_bytes(data.encode(encoding))

    def upload(self, source: str | os.PathLike) -> None:
        """Makes the object of the contents of a local file."""
        source = pathlib.Path(source)
        if source.stat().st_size < _LARGE:
            self.write_bytes(source.read_bytes())
            return
        with self._plain_errors(writes=True):
            _file_system().put_file(os.fspath(source), str(self))

    def rename(self, target: str | os.PathLike) -> "BucketPath":
        """Copies an object inside the bucket and deletes the first: it is never not there."""
        with self._plain_errors(writes=True):
            _file_system().cp_file(str(self), os.fspath(target))
            _file_system().rm_file(str(self))
        return self._new(target)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._plain_errors():
                _file_system().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Deletes all that lies below; nothing where there is nothing."""
        with self._plain_errors(writes=True):
            for name in _file_system().find(str(self)):
                with contextlib.suppress(FileNotFoundError):
                    _file_system().rm_file(name)

    # --- errors ----------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any] | None:
        if self._told is not None:
            return self._told
        try:
            with self._plain_errors():
                return _file_system().info(str(self))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _plain_errors(self, writes: bool = False) -> Iterator[None]:
        """Turns what gcsfs raises besides FileNotFoundError into a UserError about this place.

        writes: what is not found then is the bucket.
        """
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            if writes:
                raise self._no_bucket() from error
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from error
        except Exception as error:
            if not isinstance(error, OSError) and not _is_of_the_way(error):
                raise
            raise _in_words(self, error) from error

    def _no_bucket(self) -> UserError:
        return UserError(
            f"{self}: there is no bucket gs://{self.bucket}, or it is not ours to see. Make it "
            f"(gcloud storage buckets create gs://{self.bucket}), or mend the name"
        )


def check(place: str | os.PathLike) -> None:
    """Raises UserError where the bucket of a place is not there or cannot be read: one request."""
    path = BucketPath(place)
    if not path.bucket:
        raise UserError(f"{os.fspath(place)}: expected gs://BUCKET/PLACE")
    try:
        with path._plain_errors():
            _file_system().call(
                "GET", "b/{}/o", path.bucket, maxResults=1, fields="kind", json_out=True
            )
    except FileNotFoundError as error:
        raise path._no_bucket() from error


def read_ranges(places: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """See `paths.read_ranges`; raises FileNotFoundError."""
    if not places:
        return []
    with BucketPath(places[0])._plain_errors():
        return _file_system().cat_ranges(list(places), list(starts), list(ends), on_error="raise")


@functools.cache
def _file_system() -> Any:
    """The gcsfs file system: the very one that epath uses, which remembers no listings.

    What other processes write is to be seen.
    """
    try:
        import fsspec
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"gs:// needs the package {error.name}: pip install 'psl_jax[gcs]'"
        ) from error
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # tracebacks of what is told in words
    for name in ("gcs", "gs"):
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem("gcs", finalize_on_close=True)


def error_within(error: BaseException | None) -> UserError | None:
    """The error in words where it, or what caused it, is one of the way to a bucket."""
    while error is not None:
        if isinstance(error, Exception) and _is_of_the_way(error):
            return _in_words("a bucket", error)
        error = error.__cause__ or error.__context__
    return None


def _is_of_the_way(error: Exception) -> bool:
    return type(error).__module__.startswith(("gcsfs", "aiohttp", "google.auth"))


def _in_words(place: object, error: Exception) -> UserError:
    """An error of gcsfs, aiohttp or google-auth, and what to do."""
    kind, text = type(error).__name__, f"{' '.join(str(error).split()):.200}"
    code = getattr(error, "code", None)
    if code in (401, 403) or "Forbidden" in text or "does not have storage." in text:
        return UserError(
            f"{place}: no permission. Log in with `gcloud auth application-default login`, give "
            "the machine's service account a role on the bucket (roles/storage.objectUser), or "
            f"mend the name ({text})"
        )
    if type(error).__module__.startswith("google.auth"):
        return UserError(
            f"{place}: no credentials for Google Cloud: `gcloud auth application-default login`, "
            f"or set GOOGLE_APPLICATION_CREDENTIALS ({text})"
        )
    return UnreachableError(
        f"{place}: Google Cloud Storage cannot be reached ({kind}: {text}). Is there a network?"
    )
