"""EfficientAT's files: one array of logits [clips, classes], and an index of file names.

The index tells which row is whose: a pickle of {name: row}, as published (read without running any
code), or JSON of the same, or a text file with a name a line, in the order of the rows. Classes are
AudioSet's, or those of a CSV beside the array, which the export writes.
"""

import json
import pathlib
import pickle
from collections.abc import Iterator, Mapping

import numpy as np

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, Wanted
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import audioset_classes, read_classes
from psl_jax.runtime import files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError


class LogitArray:
    """A `.npy` file and its index, opened for reading."""

    views = padded = False

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
        stored = classes_path(path)
        names = read_classes(stored)[0] if stored.exists() and not options.classes else None
        width = self._values.shape[1]
        self.classes = class_lists.name_columns(options.classes or names, width, path, GIVE_CLASSES)
        self._rows = _read_index(_index_path(path, options), len(self._values))

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        names = list(self._rows)
        for start in range(0, len(names), label_file.BLOCK_ROWS):
            part = names[start : start + label_file.BLOCK_ROWS]
            values = self._values[[self._rows[name] for name in part]]
            where = f"{self.path}, row {self._rows[part[0]]} and more"
            yield Block(part, label_file.probabilities(values, self.options.logits, where))


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes the array, its index as a pickle of {id: row} and, for other classes than AudioSet's,
    the list of them.

    A row is a clip: where clips have several segments, `options.pool` says what of them it holds,
    and without it that is a UserError.
    """
    index = labels.index
    shape = (len(index), index.num_classes)
    most = int(options.segmentation.counts(index.num_samples).max(initial=1))
    if most > 1 and not options.pool:
        raise UserError(
            f"{path} would hold one row a clip, and these labels have up to {most} segments a "
            "clip: give --pool=mean or --pool=max, or another --format"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    names, classes = path.with_suffix(".pkl"), classes_path(path)
    # What told of an earlier array goes first: an export that is stopped leaves no wrong pair.
    for of_earlier in (names, classes):
        of_earlier.unlink(missing_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
    ):
        out = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for shard, low in enumerate(index.shard_offsets[:-1]):
            _, values, counts = labels.read_shard(shard)
            for row, (one, count) in enumerate(zip(values, counts, strict=True)):
                p = label_file.pooled(one[:count].astype(np.float32), options.pool, 0)
                out[low + row] = label_file.logit(p) if options.logits else p
        out.flush()
        del out
    written = [path, names]
    if index.classes != audioset_classes():
        written.append(classes)
        files.write_csv(classes, ["label"], [[name] for name in index.classes])
    with files.atomic_open(names, "wb") as file:
        pickle.dump({name: row for row, name in enumerate(index.ids.tolist())}, file, protocol=4)
    return written


def used_files(path: pathlib.Path, options: Options) -> list[pathlib.Path]:
    return [path, _index_path(path, options)]


def classes_path(path: pathlib.Path) -> pathlib.Path:
    """Where the list of a file's classes lies."""
    return path.with_name(f"{path.stem}.classes.csv")


def _index_path(path: pathlib.Path, options: Options) -> pathlib.Path:
    return options.index or path.with_suffix(".pkl")


class _NoCode(pickle.Unpickler):
    """Reads numbers, texts and containers; a pickle may name code to run, and is refused."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it names {module}.{name}")


# What files of another kind raise: pickle promises no more than "any exception", these are its own.
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


def _numbered(names: object, rows: int) -> dict[str, int]:
    """Row by name, of names in the order of the rows. Raises ValueError."""
    if not isinstance(names, list):
        raise ValueError("expected {name: row}, or a list of names")
    if len(names) != rows:
        raise ValueError(f"it has {len(names)} names, and the array {rows} rows")
    found = {name: row for row, name in enumerate(names)}
    if len(found) != len(names):
        raise ValueError("a name stands there twice")
    return found


def _read_index(path: pathlib.Path, rows: int) -> dict[str, int]:
    """Row by name. Raises UserError for a file of another form, or with rows that there are not."""
    try:
        if path.suffix == ".pkl":
            with open(path, "rb") as file:
                found = _NoCode(file).load()
        else:
            text = path.read_text(encoding="utf-8-sig")
            names = json.loads(text) if path.suffix == ".json" else text.splitlines()
            found = names if isinstance(names, dict) else _numbered(names, rows)
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no index of file names; give it with --index=FILE (a pickle or JSON "
            "of {name: row}, or a name a line)"
        ) from None
    except _NO_INDEX as error:
        raise UserError(f"{path} is no index of file names: {error}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and type(row) is int and 0 <= row < rows
        for name, row in found.items()
    ):
        raise UserError(f"{path}: expected a row from 0 to {rows - 1} for each file name")
    return dict(sorted(found.items(), key=lambda item: item[1]))
