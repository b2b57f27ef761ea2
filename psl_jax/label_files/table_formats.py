"""Reads and writes soft labels as a table, Parquet or CSV, with a row for each segment.

The columns are `clip`, `segment` (from 0), `onset` and `offset` in seconds, and one for each class,
by its name. So any tool can read one class alone, without lists and without an order of classes. A
table without `segment` is read too: a segment gets the mean of the rows in which its middle lies.
"""

import csv
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, Options, ReadRequest, Rows
from psl_jax.runtime import csv_files, files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError

KEYS = ("clip", "segment", "onset", "offset")
# Of 527 classes 69 MB as float32. A group costs a Parquet file some bytes for every column, which
# all readers read first: many small ones would make that larger than the labels.
_GROUP_ROWS = 1 << 15


class Table:
    """A table opened for reading."""

    has_views = may_pad = False

    def __init__(self, path: pathlib.Path, header: Sequence[str], options: Options):
        self.path, self.options = path, options
        if "clip" not in header:
            raise UserError(
                f"{path}: no column clip. Found {', '.join(header[:6])}; expected "
                f"{', '.join(KEYS)} and a column for each class (SAT's file: --format=sat)"
            )
        self.keys = [name for name in KEYS if name in header]
        self.classes = tuple(name for name in header if name not in KEYS)
        if not self.classes:
            raise UserError(f"{path} has no column of a class beside {', '.join(header)}")
        if len(set(header)) < len(header):
            raise UserError(f"{path} has two columns of one name")
        self.has_views = "segment" not in self.keys and "onset" in self.keys
        if ("onset" in self.keys) != ("offset" in self.keys):
            raise UserError(f"{path}: onset and offset go together; it has {', '.join(self.keys)}")

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        for where, keys, values in self._read_parts(request.columns):
            probabilities = label_file.to_probabilities(
                values, self.options.logits, f"{self.path}, {where}"
            )
            times = [keys.get(name) for name in ("onset", "offset")]
            segments = keys.get("segment")
            if segments is None:
                yield Block(keys["clip"], probabilities, None, *times)
            else:
                self._check_times(where, segments, *times)
                yield Block(keys["clip"], probabilities, segments)

    def _read_parts(
        self, class_numbers: Sequence[int]
    ) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
        """Yields the place in the file, the keys and the values of blocks of rows.

        The values of other classes than `class_numbers` are 0: a table may have columns that are no
        classes.
        """
        raise NotImplementedError

    def _check_times(self, where: str, segments: np.ndarray, onsets: Any, offsets: Any) -> None:
        if (segments < 0).any():
            raise UserError(f"{self.path}, {where}: segment {segments.min()}: they count from 0")
        if onsets is None:
            return
        all_expected = self.options.segmentation.compute_times(segments)
        for times, expected_times, what in zip(
            (onsets, offsets), all_expected, KEYS[2:], strict=True
        ):
            if (
                wrong_rows := np.flatnonzero(
                    ~(np.abs(times - expected_times) < label_file.SAME_SECONDS)
                )
            ).size:
                row = wrong_rows[0]
                raise UserError(
                    f"{self.path}, {where}: segment {segments[row]} has the {what} "
                    f"{times[row]:g} s, and that of segments of "
                    f"{self.options.segmentation.seconds:g} s is {expected_times[row]:g} s. Give "
                    "the length that the file is of: --segment_seconds, and --hop_seconds if they "
                    "overlap"
                )


class CsvTable(Table):
    """A CSV file."""

    def __init__(self, path: pathlib.Path, options: Options):
        super().__init__(path, csv_files.read_header(path, ("clip",)), options)

    def _read_parts(
        self, class_numbers: Sequence[int]
    ) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
        header = csv_files.read_header(self.path, ("clip",))
        keys = {name: header.index(name) for name in self.keys}
        columns = [header.index(self.classes[number]) for number in class_numbers]
        with csv_files.open_table(self.path, ("clip",)) as table:
            while rows := list(itertools.islice(table.rows, label_file.BLOCK_ROWS)):
                parsed = [_parse_row(self.path, *row, len(header), keys, columns) for row in rows]
                columns_of_rows = list(zip(*parsed, strict=True))
                key_columns: dict[str, Any] = {"clip": [row[keys["clip"]] for _, row in rows]}
                for number, name in enumerate(self.keys[1:]):
                    column = np.array([numbers[number] for numbers in columns_of_rows[0]])
                    key_columns[name] = column.astype(np.int64) if name == "segment" else column
                values = np.zeros((len(rows), len(self.classes)), np.float32)
                values[:, class_numbers] = columns_of_rows[1]
                yield f"lines {rows[0][0]} to {rows[-1][0]}", key_columns, values


