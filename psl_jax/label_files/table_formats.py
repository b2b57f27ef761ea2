"""Reads soft labels of a table, Parquet or CSV, with a row for each segment; writes Parquet.

The columns are `clip`, `segment` (from 0), `onset` and `offset` in seconds, and one for each class,
by its name. So any tool can read one class alone, without lists and without an order of classes. A
table without `segment` is read too: a segment gets the mean of the rows in which its middle lies.
"""

import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import SAME_SECONDS, Block, LabelFile, Options, ReadRequest
from psl_jax.runtime import csv_files, files
from psl_jax.runtime.errors import UserError

KEYS = ("clip", "segment", "onset", "offset")
# The place of some rows in the file, their keys by name, and their values [rows, classes].
TableRows = tuple[str, dict[str, Any], np.ndarray]
# Of 527 classes 69 MB as float32. A group costs a Parquet file some bytes for every column, which
# all readers read first: many small ones would make that larger than the labels.
_GROUP_ROWS = 1 << 15


def open_table(
    path: pathlib.Path,
    options: Options,
    header: Sequence[str],
    read_rows: Callable[[Sequence[int]], Iterator[TableRows]],
    paths: list[pathlib.Path] | None = None,
) -> LabelFile:
    """Opens a table of which `header` names the columns: KEYS, and classes.

    read_rows: yields blocks of rows; it needs to read only the classes of the numbers that it gets.
    """
    if "clip" not in header:
        raise UserError(
            f"{path}: no column clip. Found {', '.join(header[:6])}; expected "
            f"{', '.join(KEYS)} and a column for each class (SAT's file: --format=sat)"
        )
    classes = tuple(name for name in header if name not in KEYS)
    if len(set(header)) < len(header):
        raise UserError(f"{path} has two columns of one name")
    if options.classes:
        raise UserError(f"{path} names its classes itself: leave out --classes, or rename columns")
    if ("onset" in header) != ("offset" in header):
        raise UserError(f"{path}: onset and offset go together; it has {', '.join(header)}")

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        for place, keys, values in read_rows(request.columns):
            where = f"{path}, {place}"
            probabilities = label_file.to_probabilities(values, options.logits, where)
            names = list(map(str, keys["clip"]))
            numbers = {
                name: np.asarray(keys[name], np.float64) for name in KEYS[1:] if name in keys
            }
            if "segment" in numbers:
                _check_segments(numbers, names, options, where)
                yield Block(names, probabilities, numbers["segment"].astype(np.int64))
            else:
                yield Block(names, probabilities, None, numbers.get("onset"), numbers.get("offset"))

    return LabelFile(paths or [path], classes, read_blocks)


def _check_segments(
    numbers: dict[str, np.ndarray], names: Sequence[str], options: Options, where: str
) -> None:
    """Raises UserError for numbers of segments that are none, or have other times."""
    segments = numbers["segment"]
    if (wrong := np.flatnonzero(~((segments >= 0) & (segments == np.floor(segments))))).size:
        raise UserError(
            f"{where}: clip {names[wrong[0]]} has segment {segments[wrong[0]]:g}, expected a whole "
            "number from 0"
        )
    expected_times = options.segmentation.compute_times(segments)
    for name, expected in zip(KEYS[2:], expected_times, strict=True):
        times = numbers.get(name, expected)
        if (wrong := np.flatnonzero(~(np.abs(times - expected) < SAME_SECONDS))).size:
            row = wrong[0]
            raise UserError(
                f"{where}: segment {segments[row]:g} has the {name} {times[row]:g} s, and that of "
                f"segments of {options.segmentation.seconds:g} s is {expected[row]:g} s. Give the "
                "length that the file is of: --segment_seconds, and --hop_seconds if they overlap"
            )


