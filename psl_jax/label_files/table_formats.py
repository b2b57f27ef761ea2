"""Soft labels as a table, Parquet or CSV: a row for each segment, a column for each class.

Columns: `clip`, `segment` (from 0), `onset` and `offset` in seconds, and one for each class, by its
name. So any tool can read one class alone, and none needs to know of lists or of an order of
classes. A table without `segment` is read too: a segment has the mean of the rows in which its
middle lies.
"""

import csv
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file, optional_imports
from psl_jax.label_files.label_file import Block, Options, Rows, Wanted
from psl_jax.runtime import csv_files, files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError

_KEYS = ("clip", "segment", "onset", "offset")
# Of 527 classes 69 MB as float32. A group costs a Parquet file some bytes for every column, which
# all readers read first: many small ones would make that larger than the labels.
_GROUP_ROWS = 1 << 15


class _Table:
    """A table opened for reading."""

    views = padded = False

    def __init__(self, path: pathlib.Path, header: Sequence[str], options: Options):
        self.path, self.options = path, options
        if "clip" not in header:
            raise UserError(
                f"{path}: no column clip. Found {', '.join(header[:6])}; expected "
                f"{', '.join(_KEYS)} and a column for each class"
            )
        self.keys = [name for name in _KEYS if name in header]
        self.classes = tuple(name for name in header if name not in _KEYS)
        if not self.classes:
            raise UserError(f"{path} has no column of a class beside {', '.join(header)}")
        if len(set(header)) < len(header):
            raise UserError(f"{path} has two columns of one name")
        self.views = "segment" not in self.keys and "onset" in self.keys
        if ("onset" in self.keys) != ("offset" in self.keys):
            raise UserError(f"{path}: onset and offset go together; it has {', '.join(self.keys)}")

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        for where, keys, values in self._parts(wanted.columns):
            p = label_file.probabilities(values, self.options.logits, f"{self.path}, {where}")
            times = [keys.get(name) for name in ("onset", "offset")]
            segments = keys.get("segment")
            if segments is None:
                yield Block(keys["clip"], p, None, *times)
            else:
                self._check_times(where, segments, *times)
                yield Block(keys["clip"], p, segments)

    def _parts(self, wanted: Sequence[int]) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
        """(where in the file, the keys, the values) of a block of rows.

        Values of other columns than those wanted are 0: a table may have some that are no classes.
        """
        raise NotImplementedError

    def _check_times(self, where: str, segments: np.ndarray, onsets: Any, offsets: Any) -> None:
        if (segments < 0).any():
            raise UserError(f"{self.path}, {where}: segment {segments.min()}: they count from 0")
        if onsets is None:
            return
        expected = self.options.segmentation.times(segments)
        for found, right, what in zip((onsets, offsets), expected, _KEYS[2:], strict=True):
            if (wrong := np.flatnonzero(~(np.abs(found - right) < label_file.SAME_SECONDS))).size:
                row = wrong[0]
                raise UserError(
                    f"{self.path}, {where}: segment {segments[row]} has the {what} "
                    f"{found[row]:g} s, and that of segments of "
                    f"{self.options.segmentation.seconds:g} s is {right[row]:g} s. Give the length "
                    "that the file is of: --segment_seconds, and --hop_seconds if they overlap"
                )


class CsvTable(_Table):
    """A CSV file."""

    def __init__(self, path: pathlib.Path, options: Options):
        super().__init__(path, csv_files.read_header(path, ("clip",)), options)

    def _parts(self, wanted: Sequence[int]) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
        header = csv_files.read_header(self.path, ("clip",))
        keys = {name: header.index(name) for name in self.keys}
        columns = [header.index(self.classes[number]) for number in wanted]
        with csv_files.open_table(self.path, ("clip",)) as table:
            while rows := list(itertools.islice(table.rows, label_file.BLOCK_ROWS)):
                found = [_numbers(self.path, *row, len(header), keys, columns) for row in rows]
                parts = list(zip(*found, strict=True))
                named: dict[str, Any] = {"clip": [row[keys["clip"]] for _, row in rows]}
                for place, name in enumerate(self.keys[1:]):
                    column = np.array([one[place] for one in parts[0]])
                    named[name] = column.astype(np.int64) if name == "segment" else column
                values = np.zeros((len(rows), len(self.classes)), np.float32)
                values[:, wanted] = parts[1]
                yield f"lines {rows[0][0]} to {rows[-1][0]}", named, values


