"""CED's files: HDF5 with the highest scores of each row, and a table of what the rows are of.

`topk_values` float16 [rows, k] (probabilities), `topk_indexes` int16 [rows, k] and `seeds` [rows];
beside it, under the same name, a Parquet file (or CSV) with the columns `filename`, `start` and
`end` in seconds. A clip may have several rows: its chunks, and augmented views of them with other
seeds; of views the mean is taken.

What stands for the classes that a row leaves out: `mean`, the lowest kept value spread over them,
as CED trains; `half` of the lowest; or `zero`.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file, optional_imports
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, Wanted
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

    views, padded = True, False

    def __init__(self, path: pathlib.Path, options: Options):
        self.path, self.options = path, options
        with optional_imports.plain_errors(path, "h5py"):
            import h5py

            self._file = h5py.File(path, "r")
            self._values, self._indexes = self._file["topk_values"], self._file["topk_indexes"]
            stored = self._file.attrs.get(_CLASSES)
            shape = self._values.shape
            alike = len(shape) == 2 and shape == self._indexes.shape
        if not alike:
            raise UserError(
                f"{path}: topk_values {list(shape)} and topk_indexes "
                f"{list(self._indexes.shape)}, expected both [rows, k]"
            )
        names = None if stored is None else [str(name) for name in stored]
        width = len(options.classes or names or audioset_classes())
        self.classes = class_lists.name_columns(options.classes or names, width, path, GIVE_CLASSES)
        self._table = _read_table(_table_path(path, options), shape[0])

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        names, starts, ends = self._table
        width = len(self.classes)
        for first in range(0, len(names), label_file.BLOCK_ROWS):
            rows = slice(first, min(first + label_file.BLOCK_ROWS, len(names)))
            where = f"{self.path}, rows {first} to {rows.stop - 1}"
            with optional_imports.plain_errors(self.path, "h5py"):
                values, indexes = self._values[rows], self._indexes[rows].astype(np.int64)
            if indexes.size and not 0 <= indexes.min() <= indexes.max() < width:
                raise UserError(
                    f"{where}: class {indexes.max()} of {width}; give the list of its classes: "
                    "--classes=FILE.csv"
                )
            p = label_file.probabilities(values, self.options.logits, where)
            yield Block(
                [str(name) for name in names[rows].to_pylist()],
                filled(p, indexes, width, self.options.fill),
                None,
                starts[rows],
                ends[rows],
            )


def filled(values: np.ndarray, indexes: np.ndarray, width: int, fill: str) -> np.ndarray:
    """Scores [n, k] of the classes `indexes` [n, k] as float32 [n, width], see the module."""
    lowest = values.min(axis=1, keepdims=True) if values.shape[1] else 0.0
    left = max(width - values.shape[1], 1)
    rest = {"mean": lowest / left, "half": lowest / 2, "zero": np.zeros_like(lowest)}[fill]
    out = np.broadcast_to(rest, (len(values), width)).astype(np.float32)
    np.put_along_axis(out, indexes, values, axis=1)
    return out


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the highest `options.top_k` of each segment, and the table beside it as Parquet."""
    with optional_imports.plain_errors(path, "h5py"):
        import h5py
    with optional_imports.plain_errors(path, "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet
    index = labels.index
    k = min(options.top_k, index.num_classes)
    table = path.with_suffix(".parquet")
    kinds = (pa.string(), pa.float32(), pa.float32())
    schema = pa.schema(list(zip(_TABLE, kinds, strict=True)))
    optional_imports.check_replaced(table, "filename")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
        files.atomic_path(table) as temporary_table,
        h5py.File(temporary, "w") as file,
        pyarrow.parquet.ParquetWriter(temporary_table, schema, compression="zstd") as writer,
    ):
        total = int(options.segmentation.counts(index.num_samples).sum(dtype=np.int64))
        values = file.create_dataset("topk_values", (total, k), "f2")
        indexes = file.create_dataset("topk_indexes", (total, k), "i2")
        file.create_dataset("seeds", (total,), "i4")  # 0: no augmentation
        if index.classes != audioset_classes():
            file.attrs[_CLASSES] = list(index.classes)
        first = 0
        for rows in label_file.row_blocks(labels, 16 * label_file.BLOCK_ROWS):
            best = np.argsort(-rows.values, axis=1, kind="stable")[:, :k]
            kept = np.take_along_axis(rows.values, best, axis=1)
            end = first + len(kept)
            values[first:end] = label_file.logit(kept) if options.logits else kept
            indexes[first:end] = best
            first = end
            onsets, offsets = options.segmentation.times(rows.segments)
            columns = (rows.ids.tolist(), onsets, offsets)
            arrays = [pa.array(c, k) for c, k in zip(columns, kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return [path, table]


def used_files(path: pathlib.Path, options: Options) -> list[pathlib.Path]:
    return [path, _table_path(path, options)]


def _table_path(path: pathlib.Path, options: Options) -> pathlib.Path:
    return options.index or path.with_suffix(".parquet")


def _read_table(path: pathlib.Path, rows: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Names, starts and ends of the rows.

    Names stay an array of pyarrow's, which takes a third of a list's memory.
    """
    if not path.exists():
        raise UserError(
            f"{path}: there is no table of the rows; give it with --index=FILE (Parquet or CSV "
            f"with {', '.join(_TABLE)})"
        )
    with optional_imports.plain_errors(path, "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet
    if path.suffix in (".csv", ".tsv"):
        found = csv_files.read_rows(path, _TABLE)
        texts = [[row[name] for name in _TABLE] for _, row in found]
        names = pa.array([row[0] for row in texts], pa.string())
        times: list[Any] = [[row[place] for row in texts] for place in (1, 2)]
    else:
        with optional_imports.plain_errors(path, "pyarrow"):
            table = pyarrow.parquet.read_table(path, columns=list(_TABLE))
            names = table.column("filename")
            times = [table.column(name).to_numpy() for name in ("start", "end")]
    try:
        starts, ends = (np.array(column, np.float64) for column in times)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: start and end are to be seconds: {error}") from error
    if len(starts) != rows:
        raise UserError(f"{path} has {len(starts)} rows, and the HDF5 file {rows}")
    return names, starts, ends
