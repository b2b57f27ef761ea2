"""Reads TFRecord files of `tf.train.Example`, a record at a time.

Local files are read directly: a 10 s clip costs a small part of what it takes with
`TFRecordDataset`, which copies each record several times, and on two cores that decides whether
training waits. Other file systems (`gs://...`), and machines without the crc32c package, are read
by tf.data. Both check the records' checksums.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

try:
    import crc32c
except ImportError:
    crc32c = None  # type: ignore[assignment, unused-ignore]

_HEADER_BYTES, _CHECKSUM_BYTES = 12, 4
FRAMING_BYTES = _HEADER_BYTES + _CHECKSUM_BYTES  # that a record takes besides its contents
_HEAD_BYTES = 512  # of a record, read ahead to find its audio: the other features are small
_TF_BATCH = 16  # records; one at a time costs twice as much
_BYTES_LIST_TAG = 1 << 3 | 2

_Bytes = bytes | memoryview


class DamagedFileError(Exception):
    """A file that does not hold what it should. The message says where, not which file."""


def read_records(
    path: str | os.PathLike, positions: Sequence[int], places: np.ndarray | None = None
) -> Iterator[_Bytes]:
    """Yields the serialized records number `positions` (ascending) of a file.

    places: see `record_places`; what is passed over is then not looked at.
    Raises DamagedFileError for a record that is damaged or missing, and OSError.
    """
    path = os.fspath(path)
    if not _is_read_directly(path):
        yield from _read_with_tf(path, positions)
        return
    with _LocalFile(path) as file:
        for position in positions:
            if places is None:
                file.go_to(position)
            else:
                file.jump_to(position, int(places[position]))
            yield file.record()


def read_audio(
    path: str | os.PathLike,
    positions: Sequence[int],
    rows: Iterable[np.ndarray],
    starts: Sequence[int] | None = None,
    places: np.ndarray | None = None,
) -> Iterator[tuple[str | None, int]]:
    """Reads the feature "audio" of the records number `positions` (ascending) into `rows`.

    Each row is a contiguous array; the audio goes from the file to the row's beginning without a
    copy between. A row may hold less than the audio: then it gets what begins at the sample
    `starts` (int16, default 0), and no more of the record is read: its checksum is not checked.
    Yields the feature "id" (None where it was not read) and the bytes of the whole audio.
    Raises as `read_records`.

    Args:
      places: where each record of the file begins, see `record_places`; what is passed over is
        then not looked at.
    """
    path = os.fspath(path)
    starts = [0] * len(positions) if starts is None else starts
    if not _is_read_directly(path) and places is not None and crc32c is not None:
        with _RemoteFile(path) as file:
            for position, row, start in zip(positions, rows, starts, strict=True):
                record = file.record(int(places[position]), position)
                yield _copy_audio(record, row.view(np.uint8), 2 * start)
        return
    # A record may be wanted several times.
    if not _is_read_directly(path):
        wanted = sorted(set(positions))
        records = dict(zip(wanted, _read_with_tf(path, wanted), strict=True))
        for position, row, start in zip(positions, rows, starts, strict=True):
            yield _copy_audio(records[position], row.view(np.uint8), 2 * start)
        return
    with _LocalFile(path) as file:
        for position, row, start in zip(positions, rows, starts, strict=True):
            if places is None and position >= file.number:
                file.go_to(position)
            elif places is not None:
                file.jump_to(position, int(places[position]))
            else:
                file.jump_to(0, 0)
                file.go_to(position)
            yield file.audio(row.view(np.uint8), 2 * start)


def record_places(path: str | os.PathLike) -> np.ndarray | None:
    """Where each record of a local file begins: int64 [records], from their headers alone.

    None for a file that is not read directly. Raises as `read_records`.
    """
    path = os.fspath(path)
    if not _is_read_directly(path):
        return None
    with _LocalFile(path) as file:
        return np.fromiter(file.places(), np.int64)


def bytes_features(record: _Bytes, names: tuple[str, ...]) -> list[memoryview]:
    """The values of the single-valued bytes features `names` of a serialized `tf.train.Example`.

    Raises DamagedFileError if the record is none or lacks one. Reads only what protocol buffer
    libraries write: Example {1: Features {1: map entry {1: key, 2: Feature {1: BytesList {1}}}}}.
    """
    view, found = memoryview(record), {}
    try:
        _, at = _field(view, 0, 1)
        while at < len(view):
            key, start, size, at = _entry(view, at)
            found[key] = view[start : start + size]
        if at > len(view):
            raise IndexError("the last entry passes the end")
        return [found[name.encode()] for name in names]
    except IndexError as error:
        raise DamagedFileError("a record is no tf.train.Example") from error
    except KeyError as error:
        raise DamagedFileError(f"a record has no feature {error}") from error


def _is_read_directly(path: str) -> bool:
    return crc32c is not None and "://" not in path


class _LocalFile:
    """A TFRecord file read forward, with one call to the system for each record."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size
        self._number = self._at = 0  # the next record, and where its header begins
        self._ahead = self._read_ahead()  # its header and the first bytes of its contents
        self._known_size = -1  # of the next record, once its header was looked at

    def __enter__(self) -> "_LocalFile":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    @property
    def number(self) -> int:
        """Of the next record."""
        return self._number

    def go_to(self, position: int) -> None:
        while self._number < position:
            end = self._at + _HEADER_BYTES + self._record_size() + _CHECKSUM_BYTES
            self.jump_to(self._number + 1, end)

    def jump_to(self, position: int, place: int) -> None:
        """Makes the record number `position`, which begins at `place`, the next one."""
        if (position, place) != (self._number, self._at):
            self._number, self._at, self._known_size = position, place, -1
            self._ahead = self._read_ahead()

    def places(self) -> Iterator[int]:
        """Where each record from the next one on begins."""
        while self._at < self._size:
            yield self._at
            self.go_to(self._number + 1)

    def record(self) -> memoryview:
        """The next record."""
        size = self._record_size()
        view = self._space(size)
        self._fill(self._at + _HEADER_BYTES, [view])
        self._finish(view[size:], view[:size])
        return view[:size]

    def audio(self, row: np.ndarray, first: int = 0) -> tuple[str | None, int]:
        """The id and the bytes of audio of the next record; in `row`, uint8 [n], what fits.

        Where that is not all, from the byte `first` on, the id is None and the record stays the
        next one.
        """
        size = self._record_size()
        head = self._ahead[_HEADER_BYTES : _HEADER_BYTES + size]
        clip_id, start, count = _find_audio(head)
        rest = size - start - count
        if count < 0 or rest < 0:  # too far in, or damaged
            return _copy_audio(self.record(), row, first)
        if first or count > len(row):
            wanted = row.data[: max(min(count - first, len(row)), 0)]
            if len(wanted):
                self._fill(self._at + _HEADER_BYTES + start + first, [wanted])
            return None, count
        tail = self._space(rest)
        self._fill(self._at + _HEADER_BYTES + start, [row.data[:count], tail])
        self._finish(tail[rest:], head[:start], row[:count].data, tail[:rest])
        if clip_id is None:
            clip_id = _find_id(tail[:rest])
        return clip_id.decode(errors="replace"), count

    def _read_ahead(self) -> bytes:
        return os.pread(self._file, _HEADER_BYTES + _HEAD_BYTES, self._at)

    def _record_size(self) -> int:
        """Size of the next record, from its header."""
        if self._known_size >= 0:
            return self._known_size
        header = self._ahead[:_HEADER_BYTES]
        if len(header) < _HEADER_BYTES:
            raise DamagedFileError(f"it ends after {self._number} records")
        if header[8:] != _masked_crc32c(header[:8]):
            raise DamagedFileError(f"the header of record {self._number} fails its checksum")
        size = int.from_bytes(header[:8], "little")
        if self._at + _HEADER_BYTES + size + _CHECKSUM_BYTES > self._size:
            raise DamagedFileError(f"it ends inside record {self._number}")
        self._known_size = size
        return size

    def _space(self, rest: int) -> memoryview:
        """Room for the last `rest` bytes of the next record, and what is read ahead with them."""
        end = self._at + _HEADER_BYTES + self._record_size() + _CHECKSUM_BYTES
        following = min(_HEADER_BYTES + _HEAD_BYTES, self._size - end)
        return memoryview(bytearray(rest + _CHECKSUM_BYTES + following))

    def _fill(self, offset: int, views: list[memoryview]) -> None:
        while views:
            count = os.preadv(self._file, views, offset)
            if not count:
                raise DamagedFileError(f"it ends inside record {self._number}")
            offset += count
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if views:
                views[0] = views[0][count:]

    def _finish(self, following: memoryview, *contents: _Bytes) -> None:
        """Checks the record's `contents` and goes on to the next record."""
        if following[:_CHECKSUM_BYTES] != _masked_crc32c(*contents):
            raise DamagedFileError(f"record {self._number} fails its checksum")
        self._at += _HEADER_BYTES + sum(map(len, contents)) + _CHECKSUM_BYTES
        self._number, self._known_size = self._number + 1, -1
        self._ahead = bytes(following[_CHECKSUM_BYTES:])


