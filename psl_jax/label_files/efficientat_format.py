"""Reads and writes EfficientAT's files: an array of logits [clips, classes], and an index of names.

The index gives the row of each file name. It is a pickle of {name: row}, as published (we run none
of its code), or JSON of the same, or a text file with one name per line in the order of the rows.
The classes are AudioSet's, or those of a CSV beside the array, which the export writes.
"""

import json
import pathlib
import pickle
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, LabelFile, Options, ReadRequest
from psl_jax.networks.class_lists import audioset_classes, read_classes
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError


def open_file(path: pathlib.Path, options: Options) -> LabelFile:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive (.npz), expected one array (.npy)")
    if values.ndim != 2 or values.dtype.kind != "f":
        raise UserError(
            f"{path} holds {values.dtype} {list(values.shape)}, expected floats [clips, classes]"
        )
    classes_path = _find_classes_path(path)
    stored_classes = read_classes(classes_path)[0] if classes_path.exists() else None
    classes = label_file.name_classes(path, options, stored_classes, values.shape[1])
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


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the array, its index as a pickle of {id: row}, and a list of classes not AudioSet's.

    A row is a clip. Where clips have several segments, the row holds their mean or maximum, as
    `options.pool` says. Raises UserError where it says neither.
    """
    index = labels.index
    if labels.num_segments > 1 and not options.pool:
        raise UserError(
            f"{path} would hold one row a clip, and these labels have up to {labels.num_segments} "
            "segments a clip: give --pool=mean or --pool=max, or another --format"
        )
    index_path, classes_path = path.with_suffix(".pkl"), _find_classes_path(path)
    # The index of an earlier array goes first, so that a stopped export leaves no wrong pair.
    for stale in (index_path, classes_path):
        stale.unlink(missing_ok=True)
    with files.atomic_path(path) as temporary:
        shape = (len(index), index.num_classes)
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for clip, clip_labels in enumerate(label_file.read_clips(labels)):
            segments = clip_labels.astype(np.float32)
            label = segments.max(axis=0) if options.pool == "max" else segments.mean(axis=0)
            array[clip] = label_file.to_file_values(label, options)
        array.flush()
        del array
    written = [path, index_path]
    if index.classes != audioset_classes():
        written.append(classes_path)
        files.write_csv(classes_path, ["label"], [[name] for name in index.classes])
    with files.atomic_open(index_path, "wb") as file:
        pickle.dump({name: row for row, name in enumerate(index.ids.tolist())}, file, protocol=4)
    return written


def _find_classes_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}.classes.csv")


class _NoCode(pickle.Unpickler):
    """Reads numbers, texts and containers, and refuses a pickle that names code to run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_index(path: pathlib.Path, num_rows: int) -> dict[str, int]:
    """Reads the row of each name. Raises UserError for another form, or rows that do not exist."""
    try:
        if path.suffix == ".pkl":
            with open(path, "rb") as file:
                index = _NoCode(file).load()
        else:
            text = path.read_text(encoding="utf-8-sig")
            index = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no index of file names; give it with --index=FILE (a pickle or JSON "
            "of {name: row}, or a name a line)"
        ) from None
    except Exception as error:  # pickle promises no other: files of another kind raise anything
        raise UserError(f"{path} is no index of file names: {error}") from error
    if isinstance(index, list):
        if len(index) != num_rows:
            raise UserError(f"{path} has {len(index)} names, and the array {num_rows} rows")
        index = list(zip(index, range(num_rows), strict=True))
    elif isinstance(index, dict):
        index = list(index.items())
    else:
        raise UserError(f"{path} is no index of file names: expected {{name: row}}, or names")
    if not all(
        isinstance(name, str) and type(row) is int and 0 <= row < num_rows for name, row in index
    ):
        raise UserError(f"{path}: expected a row from 0 to {num_rows - 1} for each file name")
    rows_by_name = dict(sorted(index, key=lambda item: item[1]))
    if len(rows_by_name) < len(index):
        raise UserError(f"{path}: a name stands there twice")
    return rows_by_name