def _parse_row(
    path: pathlib.Path,
    line: int,
    row: list[str],
    width: int,
    keys: dict[str, int],
    columns: list[int],
) -> tuple[list[float], np.ndarray]:
    """Parses a row: its segment number and times, where it has them, and its values."""
    if len(row) != width:
        raise UserError(f"{path}, line {line}: {len(row)} fields, expected {width}")
    try:
        numbers = [
            float(label_file.parse_whole_number(row[place]))
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


class ParquetTable(Table):
    """A Parquet file."""

    def __init__(self, path: pathlib.Path, options: Options):
        with label_file.plain_errors(path, "pyarrow"):
            import pyarrow.parquet

            self._file = pyarrow.parquet.ParquetFile(path)
            header = self._file.schema_arrow.names
        super().__init__(path, header, options)

    def _read_parts(
        self, class_numbers: Sequence[int]
    ) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
        first_row = 0
        with label_file.plain_errors(self.path, "pyarrow"):
            columns = [*self.keys, *(self.classes[number] for number in class_numbers)]
            for batch in self._file.iter_batches(label_file.BLOCK_ROWS, columns=columns):
                where = f"rows {first_row} to {first_row + batch.num_rows - 1}"
                keys: dict[str, Any] = {"clip": list(map(str, batch.column("clip").to_pylist()))}
                for name in self.keys[1:]:
                    keys[name] = batch.column(name).to_numpy(zero_copy_only=False).astype(float)
                if "segment" in keys:
                    keys["segment"] = self._to_whole_numbers(keys["segment"], where)
                values = np.zeros((batch.num_rows, len(self.classes)), np.float32)
                for number in class_numbers:
                    column = batch.column(self.classes[number])
                    values[:, number] = column.to_numpy(zero_copy_only=False)
                yield where, keys, values
                first_row += batch.num_rows

    def _to_whole_numbers(self, segments: np.ndarray, where: str) -> np.ndarray:
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
        for rows in label_file.read_shard_rows(labels):
            numbers = (
                _texts(_get_values(rows, options))
                if options.logits
                else _float16_texts(rows.values)
            )
            times = np.stack(options.segmentation.compute_times(rows.segments), axis=1)
            for key, number, time, row in zip(
                rows.ids.tolist(), rows.segments.tolist(), times.tolist(), numbers, strict=True
            ):
                writer.writerow([key, number, *(f"{t:.10g}" for t in time), *row])
    return [path]


def write_parquet(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the table, values as float32, compressed with zstd."""
    with label_file.plain_errors(path, "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet
    header = _header(labels)
    column_types = [pa.string(), pa.int32(), pa.float64(), pa.float64()]
    column_types += [pa.float32()] * labels.index.num_classes
    schema = pa.schema(list(zip(header, column_types, strict=True)))
    label_file.check_replaced(path, "clip")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
        pyarrow.parquet.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=["clip"]
        ) as writer,
    ):
        for rows in label_file.read_row_blocks(labels, _GROUP_ROWS):
            onsets, offsets = options.segmentation.compute_times(rows.segments)
            columns = [rows.ids.tolist(), rows.segments.astype(np.int32), onsets, offsets]
            columns += list(np.ascontiguousarray(_get_values(rows, options).T))
            arrays = [
                pa.array(values, dtype) for values, dtype in zip(columns, column_types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return [path]


def _header(labels: SoftLabels) -> list[str]:
    if reserved := [name for name in labels.index.classes if name in KEYS]:
        raise UserError(
            f"a class is called {reserved[0]!r}, as the column of a table is; choose another "
            "--format"
        )
    return [*KEYS, *labels.index.classes]


def _get_values(rows: Rows, options: Options) -> np.ndarray:
    return label_file.logit(rows.values) if options.logits else rows.values.astype(np.float32)


def _float16_texts(values: np.ndarray) -> list[list[str]]:
    """Looks up the shortest text of each float16: there are only 65,536 of them."""
    unique, positions = np.unique(values, return_inverse=True)
    texts = np.array([str(value) for value in unique], object)
    rows: list[list[str]] = texts[positions.reshape(values.shape)].tolist()
    return rows


def _texts(values: np.ndarray) -> list[list[str]]:
    return [[str(value) for value in row] for row in values]
