"""Reads SAT's files: Parquet with the ten most probable classes of each segment.

The columns are `filename`, `start` and `end` in seconds, `idxs` (numbers of AudioSet's classes) and
`prob`. The last two are lists, or strings joined by ";" as published. All other classes are 0.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, ReadRequest
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime.errors import UserError

COLUMNS = ("filename", "start", "end", "idxs", "prob")


class TenBestTable:
    """SAT's Parquet file, opened for reading."""

    has_views, may_pad = True, False

    def __init__(self, path: pathlib.Path, options: Options):
        self.path, self.options = path, options
        with label_file.plain_errors(path, "pyarrow"):
            import pyarrow.parquet

            self._file = pyarrow.parquet.ParquetFile(path)
            header = self._file.schema_arrow.names
        if missing := [name for name in COLUMNS if name not in header]:
            raise UserError(
                f"{path}: no column {', '.join(missing)}. Found {', '.join(header[:6])}; expected "
                f"{', '.join(COLUMNS)}"
            )
        width = len(options.classes or audioset_classes())
        self.classes = class_lists.name_columns(options.classes, width, path, GIVE_CLASSES)

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        first_row = 0
        with label_file.plain_errors(self.path, "pyarrow"):
            for batch in self._file.iter_batches(label_file.BLOCK_ROWS, columns=list(COLUMNS)):
                where = f"{self.path}, rows {first_row} to {first_row + batch.num_rows - 1}"
                onsets, offsets = (
                    np.asarray(batch.column(name), np.float64) for name in ("start", "end")
                )
                names = list(map(str, batch.column("filename").to_pylist()))
                yield Block(names, self._read_scores(batch, where), None, onsets, offsets)
                first_row += batch.num_rows

    def _read_scores(self, batch: Any, where: str) -> np.ndarray:
        """Reads the probabilities of a batch of rows: float32 [rows, classes]."""
        lengths, indexes = _read_lists(batch.column("idxs"), np.int64)
        value_lengths, values = _read_lists(batch.column("prob"), np.float64)
        if (lengths != value_lengths).any():
            row = int(np.argmax(lengths != value_lengths))
            raise UserError(
                f"{where}: a row of {batch.column('filename')[row]} has {lengths[row]} idxs and "
                f"{value_lengths[row]} prob, expected as many"
            )
        width = len(self.classes)
        if (wrong := indexes[(indexes < 0) | (indexes >= width)]).size:
            raise UserError(
                f"{where}: class {wrong[0]} of {width}; give the list of its classes: "
                "--classes=FILE.csv"
            )
        scores = np.zeros((batch.num_rows, width), np.float32)
        rows = np.repeat(np.arange(batch.num_rows), lengths)
        scores[rows, indexes] = label_file.to_probabilities(values, self.options.logits, where)
        return scores


def _read_lists(column: Any, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Reads lists, or strings joined by ";": their lengths, and their numbers one after another."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.split_pattern(column, ";")
    if column.null_count:
        raise ValueError("idxs and prob: a row without any")
    numbers = column.flatten()
    if pa.types.is_string(numbers.type) or pa.types.is_large_string(numbers.type):
        numbers = pc.utf8_trim_whitespace(numbers)
    return np.asarray(pc.list_value_length(column)), np.asarray(
        numbers.cast(pa.from_numpy_dtype(dtype))
    )
