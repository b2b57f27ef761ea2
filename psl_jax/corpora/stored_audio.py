"""Where the audio of a clip may lie: a file, a tar, a parquet or an HDF5 file.

Each is a small picklable reference that any thread, process or Beam worker can decode. Open
archives are kept by the worker that reads them and never travel.
"""

import atexit
import collections
import dataclasses
import functools
import io
import math
import threading
from typing import Any

import numpy as np

from psl_jax.audio.decoding import Audio, check_length, decode, decode_blocks, make_audio
from psl_jax.audio.readers import DecodeError, format_one_line
from psl_jax.audio.segments import SAMPLE_RATE, tick_shape
from psl_jax.runtime.paths import is_remote, open_ranges

_OPEN_RECORDINGS = 16  # as many as threads may read at a time
_KEPT_SAMPLES = 1 << 23  # ticks of each, 9 minutes
_OPEN_ARCHIVES = 64  # kept open by each process; PANNs packs AudioSet into 41
_OPEN_GROUPS = 3  # rows come in order: one that ends, one that begins
_PARQUET_BATCH = 16  # rows decoded at once: their audio is in memory
_KEPT_BYTES = 64 << 20  # of rows that were passed and not asked for yet, in each group


@dataclasses.dataclass(frozen=True, slots=True)
class FileAudio:
    """An audio file."""

    path: str

    def decode(self, max_seconds: float = math.inf, rate: int = SAMPLE_RATE) -> Audio:
        return decode(self.path, max_seconds, rate)


@dataclasses.dataclass(frozen=True, slots=True)
class RecordingPart:
    """`count` ticks from tick `first` on of a long audio file, which is decoded once for all."""

    path: str
    first: int
    count: int

    def decode(self, max_seconds: float = math.inf, rate: int = SAMPLE_RATE) -> Audio:
        with _opening:
            recording = _open_recording(self.path, rate)
        samples = recording.read(self.first, self.count)
        check_length(len(samples))
        return Audio(samples)


@dataclasses.dataclass(frozen=True, slots=True)
class TarAudio:
    """An audio file inside an uncompressed tar: `size` bytes from `offset`."""

    path: str
    offset: int
    size: int

    def decode(self, max_seconds: float = math.inf, rate: int = SAMPLE_RATE) -> Audio:
        try:
            with open_ranges(self.path) as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DecodeError("unreadable", f"{self.path}: {format_one_line(error)}") from error
        if content is None or len(content) < self.size:
            raise DecodeError("truncated", f"{self.path} ends inside it")
        return decode(io.BytesIO(content), max_seconds, rate)


@dataclasses.dataclass(frozen=True, slots=True)
class ParquetAudio:
    """An audio file in row `row` of a row group; `column` is a path, such as "audio.bytes"."""

    path: str
    column: str
    group: int
    row: int

    def decode(self, max_seconds: float = math.inf, rate: int = SAMPLE_RATE) -> Audio:
        try:
            with _opening:
                group = _parquet_group(self.path, self.column, self.group)
            content = group.value(self.row)
        except OSError as error:  # pyarrow's own errors are OSErrors and ValueErrors
            raise DecodeError("unreadable", f"{self.path}: {error}") from error
        except ValueError as error:
            raise DecodeError("undecodable", f"{self.path}: {error}") from error
        if not content:
            raise DecodeError("empty", f"row {self.row} of {self.path} holds no audio")
        if not isinstance(content, bytes):
            detail = f"row {self.row} of {self.path} holds no bytes, but {type(content).__name__}"
            raise DecodeError("undecodable", detail)
        return decode(io.BytesIO(content), max_seconds, rate)


@dataclasses.dataclass(frozen=True, slots=True)
class Hdf5Audio:
    """int16 samples in an HDF5 file: the data set `key`, or one row of it."""

    path: str
    key: str
    row: int | None
    rate: int  # of the samples, Hz
    seconds: float | None = None  # where zeros begin that only pad the row

    def decode(self, max_seconds: float = math.inf, rate: int = SAMPLE_RATE) -> Audio:
        try:
            with _opening:
                data = _hdf5_file(self.path)[self.key]
            samples = np.asarray(data[()] if self.row is None else data[self.row])
        except (OSError, LookupError) as error:
            raise DecodeError("unreadable", f"{self.path}: {error}") from error
        if not len(samples):
            raise DecodeError("empty", f"{self.key} of {self.path} has no samples")
        if samples.dtype != np.int16 or samples.ndim != 1:
            form = f"{samples.dtype} {list(samples.shape)}"
            raise DecodeError("undecodable", f"{self.key}: expected int16 [samples], found {form}")
        if self.seconds is not None:
            end = round(self.seconds * self.rate)
            if not samples[end:].any():
                samples = samples[:end]
        return make_audio(samples, self.rate, max_seconds, rate)


