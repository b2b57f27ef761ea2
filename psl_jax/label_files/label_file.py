"""Every format of label files is read as rows of probabilities, a block at a time."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.runtime.errors import MissingPackageError, UserError

BLOCK_ROWS = 1024
POOLS = ("mean", "max")
GIVE_CLASSES = (
    "give their list: --classes=FILE.csv, with the column label, or index,mid,display_name"
)
SAME_SECONDS = 1e-3  # a time may be so far from that of its segment

# The logits that stand for probabilities of 0 and 1, which have none: float16 rounds back to them.
_LARGEST_LOGIT = 30.0
# Rounding may carry a probability past 0 or 1 by so much.
_TOLERANCE = 1e-3


class Block(NamedTuple):
    """Some rows of a file: each holds for a segment, for an interval, or for a whole clip."""

    names: Sequence[str]  # [n] clips, as the file calls them
    values: np.ndarray  # float32 [n, classes of the file], probabilities
    segments: np.ndarray | None = None  # int64 [n], numbers of segments
    onsets: np.ndarray | None = None  # float64 [n], seconds into the clip
    offsets: np.ndarray | None = None  # float64 [n]


class ReadRequest(NamedTuple):
    """What a reader of a file needs to know.

    columns: numbers of the classes that are used; the values of others may be anything.
    num_samples: returns the lengths of the data's clips from their names in the file, int64 [n]; 0
      for clips of other data.
    """

    columns: Sequence[int]
    num_samples: Callable[[Sequence[str]], np.ndarray]


class LabelFile(Protocol):
    """A file opened for reading.

    Attributes:
      classes: its classes, in the order of `Block.values`.
      has_views: several rows for one segment are views of it; the segment has their mean.
      may_pad: rows may lie past a clip's end, where there is nothing to label.
    """

    classes: tuple[str, ...]
    has_views: bool
    may_pad: bool

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        """Yields the rows in the file's order, at most about BLOCK_ROWS at a time."""
        ...


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of reading or writing a file.

    Attributes:
      logits: whether its values are logits, not probabilities.
      segmentation: that of the soft labels.
      classes: the file's classes, where it does not name them itself.
      index: the file that names the rows, where a format has one.
      top_k: number of classes that are written for a row, where a format holds the highest only.
      fill: mean, half or zero: the scores of the others, see `ced_format`.
      pool: mean or max over frames, or over the segments of a clip; "" where the user chose none.
      source: the clips, for formats that hold audio.
      audio: embedded (that of each segment) or reference (to a file of the clip).
    """

    logits: bool
    segmentation: Segmentation
    classes: tuple[str, ...] | None = None
    index: pathlib.Path | None = None
    top_k: int = 20
    fill: str = "mean"
    pool: str = ""
    source: Source | None = None
    audio: str = "embedded"


class Format(NamedTuple):
    """A format of label files.

    read(path, options) opens a file; write(path, labels, options) writes soft labels, None where a
    format is only read; files(path, options) lists the files that belong to a path. Some options
    belong to some formats only: `used` names those that change reading, `written` those that change
    writing.
    """

    about: str
    logits: bool  # by default
    suffix: str | None  # None: a folder
    read: Callable[[pathlib.Path, Options], LabelFile]
    write: Callable[[pathlib.Path, SoftLabels, Options], list[pathlib.Path]] | None
    files: Callable[[pathlib.Path, Options], list[pathlib.Path]]
    used: tuple[str, ...] = ()
    written: tuple[str, ...] = ()

    def settings(self, options: Options) -> dict[str, Any]:
        """The options that change the labels that are read."""
        option_names = [name for name in self.used if name != "index"]  # its content counts
        return {"logits": options.logits} | {name: getattr(options, name) for name in option_names}


def to_probabilities(values: np.ndarray, logits: bool, where: object) -> np.ndarray:
    """Converts values of a file to float32 probabilities of the same shape.

    where: the file, and the place in it, for messages. Raises UserError for a value that is neither
    a logit nor a probability.
    """
    values = np.asarray(values, np.float32)
    if np.isnan(values).any():
        raise UserError(f"{where}: NaN is no label; was the file written to its end?")
    if logits:
        return sigmoid(values)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low == -1 and high <= 1 + _TOLERANCE:
        raise UserError(
            f"{where}: -1 is an unknown label, and soft labels know all: give a probability there, "
            "or leave the row out"
        )
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise UserError(
            f"{where}: {low if low < -_TOLERANCE else high:g} is no probability. If the file holds "
            "logits, say --values=logits"
        )
    return np.asarray(np.clip(values, 0, 1))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Converts logits to probabilities, float32 of any shape."""
    decays = np.exp(-np.abs(np.asarray(logits, np.float32)))
    return np.where(np.asarray(logits) >= 0, 1 / (1 + decays), decays / (1 + decays))