def _numbers(
    path: pathlib.Path,
    line: int,
    row: list[str],
    width: int,
    keys: dict[str, int],
    columns: list[int],
) -> tuple[list[float], np.ndarray]:
    """Segment number and times, as there are, and the values of a row."""
    if len(row) != width:
        raise UserError(f"{path}, line {line}: {len(row)} fields, expected {width}")
    try:
        numbers = [
            float(label_file.whole_number(row[place]))
            if name == "segment"
            else csv_files.parse_number(row[place])
            for name, place in keys.items()
            if name != "clip"
        ]
        texts = [row[place] for place in columns]
        if any("," in text for text in texts):
            texts = [str(csv_files.parse_number(text)) for text in texts]
        return numbers, np.array(texts, np.float32)
    except ValueError as error:
        raise UserError(f"{path}, line {line}: {error}") from error


class ParquetTable(_Table):
    """A Parquet file."""

    def __init__(self, path: pathlib.Path, options: Options):
        with optional_imports.plain_errors(path, "pyarrow"):
            import pyarrow.parquet

            self._file = pyarrow.parquet.ParquetFile(path)
            header = self._file.schema_arrow.names
        super().__init__(path, header, options)

    def _parts(self, wanted: Sequence[int]) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
        first = 0
        with optional_imports.plain_errors(self.path, "pyarrow"):
            columns = [*self.keys, *(self.classes[number] for number in wanted)]
            for batch in self._file.iter_batches(label_file.BLOCK_ROWS, columns=columns):
                where = f"rows {first} to {first + batch.num_rows - 1}"
                keys: dict[str, Any] = {"clip": list(map(str, batch.column("clip").to_pylist()))}
                for name in self.keys[1:]:
                    keys[name] = batch.column(name).to_numpy(zero_copy_only=False).astype(float)
                if "segment" in keys:
                    keys["segment"] = self._whole(keys["segment"], where)
                values = np.zeros((batch.num_rows, len(self.classes)), np.float32)
                for place in wanted:
                    column = batch.column(self.classes[place])
                    values[:, place] = column.to_numpy(zero_copy_only=False)
                yield where, keys, values
                first += batch.num_rows

    def _whole(self, segments: np.ndarray, where: str) -> np.ndarray:
        if (wrong := np.flatnonzero(segments != np.floor(segments))).size:  # NaN: a null
            raise UserError(f"{self.path}, {where}: segment {segments[wrong[0]]:g}: a whole number")
        return segments.astype(np.int64)


def write_csv(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the table; numbers are the shortest that float16 reads as the same."""
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_open(path, newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_header(labels))
        for rows in label_file.shard_rows(labels):
            numbers = _texts(_values(rows, options)) if options.logits else _float16(rows.values)
            times = np.stack(options.segmentation.times(rows.segments), axis=1)
            for key, number, time, row in zip(
                rows.ids.tolist(), rows.segments.tolist(), times.tolist(), numbers, strict=True
            ):
                writer.writerow([key, number, *(f"{t:.10g}" for t in time), *row])
    return [path]


def write_parquet(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the table, values as float32, compressed with zstd."""
    with optional_imports.plain_errors(path, "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet
    header = _header(labels)
    kinds = [pa.string(), pa.int32(), pa.float64(), pa.float64()]
    kinds += [pa.float32()] * labels.index.num_classes
    schema = pa.schema(list(zip(header, kinds, strict=True)))
    optional_imports.check_replaced(path, "clip")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
        pyarrow.parquet.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=["clip"]
        ) as writer,
    ):
        for rows in label_file.row_blocks(labels, _GROUP_ROWS):
            onsets, offsets = options.segmentation.times(rows.segments)
            columns = [rows.ids.tolist(), rows.segments.astype(np.int32), onsets, offsets]
            columns += list(np.ascontiguousarray(_values(rows, options).T))
            arrays = [pa.array(c, k) for c, k in zip(columns, kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return [path]


def _header(labels: SoftLabels) -> list[str]:
    if taken := [name for name in labels.index.classes if name in _KEYS]:
        raise UserError(
            f"a class is called {taken[0]!r}, as the column of a table is; choose another --format"
        )
    return [*_KEYS, *labels.index.classes]


def _values(rows: Rows, options: Options) -> np.ndarray:
    return label_file.logit(rows.values) if options.logits else rows.values.astype(np.float32)


def _float16(values: np.ndarray) -> list[list[str]]:
    """The shortest text of each float16, looked up: there are only 65,536 of them."""
    kinds, place = np.unique(values, return_inverse=True)
    texts = np.array([str(value) for value in kinds], object)
    return texts[place.reshape(values.shape)].tolist()


def _texts(values: np.ndarray) -> list[list[str]]:
    return [[str(value) for value in row] for row in values]
