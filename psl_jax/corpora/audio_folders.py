"""Finds all audio below a folder by name: files, and what tars, parquet and HDF5 files hold."""

import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.corpus import Problem
from psl_jax.corpora.stored_audio import FileAudio, Hdf5Audio, ParquetAudio, StoredAudio, TarAudio
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import is_remote, make_printable, open_ranges, path_of

HDF5_SUFFIXES = frozenset({".h5", ".hdf5", ".hdf"})
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

_PANNS_RATE = 32_000
_ID_COLUMNS = ("video_id", "ytid", "youtube_id", "id", "__key__")
_AUDIO_COLUMNS = ("audio", "flac", "wav", "mp3")
_HEADER_BYTES = 2048  # read at each member of a tar, whose header has 512


class FoundAudio(NamedTuple):
    """Some audio: its name without folder and extension, what to call it, and where it is."""

    stem: str
    name: str
    audio: StoredAudio


@dataclasses.dataclass
class Scan:
    """Walks a folder once; `problems` are what could not be looked into."""

    root: str
    problems: list[Problem] = dataclasses.field(default_factory=list)
    first_names: list[str] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[FoundAudio]:
        for path in walk_files(self.root):
            for file in self._look_into(path):
                if len(self.first_names) < 5:
                    self.first_names.append(file.name)
                yield file

    def _look_into(self, path: str) -> Iterator[FoundAudio]:
        lower = path.lower()
        suffix = os.path.splitext(lower)[1]
        name = make_printable(os.path.relpath(path, self.root))
        try:
            if suffix in AUDIO_SUFFIXES:
                yield FoundAudio(_stem(path), name, FileAudio(path))
            elif suffix == ".tar":
                yield from _list_tar_members(path, name)
            elif suffix == ".parquet":
                yield from _list_parquet_rows(path, name)
            elif suffix in HDF5_SUFFIXES:
                yield from _list_hdf5_waveforms(path, name)
            elif lower.endswith(COMPRESSED_TARS):
                detail = "a compressed tar gives no access to single files; unpack it"
                self.problems.append(Problem(name, "unreadable", detail))
        except (OSError, tarfile.TarError, ValueError) as error:
            self.problems.append(Problem(name, "unreadable", " ".join(str(error).split())))


def walk_files(folder: str) -> Iterator[str]:
    """All files below a folder (links are followed) or in a bucket, in the order of their names."""
    if is_remote(folder):
        for path in path_of(folder).rglob("*"):
            if path.is_file() and not path.name.startswith("._"):
                yield os.fspath(path)
        return
    seen = set()
    for current, folders, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:  # a link in a circle
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        # ._ is what macOS leaves in archives.
        yield from (os.path.join(current, n) for n in sorted(names) if not n.startswith("._"))


def _refuse_unreadable(error: OSError) -> None:
    """Raises UserError for a folder, but for those of the system on a disk, such as .Trash-0."""
    if not os.path.basename(error.filename).startswith((".", "lost+found")):
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}. Make it readable, or move it away"
        )


def _stem(name: str) -> str:
    """The name without folder and extension; what follows another "." belongs to it."""
    base = os.path.basename(name)
    stem, suffix = os.path.splitext(base)
    return stem if suffix.lower() in AUDIO_SUFFIXES else base


def _list_tar_members(path: str, name: str) -> Iterator[FoundAudio]:
    """Audio files in a tar, as webdataset shards hold them beside their JSON and text."""
    with (
        io.BufferedReader(open_ranges(path), _HEADER_BYTES) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        for member in archive:
            if member.isfile() and os.path.splitext(member.name.lower())[1] in AUDIO_SUFFIXES:
                audio = TarAudio(path, member.offset_data, member.size)
                yield FoundAudio(_stem(member.name), f"{name}:{make_printable(member.name)}", audio)


def _list_parquet_rows(path: str, name: str) -> Iterator[FoundAudio]:
    """Rows with an id and an embedded audio file."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPackageError(path, "pyarrow", "corpora") from error
    with open_ranges(path) as opened, parquet.ParquetFile(opened) as file:
        key, column = _find_parquet_columns(file.schema_arrow, path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=[key]).flatten().column(0)
            for row, value in enumerate(ids.to_pylist()):
                audio = ParquetAudio(path, column, group, row)
                yield FoundAudio(_stem(str(value or "")), f"{name}:{value}", audio)


def _find_parquet_columns(schema: Any, path: str) -> tuple[str, str]:
    """Paths of the id and of the audio bytes."""
    names = schema.names
    audio = next((name for name in _AUDIO_COLUMNS if name in names), None)
    fields = () if audio is None else {f.name for f in schema.field(audio).flatten()}
    key = next((name for name in _ID_COLUMNS if name in names), None)
    if key is None and f"{audio}.path" in fields:
        key = f"{audio}.path"
    if audio is None or key is None:
        raise ValueError(
            f"columns {', '.join(names)}: expected an id ({', '.join(_ID_COLUMNS)}) and the audio "
            f"file ({', '.join(_AUDIO_COLUMNS)})"
        )
    return key, f"{audio}.bytes" if f"{audio}.bytes" in fields else audio


def _list_hdf5_waveforms(path: str, name: str) -> Iterator[FoundAudio]:
    """Waveforms in the layout of PANNs (`audio_name`, `waveform`) or of the PSL code (by name).

    A file that does not state its rate is of 32 kHz in the former, and of 16 kHz in the latter.
    """
    if is_remote(path):
        raise ValueError("HDF5 in a bucket cannot be read: copy it, or mount the bucket")
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError(path, "h5py", "corpora") from error
    with h5py.File(path, "r") as file:
        rate = int(file.attrs.get("sample_rate", 0))  # PANNs' files state it
        if "audio_name" in file and "waveform" in file:
            for row, value in enumerate(file["audio_name"][()]):
                label = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                if label.strip("\0 "):  # an empty name: the clip was missing when it was packed
                    audio = Hdf5Audio(path, "waveform", row, rate or _PANNS_RATE)
                    yield FoundAudio(_stem(label), f"{name}:{label}", audio)
            return
        for key in _list_datasets(file):
            audio = Hdf5Audio(path, key, None, rate or SAMPLE_RATE)
            yield FoundAudio(_stem(key), f"{name}:{key}", audio)


def _list_datasets(group: Any, prefix: str = "") -> Iterator[str]:
    """Paths of all data sets; names with "/" have become groups. Contents are not opened."""
    import h5py

    for key in group:
        if group.get(key, getclass=True) is h5py.Group:
            yield from _list_datasets(group[key], f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}"