def logit(values: np.ndarray) -> np.ndarray:
    """Converts probabilities to logits within ±30, float32 of any shape.

    `sigmoid` of them, rounded to float16, is the probability rounded to float16.
    """
    p = np.asarray(values, np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(p) - np.log1p(-p)
    return np.asarray(np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT), np.float32)


def pool_values(values: np.ndarray, method: str, axis: int) -> np.ndarray:
    """Computes the maximum over an axis where `method` is max, else the mean."""
    return np.asarray(values.max(axis=axis) if method == "max" else values.mean(axis=axis))


class Rows(NamedTuple):
    """The segments of a shard of soft labels, clip after clip."""

    ids: np.ndarray  # [n] str
    segments: np.ndarray  # int64 [n]
    values: np.ndarray  # float16 [n, classes]


def read_shard_rows(labels: SoftLabels) -> Iterator[Rows]:
    """Yields soft labels shard by shard, without the rows that pad short clips."""
    for shard in range(len(labels.index.shard_sizes)):
        ids, values, counts = labels.read_shard(shard)
        inside = np.arange(values.shape[1]) < counts[:, None]
        clip, segment = np.nonzero(inside)
        yield Rows(ids[clip], segment, values[inside])


def read_row_blocks(labels: SoftLabels, block_rows: int) -> Iterator[Rows]:
    """The same in blocks of `rows` segments, whatever the size of shards; the last has the rest."""
    buffered: list[Rows] = []
    num_buffered = 0
    for shard_rows in read_shard_rows(labels):
        buffered.append(shard_rows)
        num_buffered += len(shard_rows.ids)
        if num_buffered >= block_rows:
            joined = Rows(*map(np.concatenate, zip(*buffered, strict=True)))
            num_whole = num_buffered // block_rows * block_rows
            for start in range(0, num_whole, block_rows):
                yield Rows(*(array[start : start + block_rows] for array in joined))
            buffered, num_buffered = (
                [Rows(*(array[num_whole:] for array in joined))],
                num_buffered - num_whole,
            )
    if num_buffered:
        yield Rows(*map(np.concatenate, zip(*buffered, strict=True)))


def parse_whole_number(value: str) -> int:
    """Parses an integer of a table. Raises ValueError for anything else, 1.5 and nan too."""
    number = float(value)
    if not math.isfinite(number) or number != int(number):
        raise ValueError(f"{value!r} is no whole number")
    return int(number)


@contextlib.contextmanager
def plain_errors(path: pathlib.Path, library: str) -> Iterator[None]:
    """Turns a missing library, and a file that is missing or damaged, into a UserError."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise MissingPackageError(path, library, "corpora") from error
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        # pyarrow's errors are OSErrors and ValueErrors, h5py's OSErrors and KeyErrors; an HDF5
        # group where an array is expected has no shape.
        raise UserError(f"{path} is damaged, or no such file as expected: {error}") from error


def check_replaced(path: pathlib.Path, column: str) -> None:
    """Raises UserError where a Parquet file of another kind would be overwritten.

    Tables of labels, and CED's tables of rows, have the same suffix. column: the name of a column
    that only tables of the same kind have.
    """
    if not path.exists():
        return
    with plain_errors(path, "pyarrow"):
        import pyarrow.parquet

        columns = pyarrow.parquet.read_schema(path).names
    if column not in columns:
        raise UserError(
            f"{path} is there already and holds something else ({', '.join(columns[:4])}): choose "
            "another --out, or delete it"
        )
