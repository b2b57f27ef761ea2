"""Reads EfficientAT's files: an array of logits [clips, classes], and an index of names.

The index gives the row of each file name. It is a pickle of {name: row}, as published; we run none
of its code.
The classes are AudioSet's, or those that the user gives.
"""

import pathlib
import pickle
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, LabelFile, Options, ReadRequest
from psl_jax.runtime.errors import UserError


def open_file(path: pathlib.Path, options: Options) -> LabelFile:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive (.npz), expected one array (.npy)")
    if values.ndim != 2 or values.dtype.kind != "f":
        raise UserError(
            f"{path} holds {values.dtype} {list(values.shape)}, expected floats [clips, classes]"
        )
    classes = label_file.name_classes(path, options, values.shape[1])
    index_path = pathlib.Path(options.index or path.with_suffix(".pkl"))
    rows_by_name = _read_index(index_path, len(values))

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        names = list(rows_by_name)
        for start in range(0, len(names), label_file.BLOCK_ROWS):
            block_names = names[start : start + label_file.BLOCK_ROWS]
            rows = [rows_by_name[name] for name in block_names]
            where = f"{path}, row {rows[0]} and more"
            probabilities = label_file.to_probabilities(values[rows], options.logits, where)
            yield Block(block_names, probabilities)

    return LabelFile([path, index_path], classes, read_blocks)


class _NoCode(pickle.Unpickler):
    """Reads numbers, texts and containers, and refuses a pickle that names code to run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_index(path: pathlib.Path, num_rows: int) -> dict[str, int]:
    """Reads the row of each name. Raises UserError for another form, or rows that do not exist."""
    try:
        with open(path, "rb") as file:
            index = _NoCode(file).load()
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no index of file names; give it with --index=FILE (a pickle of "
            "{name: row})"
        ) from None
    except Exception as error:  # pickle promises no other: files of another kind raise anything
        raise UserError(f"{path} is no index of file names: {error}") from error
    if not isinstance(index, dict) or not all(
        isinstance(name, str) and type(row) is int and 0 <= row < num_rows
        for name, row in index.items()
    ):
        raise UserError(
            f"{path} is no index of file names: expected a row from 0 to {num_rows - 1} for each"
        )
    return dict(sorted(index.items(), key=lambda item: item[1]))
