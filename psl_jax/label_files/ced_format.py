"""Reads and writes CED's files: HDF5 with the highest scores of each row, and a table of the rows.

The HDF5 file holds `topk_values` float16 [rows, k] (probabilities), `topk_indexes` int16 [rows, k]
and `seeds` [rows]. Beside it lies a Parquet (or CSV) file of the same name with the columns
`filename`, `start` and `end` in seconds. A clip may have several rows: its chunks, and augmented
views of them with other seeds. A chunk has the mean of its views.

A row leaves most classes out. The option `fill` says what score they get: `mean` spreads the lowest
kept score over them, as CED's training does; `half` gives each half of it; `zero` gives 0.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, ReadRequest
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime import csv_files, files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError

FILLS = ("mean", "half", "zero")
_TABLE = ("filename", "start", "end")
_CLASSES = "classes"  # an attribute that the export adds where they are not AudioSet's


class TopKFile:
    """CED's HDF5 file and its table, opened for reading."""

    has_views, may_pad = True, False

    def __init__(self, path: pathlib.Path, options: Options):
        self.path, self.options = path, options
        with label_file.plain_errors(path, "h5py"):
            import h5py

            self._file = h5py.File(path, "r")
            self._values, self._indexes = self._file["topk_values"], self._file["topk_indexes"]
            stored_classes = self._file.attrs.get(_CLASSES)
            shape = self._values.shape
            is_consistent = len(shape) == 2 and shape == self._indexes.shape
        if not is_consistent:
            raise UserError(
                f"{path}: topk_values {list(shape)} and topk_indexes "
                f"{list(self._indexes.shape)}, expected both [rows, k]"
            )
        names = None if stored_classes is None else [str(name) for name in stored_classes]
        width = len(options.classes or names or audioset_classes())
        self.classes = class_lists.name_columns(options.classes or names, width, path, GIVE_CLASSES)
        self._table = _read_row_table(_find_table_path(path, options), shape[0])

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        names, starts, ends = self._table
        width = len(self.classes)
        for first in range(0, len(names), label_file.BLOCK_ROWS):
            rows = slice(first, min(first + label_file.BLOCK_ROWS, len(names)))
            where = f"{self.path}, rows {first} to {rows.stop - 1}"
            with label_file.plain_errors(self.path, "h5py"):
                values, indexes = self._values[rows], self._indexes[rows].astype(np.int64)
            if indexes.size and not 0 <= indexes.min() <= indexes.max() < width:
                raise UserError(
                    f"{where}: class {indexes.max()} of {width}; give the list of its classes: "
                    "--classes=FILE.csv"
                )
            probabilities = label_file.to_probabilities(values, self.options.logits, where)
            yield Block(
                [str(name) for name in names[rows].to_pylist()],
                fill_scores(probabilities, indexes, width=width, fill=self.options.fill),
                None,
                starts[rows],
                ends[rows],
            )


def fill_scores(values: np.ndarray, indexes: np.ndarray, *, width: int, fill: str) -> np.ndarray:
    """Fills in the classes that rows leave out, see the module: float32 [n, width].

    Args:
      values: the scores that were kept [n, k].
      indexes: their classes [n, k].
      width: the number of all classes.
      fill: mean, half or zero.
    """
    lowest = values.min(axis=1, keepdims=True) if values.shape[1] else 0.0
    num_left = max(width - values.shape[1], 1)
    filler = {"mean": lowest / num_left, "half": lowest / 2, "zero": np.zeros_like(lowest)}[fill]
    scores = np.broadcast_to(filler, (len(values), width)).astype(np.float32)
    np.put_along_axis(scores, indexes, values, axis=1)
    return scores


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the highest `options.top_k` of each segment, and the table beside it as Parquet."""
    with label_file.plain_errors(path, "h5py"):
        import h5py
    with label_file.plain_errors(path, "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet
    index = labels.index
    k = min(options.top_k, index.num_classes)
    table = path.with_suffix(".parquet")
    column_types = (pa.string(), pa.float32(), pa.float32())
    schema = pa.schema(list(zip(_TABLE, column_types, strict=True)))
    label_file.check_replaced(table, "filename")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
        files.atomic_path(table) as temporary_table,
        h5py.File(temporary, "w") as file,
        pyarrow.parquet.ParquetWriter(temporary_table, schema, compression="zstd") as writer,
    ):
        num_segments = int(
            options.segmentation.count_segments(index.num_samples).sum(dtype=np.int64)
        )
        values = file.create_dataset("topk_values", (num_segments, k), "f2")
        indexes = file.create_dataset("topk_indexes", (num_segments, k), "i2")
        file.create_dataset("seeds", (num_segments,), "i4")  # 0: no augmentation
        if index.classes != audioset_classes():
            file.attrs[_CLASSES] = list(index.classes)
        start = 0
        for rows in label_file.read_row_blocks(labels, 16 * label_file.BLOCK_ROWS):
            best_classes = np.argsort(-rows.values, axis=1, kind="stable")[:, :k]
            best_values = np.take_along_axis(rows.values, best_classes, axis=1)
            stop = start + len(best_values)
            values[start:stop] = label_file.logit(best_values) if options.logits else best_values
            indexes[start:stop] = best_classes
            start = stop
            onsets, offsets = options.segmentation.compute_times(rows.segments)
            columns = (rows.ids.tolist(), onsets, offsets)
            arrays = [
                pa.array(values_of_column, k)
                for values_of_column, k in zip(columns, column_types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return [path, table]


def list_files(path: pathlib.Path, options: Options) -> list[pathlib.Path]:
    return [path, _find_table_path(path, options)]


def _find_table_path(path: pathlib.Path, options: Options) -> pathlib.Path:
    return options.index or path.with_suffix(".parquet")


def _read_row_table(path: pathlib.Path, num_rows: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Reads the names, starts and ends of the rows.

    Names stay an array of pyarrow's, which takes a third of a list's memory.
    """
    if not path.exists():
        raise UserError(
            f"{path}: there is no table of the rows; give it with --index=FILE (Parquet or CSV "
            f"with {', '.join(_TABLE)})"
        )
    with label_file.plain_errors(path, "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet
    if path.suffix in (".csv", ".tsv"):
        table_rows = csv_files.read_rows(path, _TABLE)
        fields = [[row[name] for name in _TABLE] for _, row in table_rows]
        names = pa.array([row[0] for row in fields], pa.string())
        times: list[Any] = [[row[column] for row in fields] for column in (1, 2)]
    else:
        with label_file.plain_errors(path, "pyarrow"):
            table = pyarrow.parquet.read_table(path, columns=list(_TABLE))
            names = table.column("filename")
            times = [table.column(name).to_numpy() for name in ("start", "end")]
    try:
        starts, ends = (np.array(column, np.float64) for column in times)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: start and end are to be seconds: {error}") from error
    if len(starts) != num_rows:
        raise UserError(f"{path} has {len(starts)} rows, and the HDF5 file {num_rows}")
    return names, starts, ends
