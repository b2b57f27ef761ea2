"""The files that soft labels lie in, one for each clip shard: TFRecord, or npz.

Per clip its id and float16 probabilities [segments, classes].
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from psl_jax.data import record_files
from psl_jax.runtime.paths import local_copy, path_of

FORMATS = ("tfrecord", "npz")
_DENSE = "probabilities"


def shard_path(directory: str | os.PathLike, shard: int, count: int, format: str) -> pathlib.Path:
    """Where a shard of labels lies."""
    return path_of(directory) / f"labels-{shard:05d}-of-{count:05d}.{format}"


# Numbers of records, ascending, and where each record of the shard begins, if that is known.
Some = tuple[Sequence[int], np.ndarray | None]


def write(path: pathlib.Path, format: str, ids: np.ndarray, rows: list[np.ndarray]) -> None:
    """Writes the labels of a shard: ids [n], for each of them float16 [segments, classes]."""
    (_write_tfrecord if format == "tfrecord" else _write_npz)(path, ids, {_DENSE: rows})


def read(
    path: pathlib.Path,
    format: str,
    counts: np.ndarray,
    num_classes: int,
    some: Some | None = None,
) -> tuple[list[str], np.ndarray]:
    """Ids [n] and float16 [sum of counts, classes] of a shard with clips of `counts` segments.

    some: which records of a tfrecord shard are read, those that `counts` is of; None: all.

    Raises what _DAMAGE of soft_labels lists for a damaged file.
    """
    shapes = {_DENSE: (num_classes, "<f2")}
    if format == "tfrecord":
        ids, parts = _read_tfrecord(path, counts, shapes, some)
    else:
        ids, parts = _read_npz(path, counts, shapes)
    return ids, parts[_DENSE]


# Name of a part of a shard -> values of each segment, and their type.
_Shapes = dict[str, tuple[int, str]]


def _write_tfrecord(
    path: pathlib.Path, ids: np.ndarray, parts: dict[str, list[np.ndarray]]
) -> None:
    from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

    tf = tensorflow_quietly()

    def feature(value: bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, clip_id in enumerate(ids):
            values = {"id": feature(str(clip_id).encode())}
            for name, rows in parts.items():
                row = rows[number]
                values[name] = feature(row.astype(row.dtype.newbyteorder("<")).tobytes())
            example = tf.train.Example(features=tf.train.Features(feature=values))
            writer.write(example.SerializeToString(deterministic=True))


def _read_tfrecord(
    path: pathlib.Path, counts: np.ndarray, shapes: _Shapes, some: Some | None
) -> tuple[list[str], dict[str, np.ndarray]]:
    ids = []
    total = int(counts.sum())
    positions, places = some if some else (range(len(counts)), None)
    parts = {name: np.empty((total, width), dtype) for name, (width, dtype) in shapes.items()}
    ends = np.cumsum(counts)
    with local_copy(path) as local:  # a shard of labels is small
        records = record_files.read_records(local, positions, places)
        for record, end, count in zip(records, ends, counts, strict=True):
            clip_id, *found = record_files.bytes_features(record, ("id", *shapes))
            ids.append(bytes(clip_id).decode())
            for (name, (width, dtype)), values in zip(shapes.items(), found, strict=True):
                if len(values) != 2 * count * width:
                    raise ValueError(f"{len(values)} bytes for {count} segments of {width} {name}")
                parts[name][end - count : end] = np.frombuffer(values, dtype).reshape(count, width)
    return ids, parts


def _write_npz(path: pathlib.Path, ids: np.ndarray, parts: dict[str, list[np.ndarray]]) -> None:
    counts = [len(row) for row in next(iter(parts.values()))]
    arrays: dict[str, Any] = {"ids": np.asarray(ids, np.str_), "counts": np.array(counts, np.int32)}
    for name, rows in parts.items():
        arrays[name] = np.concatenate(rows) if rows else np.zeros((0, 0), np.float16)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _read_npz(
    path: pathlib.Path, counts: np.ndarray, shapes: _Shapes
) -> tuple[list[str], dict[str, np.ndarray]]:
    with path.open("rb") as file, np.load(file) as data:
        ids = data["ids"].tolist()
        if len(ids) != len(counts):
            raise ValueError(f"it holds {len(ids)} clips, expected {len(counts)}")
        total, parts = int(counts.sum()), {}
        for name, (width, dtype) in shapes.items():
            # A shard without clips does not know what it would hold.
            rows = data[name] if len(counts) else np.zeros((0, width), dtype)
            if rows.shape != (total, width):
                raise ValueError(f"{rows.shape} for {total} segments of {width} {name}")
            parts[name] = rows
        return ids, parts