StoredAudio = FileAudio | RecordingPart | TarAudio | ParquetAudio | Hdf5Audio

_opening = threading.Lock()  # else several threads would open the same archive


class _OpenRecording:
    """A recording read forward; the last minutes are kept, what is before is read anew."""

    def __init__(self, path: str, rate: int):
        self._path, self._rate = path, rate
        self._lock = threading.Lock()
        self._restart()

    def read(self, first: int, count: int) -> np.ndarray:
        """int16 audio of `count` ticks, or fewer at the end. Raises DecodeError for damage."""
        with self._lock:
            if self._kept and first < self._kept[0][0]:
                self._restart()
            while self._end < first + count and not self._is_read:
                self._advance(first)
            if self._error is not None and self._end < first + count:
                raise self._error
            parts = [
                block[max(first - start, 0) : first + count - start]
                for start, block in self._kept
                if start < first + count and start + len(block) > first
            ]
            return np.concatenate([np.zeros((0, *tick_shape(self._rate)), np.int16), *parts])

    def _restart(self) -> None:
        self._blocks = decode_blocks(self._path, rate=self._rate)
        self._kept: collections.deque[tuple[int, np.ndarray]] = collections.deque()
        self._end = 0
        self._is_read = False
        self._error: DecodeError | None = None

    def _advance(self, needed: int) -> None:
        """Reads one more block; samples from `needed` on are kept."""
        try:
            block = next(self._blocks, None)
        except DecodeError as error:
            self._error, block = error, None
        if block is None:
            self._is_read = True
            return
        self._kept.append((self._end, block))
        self._end += len(block)
        kept_from = min(needed, self._end - _KEPT_SAMPLES)
        while self._kept[0][0] + len(self._kept[0][1]) <= kept_from:
            self._kept.popleft()


_open_recording = functools.lru_cache(_OPEN_RECORDINGS)(_OpenRecording)
# Resamplers that are left at Python's end print pages of warnings.
atexit.register(_open_recording.cache_clear)


@functools.lru_cache(_OPEN_ARCHIVES)
def _hdf5_file(path: str) -> Any:
    import h5py

    return h5py.File(path, "r")  # lets one thread read at a time


class _ParquetGroup:
    """One row group read forward, a few rows at a time: rows have no place of their own in it.

    A row that was passed is kept until it is asked for, or until _KEPT_BYTES of newer ones are:
    then asking for it starts from the group's beginning.
    """

    def __init__(self, path: str, column: str, group: int):
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(
            open_ranges(path) if is_remote(path) else path, pre_buffer=False, buffer_size=1 << 20
        )
        self._column, self._group = column, group
        self._lock = threading.Lock()
        self._restart()

    def value(self, row: int) -> Any:
        with self._lock:
            if row < self._next and row not in self._kept:
                self._restart()
            while row not in self._kept:
                self._advance()
            return self._kept.pop(row)

    def _restart(self) -> None:
        self._batches = self._file.iter_batches(
            _PARQUET_BATCH, row_groups=[self._group], columns=[self._column], use_threads=False
        )
        self._kept: dict[int, Any] = {}
        self._next = 0

    def _advance(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(f"row group {self._group} has only {self._next} rows")
        column = batch.column(0)
        if "." in self._column:
            column = column.field(self._column.split(".", 1)[1])
        values = column.to_pylist()
        size = sum(len(value or b"") for value in self._kept.values())
        while self._kept and size > _KEPT_BYTES:
            size -= len(self._kept.pop(next(iter(self._kept))) or b"")  # the oldest comes first
        self._kept |= enumerate(values, self._next)
        self._next += len(values)


_parquet_group = functools.lru_cache(_OPEN_GROUPS)(_ParquetGroup)
