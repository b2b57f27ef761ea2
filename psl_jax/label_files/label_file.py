"""What every format of label files is read as: rows of probabilities, a block at a time."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.runtime.errors import UserError

BLOCK_ROWS = 1024
POOLS = ("mean", "max")
GIVE_CLASSES = (
    "give their list: --classes=FILE.csv, with the column label, or index,mid,display_name"
)
SAME_SECONDS = 1e-3  # as far as a time may be from that of its segment

# The logits that stand for probabilities of 0 and 1, which have none: float16 rounds back to them.
_LARGEST_LOGIT = 30.0
# Rounding may carry a probability past 0 or 1 by so much.
_TOLERANCE = 1e-3


class Block(NamedTuple):
    """Some rows of a file: each holds for a segment, for a stretch of time, or for a whole clip."""

    names: Sequence[str]  # [n] clips, as the file calls them
    values: np.ndarray  # float32 [n, classes of the file], probabilities
    segments: np.ndarray | None = None  # int64 [n], numbers of segments
    onsets: np.ndarray | None = None  # float64 [n], seconds into the clip
    offsets: np.ndarray | None = None  # float64 [n]


class Wanted(NamedTuple):
    """What is asked for of a file.

    columns: numbers of its classes that are used; the values of others may be anything.
    num_samples: lengths of the data's clips by their names in the file, int64 [n]; 0 for clips of
      other data.
    """

    columns: Sequence[int]
    num_samples: Callable[[Sequence[str]], np.ndarray]


class LabelFile(Protocol):
    """A file opened for reading.

    Attributes:
      classes: its classes, in the order of `Block.values`.
      views: several rows for one segment are views of it, of which the mean is taken.
      padded: rows may lie past a clip's end, where there is nothing to label.
    """

    classes: tuple[str, ...]
    views: bool
    padded: bool

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """The rows, in the file's order; at most about BLOCK_ROWS at a time are in memory."""
        ...


@dataclasses.dataclass(frozen=True)
class Options:
    """How a file is read or written.

    Attributes:
      logits: its values are logits, not probabilities.
      segmentation: of the soft labels.
      classes: of the file, where it does not name them itself.
      index: a file that names its rows, where another one does that.
      top_k: how many classes of a row are written, where a format holds the highest only.
      fill: what stands for the other ones, see `top_k_files`.
      pool: mean or max over frames, or over the segments of a clip; "": not said.
    """

    logits: bool
    segmentation: Segmentation
    classes: tuple[str, ...] | None = None
    index: pathlib.Path | None = None
    top_k: int = 20
    fill: str = "mean"
    pool: str = ""


class Format(NamedTuple):
    """A kind of label file. `files` are those that belong to a path; of the options that only some
    formats know, `used` ones matter to reading it, `written` ones to writing it.

    read(path, options) opens a file; write(path, labels, options) writes soft labels.
    """

    about: str
    logits: bool  # unless told otherwise
    suffix: str
    read: Callable[[pathlib.Path, Options], LabelFile]
    write: Callable[[pathlib.Path, SoftLabels, Options], list[pathlib.Path]]
    files: Callable[[pathlib.Path, Options], list[pathlib.Path]]
    used: tuple[str, ...] = ()
    written: tuple[str, ...] = ()

    def settings(self, options: Options) -> dict[str, Any]:
        """What of the options changes the labels that are read."""
        made_with = [name for name in self.used if name != "index"]  # its content counts
        return {"logits": options.logits} | {name: getattr(options, name) for name in made_with}


def probabilities(values: np.ndarray, logits: bool, where: object) -> np.ndarray:
    """Values of a file as float32 probabilities, of the same shape.

    where: the file, and the place in it, for messages. Raises UserError for what is neither a
    logit nor a probability.
    """
    values = np.asarray(values, np.float32)
    if np.isnan(values).any():
        raise UserError(f"{where}: NaN is no label; was the file written to its end?")
    if logits:
        return sigmoid(values)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise UserError(
            f"{where}: {low if low < -_TOLERANCE else high:g} is no probability. If the file holds "
            "logits, say --values=logits"
        )
    return np.clip(values, 0, 1)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, float32 of any shape."""
    small = np.exp(-np.abs(np.asarray(logits, np.float32)))
    return np.where(np.asarray(logits) >= 0, 1 / (1 + small), small / (1 + small))


def logit(values: np.ndarray) -> np.ndarray:
    """Logits of probabilities, float32 of any shape; within ±30.

    `sigmoid` of them, rounded to float16, is the probability rounded to float16.
    """
    p = np.asarray(values, np.float64)
    with np.errstate(divide="ignore"):
        found = np.log(p) - np.log1p(-p)
    return np.clip(found, -_LARGEST_LOGIT, _LARGEST_LOGIT).astype(np.float32)


def pooled(values: np.ndarray, pool: str, axis: int) -> np.ndarray:
    """Mean (unless told otherwise) or maximum over an axis."""
    return values.max(axis=axis) if pool == "max" else values.mean(axis=axis)


class Rows(NamedTuple):
    """The segments of a shard of soft labels, clip after clip."""

    ids: np.ndarray  # [n] str
    segments: np.ndarray  # int64 [n]
    values: np.ndarray  # float16 [n, classes]


def shard_rows(labels: SoftLabels) -> Iterator[Rows]:
    """Soft labels shard by shard, without what only pads short clips."""
    for shard in range(len(labels.index.shard_sizes)):
        ids, values, counts = labels.read_shard(shard)
        inside = np.arange(values.shape[1]) < counts[:, None]
        clip, segment = np.nonzero(inside)
        yield Rows(ids[clip], segment, values[inside])


def row_blocks(labels: SoftLabels, rows: int) -> Iterator[Rows]:
    """The same in blocks of `rows` segments, whatever the size of shards; the last has the rest."""
    held: list[Rows] = []
    count = 0
    for part in shard_rows(labels):
        held.append(part)
        count += len(part.ids)
        if count >= rows:
            whole = Rows(*map(np.concatenate, zip(*held, strict=True)))
            cut = count // rows * rows
            for start in range(0, cut, rows):
                yield Rows(*(array[start : start + rows] for array in whole))
            held, count = [Rows(*(array[cut:] for array in whole))], count - cut
    if count:
        yield Rows(*map(np.concatenate, zip(*held, strict=True)))


def whole_number(value: str) -> int:
    """An integer in a table. Raises ValueError for anything else, 1.5 and nan too."""
    number = float(value)
    if not math.isfinite(number) or number != int(number):
        raise ValueError(f"{value!r} is no whole number")
    return int(number)
