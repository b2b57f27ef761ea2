"""Every format of label files is read as rows of probabilities, a block at a time."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from psl_jax.audio.segments import Segmentation
from psl_jax.networks import class_lists
from psl_jax.runtime.errors import MissingPackageError, UserError

BLOCK_ROWS = 1024
SAME_SECONDS = 1e-3  # a time may be so far from that of its segment

_GIVE_CLASSES = (
    "give their list: --classes=FILE.csv, with the column label, or index,mid,display_name"
)
# Rounding may carry a probability past 0 or 1 by so much.
_TOLERANCE = 1e-3
_FEW_LOGITS = 500  # which may all be from 0 to 1


class Block(NamedTuple):
    """Some rows of a file: each holds for a segment, for an interval, or for a whole clip."""

    names: Sequence[str]  # [n] clips, as the file calls them
    values: np.ndarray  # float32 [n, classes of the file], probabilities
    segments: np.ndarray | None = None  # int64 [n], numbers of segments
    onsets: np.ndarray | None = None  # float64 [n], seconds into the clip
    offsets: np.ndarray | None = None  # float64 [n]


class ReadRequest(NamedTuple):
    """What a reader of a file needs to know."""

    columns: Sequence[int]  # numbers of the classes that are used; others may have any values
    # The lengths of the data's clips from their names in the file, int64 [n]; 0 for others.
    num_samples: Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass
class LabelFile:
    """A file opened for reading."""

    paths: list[pathlib.Path]  # and those that belong to it: their contents decide the labels
    classes: tuple[str, ...]  # in the order of `Block.values`
    # Yields the rows in the file's order, at most about BLOCK_ROWS at a time. A segment has the
    # mean of its rows.
    blocks: Callable[[ReadRequest], Iterator[Block]]

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        with plain_errors(self.paths[0]):
            yield from self.blocks(request)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of reading a file."""

    logits: bool  # whether its values are logits, not probabilities
    segmentation: Segmentation  # that of the soft labels
    classes: tuple[str, ...] | None = None  # the file's, where it does not name them itself
    index: str = ""  # the file that says which clip each row is; empty: the one beside it


def name_classes(path: pathlib.Path, options: Options, width: int | None = None) -> tuple[str, ...]:
    """Names the `width` classes (None: any number) of a file: those of the user, or AudioSet's."""
    width = len(options.classes or class_lists.audioset_classes()) if width is None else width
    return class_lists.name_columns(options.classes, width, path, _GIVE_CLASSES)


def to_probabilities(values: np.ndarray, logits: bool, where: object) -> np.ndarray:
    """Converts values of a file to float32 probabilities of the same shape.

    where: the file, and the place in it, for messages. Raises UserError for a value that is neither
    a logit nor a probability.
    """
    values = np.asarray(values, np.float32)
    if np.isnan(values).any():
        raise UserError(f"{where}: NaN is no label; was the file written to its end?")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if logits and low == 0 < high <= 1 and values.size > _FEW_LOGITS:
        raise UserError(
            f"{where}: no logits, as all are from 0 to 1. If they are probabilities, say "
            "--values=probabilities"
        )
    if logits:
        return np.asarray(special.expit(values))
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise UserError(
            f"{where}: {low if low < -_TOLERANCE else high:g} is no probability. If the file holds "
            "logits, say --values=logits"
        )
    return np.asarray(np.clip(values, 0, 1))


@contextlib.contextmanager
def missing_library_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns a missing library into a UserError that says how to install it."""
    try:
        yield
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("h5py", "pyarrow"):
            raise
        raise MissingPackageError(path, library, "corpora") from error


@contextlib.contextmanager
def plain_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns a missing library, and a file that is missing or damaged, into a UserError."""
    try:
        with missing_library_errors(path):
            yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except (
        *(OSError, EOFError, LookupError, ValueError, TypeError, AttributeError),
        NotImplementedError,
    ) as error:
        # pyarrow's errors are OSErrors, ValueErrors and NotImplementedErrors, h5py's OSErrors and
        # KeyErrors; an HDF5 group where an array is expected has no shape.
        raise UserError(f"{path} is damaged, or no such file as expected: {error}") from error
