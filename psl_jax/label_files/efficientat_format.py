"""Reads and writes EfficientAT's files: an array of logits [clips, classes], and an index of names.

The index gives the row of each file name. It is a pickle of {name: row}, as published (we run none
of its code), or JSON of the same, or a text file with one name per line in the order of the rows.
The classes are AudioSet's, or those of a CSV beside the array, which the export writes.
"""

import json
import pathlib
import pickle
from collections.abc import Iterator, Mapping
from typing import NoReturn

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, ReadRequest
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import audioset_classes, read_classes
from psl_jax.runtime import files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError


class LogitArray:
    """A `.npy` file and its index, opened for reading."""

    has_views = may_pad = False

    def __init__(self, path: pathlib.Path, options: Options):
        self.path, self.options = path, options
        try:
            self._values = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} is no whole .npy file: {error}") from error
        if not isinstance(self._values, np.ndarray):
            raise UserError(f"{path} is an archive (.npz), expected one array (.npy)")
        if self._values.ndim != 2 or self._values.dtype.kind != "f":
            raise UserError(
                f"{path} holds {self._values.dtype} {list(self._values.shape)}, expected floats "
                "[clips, classes]"
            )
        classes_file = find_classes_path(path)
        names = (
            read_classes(classes_file)[0] if classes_file.exists() and not options.classes else None
        )
        width = self._values.shape[1]
        self.classes = class_lists.name_columns(options.classes or names, width, path, GIVE_CLASSES)
        self._rows = _read_index(_find_index_path(path, options), len(self._values))

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        names = list(self._rows)
        for start in range(0, len(names), label_file.BLOCK_ROWS):
            block_names = names[start : start + label_file.BLOCK_ROWS]
            values = self._values[[self._rows[name] for name in block_names]]
            where = f"{self.path}, row {self._rows[block_names[0]]} and more"
            yield Block(
                block_names, label_file.to_probabilities(values, self.options.logits, where)
            )


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the array, its index as a pickle of {id: row}, and a list of classes not AudioSet's.

    A row is a clip. Where clips have several segments, the row holds their mean or maximum, as
    `options.pool` says. Raises UserError where it says neither.
    """
    index = labels.index
    shape = (len(index), index.num_classes)
    max_segments = int(options.segmentation.count_segments(index.num_samples).max(initial=1))
    if max_segments > 1 and not options.pool:
        raise UserError(
            f"{path} would hold one row a clip, and these labels have up to {max_segments} "
            "segments a clip: give --pool=mean or --pool=max, or another --format"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    index_file, classes_file = path.with_suffix(".pkl"), find_classes_path(path)
    # The index of an earlier array goes first, so that a stopped export leaves no wrong pair.
    for stale in (index_file, classes_file):
        stale.unlink(missing_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
    ):
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for shard, first_clip in enumerate(index.shard_offsets[:-1]):
            _, values, counts = labels.read_shard(shard)
            for row, (clip_values, num_segments) in enumerate(zip(values, counts, strict=True)):
                label = label_file.pool_values(
                    clip_values[:num_segments].astype(np.float32), options.pool, 0
                )
                array[first_clip + row] = label_file.logit(label) if options.logits else label
        array.flush()
        del array
    written = [path, index_file]
    if index.classes != audioset_classes():
        written.append(classes_file)
        files.write_csv(classes_file, ["label"], [[name] for name in index.classes])
    with files.atomic_open(index_file, "wb") as file:
        pickle.dump({name: row for row, name in enumerate(index.ids.tolist())}, file, protocol=4)
    return written


def list_files(path: pathlib.Path, options: Options) -> list[pathlib.Path]:
    return [path, _find_index_path(path, options)]


def find_classes_path(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the list of a file's classes."""
    return path.with_name(f"{path.stem}.classes.csv")


def _find_index_path(path: pathlib.Path, options: Options) -> pathlib.Path:
    return options.index or path.with_suffix(".pkl")


class _NoCode(pickle.Unpickler):
    """Reads numbers, texts and containers, and refuses a pickle that names code to run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


# Files of another kind raise these: pickle promises no more than "any exception".
_NO_INDEX = (
    pickle.UnpicklingError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def _number_names(names: object, num_rows: int) -> dict[str, int]:
    """Returns the row of each name, from names in the order of the rows. Raises ValueError."""
    if not isinstance(names, list):
        raise ValueError("expected {name: row}, or a list of names")
    if len(names) != num_rows:
        raise ValueError(f"it has {len(names)} names, and the array {num_rows} rows")
    rows_by_name = {name: row for row, name in enumerate(names)}
    if len(rows_by_name) != len(names):
        raise ValueError("a name stands there twice")
    return rows_by_name


def _read_index(path: pathlib.Path, num_rows: int) -> dict[str, int]:
    """Reads the row of each name. Raises UserError for another form, or rows that do not exist."""
    try:
        if path.suffix == ".pkl":
            with open(path, "rb") as file:
                rows_by_name = _NoCode(file).load()
        else:
            text = path.read_text(encoding="utf-8-sig")
            names = json.loads(text) if path.suffix == ".json" else text.splitlines()
            rows_by_name = names if isinstance(names, dict) else _number_names(names, num_rows)
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no index of file names; give it with --index=FILE (a pickle or JSON "
            "of {name: row}, or a name a line)"
        ) from None
    except _NO_INDEX as error:
        raise UserError(f"{path} is no index of file names: {error}") from error
    if not isinstance(rows_by_name, Mapping) or not all(
        isinstance(name, str) and type(row) is int and 0 <= row < num_rows
        for name, row in rows_by_name.items()
    ):
        raise UserError(f"{path}: expected a row from 0 to {num_rows - 1} for each file name")
    return dict(sorted(rows_by_name.items(), key=lambda item: item[1]))