class _RemoteFile:
    """A TFRecord file on a file system that TensorFlow knows, read a record at a time."""

    def __init__(self, path: str):
        from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

        self._tf = tensorflow_quietly()
        self._file = self._tf.io.gfile.GFile(path, "rb")

    def __enter__(self) -> "_RemoteFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def record(self, place: int, number: int) -> bytes:
        """The record number `number`, which begins at `place`."""
        try:
            self._file.seek(place)
            header = self._file.read(_HEADER_BYTES)
            size = int.from_bytes(header[:8], "little")
            if len(header) < _HEADER_BYTES:
                raise DamagedFileError(f"it ends after {number} records")
            if header[8:] != _masked_crc32c(header[:8]):
                raise DamagedFileError(f"the header of record {number} fails its checksum")
            content = self._file.read(size + _CHECKSUM_BYTES)
        except self._tf.errors.NotFoundError as error:
            raise FileNotFoundError(str(error).splitlines()[0]) from error
        except self._tf.errors.OpError as error:
            message = str(error).splitlines()[0]
            raise DamagedFileError(f"record {number}: {message}") from error
        if content[size:] != _masked_crc32c(content[:size]):
            raise DamagedFileError(f"record {number} fails its checksum")
        return content[:size]


def _masked_crc32c(*parts: _Bytes) -> bytes:
    """The checksum that TFRecord files keep of their data, here given in parts."""
    crc = 0
    for part in parts:
        crc = crc32c.crc32c(part, crc)  # other threads run meanwhile if there is much of it
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _read_with_tf(path: str, positions: Sequence[int]) -> Iterator[bytes]:
    from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

    if not len(positions):
        return
    tf = tensorflow_quietly()
    first, wanted = int(positions[0]), set(map(int, positions))
    dataset = tf.data.TFRecordDataset(path).skip(first).take(int(positions[-1]) - first + 1)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1  # training needs the cores as well
    options.autotune.enabled = False  # it would take memory for buffers of its own
    options.experimental_optimization.inject_prefetch = False
    batches = dataset.batch(_TF_BATCH).with_options(options).as_numpy_iterator()
    found, number = 0, first
    try:
        for record in itertools.chain.from_iterable(batches):
            if number in wanted:
                yield record
                found += 1
            number += 1
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(path) from error
    except tf.errors.OpError as error:
        message = str(error).splitlines()[0]
        raise DamagedFileError(f"at record {number} or a little later: {message}") from error
    if found < len(positions):
        raise DamagedFileError(f"it ends after {number} records")