def open_csv(path: pathlib.Path, options: Options) -> LabelFile:
    header = csv_files.read_header(path, ("clip",))
    keys = {name: header.index(name) for name in KEYS if name in header}
    class_columns = [number for number, name in enumerate(header) if name not in KEYS]

    def parse(line: int, row: list[str], columns: list[int]) -> list[float]:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} fields, expected {len(header)}")
        try:
            return [csv_files.parse_number(row[column]) for column in columns]
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}") from error

    def read_rows(class_numbers: Sequence[int]) -> Iterator[TableRows]:
        names = [name for name in keys if name != "clip"]
        columns = [keys[name] for name in names] + [class_columns[n] for n in class_numbers]
        with csv_files.open_table(path, ("clip",)) as table:
            while rows := list(itertools.islice(table.rows, label_file.BLOCK_ROWS)):
                numbers = np.array([parse(line, row, columns) for line, row in rows])
                values = np.zeros((len(rows), len(class_columns)), np.float32)
                values[:, class_numbers] = numbers[:, len(names) :]
                block_keys = dict(zip(names, numbers.T, strict=False))
                block_keys["clip"] = [row[keys["clip"]] for _, row in rows]
                yield f"lines {rows[0][0]} to {rows[-1][0]}", block_keys, values

    return open_table(path, options, header, read_rows)


def open_parquet(path: pathlib.Path, options: Options) -> LabelFile:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    header = file.schema_arrow.names
    keys = [name for name in KEYS if name in header]
    classes = [name for name in header if name not in KEYS]

    def read_rows(class_numbers: Sequence[int]) -> Iterator[TableRows]:
        columns = [*keys, *(classes[number] for number in class_numbers)]
        for place, batch in iterate_batches(file, columns):
            arrays = {n: batch.column(n).to_numpy(zero_copy_only=False) for n in columns}
            values = np.zeros((batch.num_rows, len(classes)), np.float32)
            for number in class_numbers:
                values[:, number] = arrays[classes[number]]
            yield place, {name: arrays[name] for name in keys}, values

    return open_table(path, options, header, read_rows)


def iterate_batches(file: Any, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields some rows of a Parquet file at a time: their place in words, and their columns."""
    first_row = 0
    for batch in file.iter_batches(label_file.BLOCK_ROWS, columns=list(columns)):
        yield f"rows {first_row} to {first_row + batch.num_rows - 1}", batch
        first_row += batch.num_rows


def write_parquet(path: pathlib.Path, labels: SoftLabels) -> list[pathlib.Path]:
    """Writes the table, values as float32, compressed with zstd."""
    import pyarrow as pa
    import pyarrow.parquet

    classes = labels.index.classes
    if reserved := [name for name in classes if name in KEYS]:
        raise UserError(
            f"a class is called {reserved[0]!r}, as the column of a table is; choose another "
            "--format"
        )
    types = [pa.string(), pa.int32(), pa.float64(), pa.float64(), *[pa.float32()] * len(classes)]
    schema = pa.schema(list(zip((*KEYS, *classes), types, strict=True)))
    with (
        files.atomic_path(path) as temporary,
        pyarrow.parquet.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=["clip"]
        ) as writer,
    ):
        for ids, segments, values in _read_groups(labels):
            columns = [ids.tolist(), segments.astype(np.int32)]
            columns += labels.segmentation.compute_times(segments)
            columns += list(np.ascontiguousarray(values.astype(np.float32).T))
            arrays = [pa.array(column, dtype) for column, dtype in zip(columns, types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return [path]


def _read_groups(labels: SoftLabels) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields clips, segments and labels of about _GROUP_ROWS segments: whole shards."""
    buffered: list[tuple[np.ndarray, ...]] = []
    num_shards = len(labels.index.shard_sizes)
    for shard in range(num_shards):
        ids, values, counts = labels.read_shard(shard)
        clips, segments = np.nonzero(np.arange(values.shape[1]) < counts[:, None])
        buffered.append((ids[clips], segments, values[clips, segments]))
        if shard == num_shards - 1 or sum(len(rows[0]) for rows in buffered) >= _GROUP_ROWS:
            yield tuple(map(np.concatenate, zip(*buffered, strict=True)))
            buffered = []
