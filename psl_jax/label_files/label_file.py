"""Every format of label files is read as rows of probabilities, a block at a time."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.networks import class_lists
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.settings import setting

BLOCK_ROWS = 1024
SAME_SECONDS = 1e-3  # a time may be so far from that of its segment
CLASSES_ATTRIBUTE = "classes"  # that exports add to HDF5 files where they are not AudioSet's

_GIVE_CLASSES = (
    "give their list: --classes=FILE.csv, with the column label, or index,mid,display_name"
)
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


@dataclasses.dataclass
class LabelFile:
    """A file opened for reading.

    Attributes:
      paths: the file, and those that belong to it: their contents decide the labels.
      classes: its classes, in the order of `Block.values`.
      blocks: yields the rows in the file's order, at most about BLOCK_ROWS at a time.
      has_views: several rows for one segment are views of it; the segment has their mean.
      may_pad: rows may lie past a clip's end, where there is nothing to label.
    """

    paths: list[pathlib.Path]
    classes: tuple[str, ...]
    blocks: Callable[[ReadRequest], Iterator[Block]]
    has_views: bool = False
    may_pad: bool = False

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        with plain_errors(self.paths[0]):
            yield from self.blocks(request)


@dataclasses.dataclass(frozen=True)
class FormatOptions:
    """Options that only some formats have, see `formats.Format`."""

    index: str = setting(
        "",
        help="npy, ced: file that says which clip each row is; empty: the one beside the label "
        "file",
    )
    fill: str = setting(
        "mean",
        choices=("mean", "half", "zero"),
        help="ced: value of each class left out of a row: mean: the lowest kept value, divided by "
        "the number of these classes; half: half of the lowest; zero: 0",
    )
    pool: str = setting(
        "",
        choices=("mean", "max"),
        help="How frames are pooled into a segment; of npy, a clip's segments into its one row",
    )
    top_k: int = setting(20, least=1, help="ced: number of classes kept in a row")
    audio: str = setting(
        "embedded",
        choices=("embedded", "reference"),
        help="hf: embedded: each row holds its segment's audio; reference: rows name a file with "
        "the whole clip",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(FormatOptions):
    """Options of reading or writing a file.

    Attributes:
      logits: whether its values are logits, not probabilities.
      segmentation: that of the soft labels.
      classes: the file's classes, where it does not name them itself.
      source: the clips, for formats that hold audio.
    """

    logits: bool
    segmentation: Segmentation
    classes: tuple[str, ...] | None = None
    source: Source | None = None


def name_classes(
    path: pathlib.Path,
    options: Options,
    stored: Iterable[object] | None = None,
    width: int | None = None,
) -> tuple[str, ...]:
    """Names the `width` classes of a file: those of the user, those stored in it, or AudioSet's."""
    names = options.classes or (None if stored is None else tuple(map(str, stored)))
    width = len(names or class_lists.audioset_classes()) if width is None else width
    return class_lists.name_columns(names, width, path, _GIVE_CLASSES)


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
    return np.asarray(special.expit(np.asarray(logits, np.float32)))


def logit(values: np.ndarray) -> np.ndarray:
    """Converts probabilities to logits within ±30, float32 of any shape.

    `sigmoid` of them, rounded to float16, is the probability rounded to float16.
    """
    logits = special.logit(np.asarray(values, np.float64))
    return np.asarray(np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT), np.float32)


def to_file_values(probabilities: np.ndarray, options: Options) -> np.ndarray:
    """Converts soft labels to what a file holds: float32 probabilities or logits."""
    return logit(probabilities) if options.logits else probabilities.astype(np.float32)


class Rows(NamedTuple):
    """Segments of soft labels, clip after clip."""

    ids: np.ndarray  # [n] str
    segments: np.ndarray  # int64 [n]
    values: np.ndarray  # float16 [n, classes]


def read_rows(labels: SoftLabels, min_rows: int = 1) -> Iterator[Rows]:
    """Yields soft labels, whole shards at a time: as many as have `min_rows` segments."""
    buffered: list[Rows] = []
    num_shards = len(labels.index.shard_sizes)
    for shard in range(num_shards):
        ids, values, counts = labels.read_shard(shard)
        clips, segments = np.nonzero(np.arange(values.shape[1]) < counts[:, None])
        buffered.append(Rows(ids[clips], segments, values[clips, segments]))
        if shard == num_shards - 1 or sum(len(rows.ids) for rows in buffered) >= min_rows:
            yield Rows(*map(np.concatenate, zip(*buffered, strict=True)))
            buffered = []


def read_clips(labels: SoftLabels) -> Iterator[np.ndarray]:
    """Yields the soft labels of each clip in order: float16 [segments, classes]."""
    for shard in range(len(labels.index.shard_sizes)):
        _, values, counts = labels.read_shard(shard)
        for clip_values, num_segments in zip(values, counts, strict=True):
            yield clip_values[:num_segments]


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
    except (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        # pyarrow's errors are OSErrors and ValueErrors, h5py's OSErrors and KeyErrors; an HDF5
        # group where an array is expected has no shape.
        raise UserError(f"{path} is damaged, or no such file as expected: {error}") from error


def check_replaced(path: pathlib.Path, column: str) -> None:
    """Raises UserError where a Parquet file of another kind would be overwritten.

    Tables of labels, and CED's tables of rows, have the same suffix. column: the name of a column
    that only tables of the same kind have.
    """
    import pyarrow.parquet

    if not path.exists():
        return
    with plain_errors(path):
        columns = pyarrow.parquet.read_schema(path).names
    if column not in columns:
        raise UserError(
            f"{path} is there already and holds something else ({', '.join(columns[:4])}): choose "
            "another --out, or delete it"
        )