def _copy_audio(record: _Bytes, row: np.ndarray, first: int = 0) -> tuple[str, int]:
    clip_id, audio = bytes_features(record, ("id", "audio"))
    wanted = audio[first : first + len(row)]
    row[: len(wanted)] = np.frombuffer(wanted, np.uint8)
    return bytes(clip_id).decode(errors="replace"), len(audio)


def _find_audio(head: bytes) -> tuple[bytes | None, int, int]:
    """The id if it comes first, and start and size of the audio, of a record that begins so.

    The size is -1 if the audio does not begin in `head`.
    """
    clip_id = None
    try:
        _, at = _field(head, 0, 1)
        while at < len(head):
            key, start, size, at = _entry(head, at)
            if key == b"audio" and start + size == at:
                return clip_id, start, size
            if key == b"id" and at <= len(head):
                clip_id = head[start : start + size]
    except IndexError:
        pass
    return None, 0, -1


def _find_id(entries: memoryview) -> bytes:
    """The id among the entries that follow the audio."""
    at = 0
    try:
        while at < len(entries):
            key, start, size, at = _entry(entries, at)
            if key == b"id":
                return bytes(entries[start : start + size])
    except IndexError:
        pass
    raise DamagedFileError("a record has no feature b'id'")


def _entry(message: _Bytes, at: int) -> tuple[bytes, int, int, int]:
    """The map entry of Features at `at`: key, start and size of its bytes value, end of the entry.

    The value may lie past the end of `message`. A value of another kind has the size 0.
    """
    size, at = _field(message, at, 1)
    end = at + size
    size, at = _field(message, at, 1)
    key = bytes(message[at : at + size])
    _, at = _field(message, at + size, 2)
    if at >= end or message[at] != _BYTES_LIST_TAG:
        return key, end, 0, end
    size, at = _field(message, at, 1)
    if not size:
        return key, end, 0, end
    size, at = _field(message, at, 1)
    return key, at, size, end


def _field(message: _Bytes, at: int, number: int) -> tuple[int, int]:
    """Size and start of the length-delimited field `number` that begins at `at`."""
    if message[at] != number << 3 | 2:
        raise IndexError("another field")
    at += 1
    size, shift = message[at], 0
    while size >> shift >= 0x80:  # the last byte says that another follows
        at += 1
        size, shift = size - (0x80 << shift) + (message[at] << shift + 7), shift + 7
    return size, at + 1
