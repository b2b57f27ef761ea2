"""TFRecord files of `tf.train.Example`: framing, checksums and features, without TensorFlow.

A record is its size (8 bytes), the size's checksum (4), its contents and their checksum (4).
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import crc32c
import numpy as np

HEADER_BYTES, CHECKSUM_BYTES = 12, 4
FRAMING_BYTES = HEADER_BYTES + CHECKSUM_BYTES  # that a record takes besides its contents

Buffer = bytes | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


class Feature(NamedTuple):
    """The values of a feature: bytes, floats or integers. start: where the first begins."""

    values: list[Any]
    start: int


class DamagedRecordError(Exception):
    """A file that does not hold what it should. The message says where, not which file."""


def read_records(path: str | os.PathLike[str], count: int | None = None) -> Iterator[memoryview]:
    """Yields the first `count` records (None: all) of a local file. Raises DamagedRecordError."""
    with open(path, "rb") as file:
        for number in itertools.count() if count is None else range(count):
            header = file.read(HEADER_BYTES)
            if count is None and not header:
                return
            size = _content_size(header, number)
            yield record_content(header + file.read(size + CHECKSUM_BYTES), number)


def record_content(record: Buffer, number: int) -> memoryview:
    """What a whole record, framing and all, holds. Raises DamagedRecordError for a damaged one."""
    size = _content_size(record[:HEADER_BYTES], number)
    if len(record) < HEADER_BYTES + size + CHECKSUM_BYTES:
        raise DamagedRecordError(f"it ends inside record {number}")
    content = memoryview(record)[HEADER_BYTES : HEADER_BYTES + size]
    checksum = record[HEADER_BYTES + size : HEADER_BYTES + size + CHECKSUM_BYTES]
    if masked_crc32c(content) != checksum:
        raise DamagedRecordError(f"record {number} fails its checksum")
    return content


def _content_size(header: Buffer, number: int) -> int:
    if not header:
        raise DamagedRecordError(f"it ends after {number} records")
    if len(header) < HEADER_BYTES:
        raise DamagedRecordError(f"it ends inside record {number}")
    if masked_crc32c(header[:8]) != header[8:]:
        raise DamagedRecordError(f"the header of record {number} fails its checksum")
    return int.from_bytes(header[:8], "little")


def masked_crc32c(data: Buffer) -> bytes:
    """The checksum that TFRecord files keep of their data."""
    crc = crc32c.crc32c(data)  # other threads run meanwhile if there is much of it
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def parse_example(content: Buffer) -> dict[str, Feature]:
    """The features of a serialized `tf.train.Example` by name. Raises DamagedRecordError.

    Example {1: Features {1: entry {1: name, 2: Feature {1: bytes | 2: floats | 3: integers}}}},
    each list with its values in field 1, numbers packed or one by one.
    """
    content, features = memoryview(content), {}
    try:
        for _, *entries in _fields(content, 0, len(content)):
            for _, *entry in _fields(content, *entries):
                parts = {number: (start, end) for number, start, end in _fields(content, *entry)}
                name = bytes(content[slice(*parts[1])]).decode()
                feature = Feature([], 0)
                for kind, *value_list in _fields(content, *parts.get(2, (0, 0))):
                    spans = [(start, end) for _, start, end in _fields(content, *value_list)]
                    parsed = _parse_values(kind, [content[start:end] for start, end in spans])
                    feature = Feature(parsed, spans[0][0] if spans else 0)
                features[name] = feature
    except (IndexError, KeyError, ValueError) as error:
        raise DamagedRecordError("a record is no tf.train.Example") from error
    return features


def single_values(features: dict[str, Feature], names: Sequence[str]) -> list[memoryview]:
    """The values of the single-valued bytes features `names`; DamagedRecordError without one."""
    if missing := [name for name in names if name not in features]:
        raise DamagedRecordError(f"a record has no feature {missing[0]!r}")
    return [memoryview((features[name].values or [b""])[0]) for name in names]


def _parse_values(kind: int, parts: list[memoryview]) -> list[Any]:
    if kind == 1:
        return parts
    packed = b"".join(parts)
    if kind == 2:
        floats: list[float] = np.frombuffer(packed, "<f4").tolist()
        return floats
    numbers, at = [], 0
    while at < len(packed):
        number, at = _varint(packed, at)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    return numbers


def _fields(message: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of the fields in message[at:end]. Raises IndexError for other bytes."""
    while at < end:
        tag, at = _varint(message, at)
        wire, start = tag & 7, at
        if wire == _BYTES:
            size, start = _varint(message, at)
            at = start + size
        elif wire == _VARINT:
            _, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        if wire not in (_BYTES, _VARINT, _FIXED32, _FIXED64) or at > end:
            raise IndexError("no field of a message")
        yield tag >> 3, start, at


def _varint(message: Buffer, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
