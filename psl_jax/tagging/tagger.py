"""A finished model for use: tags with times, and embeddings, for any waveform or audio file.

    model = psl_jax.load("runs/psl2s")
    tags = model.tag("street.mp3")
    tags.top(5)            # [("siren", 0.93), ...]
    tags.frame_scores      # [frames, classes], a row every 0.32 s at tags.frame_times

The network runs on arrays of few different shapes, padded where the audio is shorter. The padding
has no influence (see folding.embeddings), and tagging files of many lengths compiles few
programs.
"""

import dataclasses
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from psl_jax.audio.audio_input import Blocks, blocks_of
from psl_jax.audio.decoding import MIN_SECONDS, DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.networks.class_lists import read_classes
from psl_jax.networks.folding import fold
from psl_jax.networks.frontend import HOP, num_frames
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD, Model
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.tagging import jitted_programs
from psl_jax.tagging.jitted_programs import BOTH, EMBEDDING, SCORES
from psl_jax.tagging.streaming import Stream
from psl_jax.tagging.tags import Embedding, Tags
from psl_jax.tagging.windowing import (
    FRAME_SAMPLES,
    Piece,
    Timeline,
    cut_segments,
    cut_whole,
    row_times,
)
from psl_jax.weights.load_model import load_model

MAX_SEGMENT_SECONDS = 60.0
MIN_HOP_SECONDS = 0.01
HOP_SHARE = 0.25  # of a segment: measured in docs/RESULTS.md

# Audio computed at once, in seconds: more gains nothing on a CPU, and accelerators have room.
_BATCH_SECONDS = {"cpu": 64.0}
_BATCH_SECONDS_ACCELERATOR = 640.0
_MAX_BATCH = 512

# Rows of batches that are not full: each number is a program of its own to compile.
_FEW = (1, 8)

_INPUT_FRAMES = FRAME_SAMPLES // HOP  # that make an output frame: 32

# Pieces of an odd size wait for others of their size until so many others have come.
_PATIENCE = 256


@dataclasses.dataclass(frozen=True)
class Scored:
    """Rows [n, values] of waveform number `source` that became complete.

    Attributes:
      timeline: what is known of the waveform by now: its length and its score.
      is_last: no more rows follow.
    """

    source: int
    rows: np.ndarray
    timeline: Timeline
    is_last: bool


@dataclasses.dataclass(frozen=True)
class Failed:
    """Waveform number `source` cannot be read (further); nothing more comes of it."""

    source: int
    error: DecodeError


class Tagger:
    """A model that tags.

    Attributes:
      labels: names of the classes.
      model_labels: those of the whole model, where it was loaded for some of them.
      thresholds: from which score on each of them counts as heard.
      segment_seconds: length of the segments that the model was trained on.
      info: what else is known of the model (see checkpoints.Model).
    """

    def __init__(self, model: Model):
        self.labels = self.model_labels = model.classes
        tuned = model.info.thresholds
        self.thresholds = (DEFAULT_THRESHOLD,) * len(self.labels) if tuned is None else tuned.values
        self.info = model.info
        self.segment_seconds = model.info.segment_seconds
        self.logmel = model.info.logmel
        self._process = os.getpid()
        self._network = jax.device_put(fold(model.variables, model.info.output))
        kind = jax.default_backend()
        self.batch_seconds = _BATCH_SECONDS.get(kind, _BATCH_SECONDS_ACCELERATOR)

    def __repr__(self) -> str:
        name = self.info.name
        return f"<{name}: {len(self.labels)} classes, segments of {self.segment_seconds:g} s>"

    def tag(
        self,
        audio: Any,
        sample_rate: float | None = None,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
        embeddings: bool = False,
    ) -> Any:
        """Tags a waveform or a file, or a list of them: Tags, or a list of Tags.

        Args:
          audio: path of a file, the bytes of one, or a binary file object (wav, flac, mp3, ogg,
            m4a, ...), or a waveform [samples], [samples, channels] or
            [channels, samples]: floating point in [-1, 1], or integers. A list of these is
            computed in batches across them.
          sample_rate: of waveforms, in Hz; not needed for files. Anything but 16 kHz is
            resampled, several channels are averaged.
          segment_seconds: length of the segments that the network is given, by default of those
            that it was trained on; `scores` is the mean over them. 0: the whole waveform in one
            pass.
          hop_seconds: distance of the segments' starts, by default a quarter of their length.
            Where segments overlap, their frames are averaged, and those in the middle of a segment
            weigh more.
          embeddings: give those, too, from the same pass.

        Raises:
          UserError: audio that cannot be read, is shorter than 0.1 s, or settings out of range; it
            says which of a list (`tagged_files.tag_files` goes on with the others).
        """
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        many = _is_list(audio)
        output = BOTH if embeddings else SCORES
        classes = len(self.labels)
        found = []
        for timeline, rows in self._run_all(
            audio if many else [audio], sample_rate, segmentation, output, many
        ):
            tags = Tags(
                self.labels,
                timeline.score[:classes],
                rows[:, :classes],
                row_times(len(rows)),
                timeline.seconds,
                self.thresholds,
                timeline.score[classes:] if embeddings else None,
                rows[:, classes:] if embeddings else None,
            )
            found.append(tags)
        return found if many else found[0]

    def stream(
        self,
        sample_rate: float = SAMPLE_RATE,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
    ) -> Stream:
        """For audio that is still being recorded: see Stream. Other arguments are those of `tag`.

        Raises UserError for segment_seconds=0: one pass needs all of the audio.
        """
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        if segmentation is None:
            raise UserError("a stream needs segments: give segment_seconds above 0")
        return Stream(self.compute, len(self.labels), segmentation, sample_rate)

    def segmentation(
        self, segment_seconds: float | None = None, hop_seconds: float | None = None
    ) -> Segmentation | None:
        """How audio is cut, None: not at all; arguments are those of `tag`.

        Raises UserError for values out of range.
        """
        if segment_seconds is None:
            segment_seconds = self.segment_seconds
        if not segment_seconds:
            if hop_seconds is not None:
                raise UserError("hop_seconds needs segments: there are none with segment_seconds=0")
            return None
        if not MIN_SECONDS <= segment_seconds <= MAX_SEGMENT_SECONDS:
            raise UserError(
                f"segment_seconds is {segment_seconds:g}, expected {MIN_SECONDS} to "
                f"{MAX_SEGMENT_SECONDS:g} seconds (0: the whole file)"
            )
        if hop_seconds is None:
            hop_seconds = max(segment_seconds * HOP_SHARE, MIN_HOP_SECONDS)
        if not MIN_HOP_SECONDS <= hop_seconds <= segment_seconds:
            raise UserError(
                f"hop_seconds is {hop_seconds:g}, expected {MIN_HOP_SECONDS} to segment_seconds, "
                f"{segment_seconds:g}"
            )
        return Segmentation(segment_seconds, hop_seconds)

    def embed(
        self,
        audio: Any,
        sample_rate: float | None = None,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
    ) -> Embedding:
        """Embeds a waveform or a file; arguments and errors are those of `tag`."""
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        ((timeline, rows),) = self._run_all([audio], sample_rate, segmentation, EMBEDDING, False)
        return Embedding(timeline.score, rows, row_times(len(rows)))

    def _run_all(
        self,
        audios: Sequence[Any],
        sample_rate: float | None,
        segmentation: Segmentation | None,
        output: str,
        numbered: bool,
    ) -> list[tuple[Timeline, np.ndarray]]:
        """(timeline, rows [frames, values]) of each. Raises UserError for the first bad one."""
        timelines: dict[int, Timeline] = {}
        rows: list[list[np.ndarray]] = [[] for _ in audios]

        def sources() -> Iterator[Blocks]:
            for number, audio in enumerate(audios):
                try:
                    yield blocks_of(audio, sample_rate)
                except UserError as error:
                    raise UserError(f"{_named(audio, number, numbered)}{error}") from error

        for item in self.run(sources(), segmentation, output):
            if isinstance(item, Failed):
                name = _named(audios[item.source], item.source, numbered)
                raise UserError(f"{name}{item.error}") from item.error
            timelines[item.source] = item.timeline
            rows[item.source].append(item.rows)
        return [(timelines[number], np.concatenate(own)) for number, own in enumerate(rows)]

    def compute(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """The network's scores [frames, classes] of pieces of one size."""
        self._check_process()
        program, found = jitted_programs.program(self.logmel, SCORES), []
        size = self._batch_size(pieces[0].size)
        for first in range(0, len(pieces), size):
            entries = [_Entry(0, piece, 0) for piece in pieces[first : first + size]]
            _, inputs = _put((entries, _rows(len(entries), size)))
            found += list(np.asarray(program(self._network, *inputs)))[: len(entries)]
        return found

    def run(
        self,
        sources: Iterable[Blocks],
        segmentation: Segmentation | None = None,
        output: str = SCORES,
    ) -> Iterator[Scored | Failed]:
        """Runs the network over many waveforms, in batches across them and in bounded memory.

        Args:
          sources: what to read them from; each is opened when its turn comes.
          segmentation: None: each whole.
          output: SCORES, EMBEDDING, or BOTH: scores and behind them the embedding.

        Yields:
          The rows of one waveform in order, up to its last ones or Failed. Waveforms of different
          lengths can finish in another order than they came in.
        """
        self._check_process()
        program = jitted_programs.program(self.logmel, output)
        timelines: dict[int, Timeline] = {}
        failed: set[int] = set()

        def frames_of(_: Any, inputs: Any) -> jax.Array | None:
            return None if inputs is None else program(self._network, *inputs)

        batches = parallel.prefetch(self._work(sources, segmentation), _put)
        for entries, result in parallel.compute_in_order(batches, frames_of, alone=True):
            if isinstance(entries, Failed):
                failed.add(entries.source)
                timelines.pop(entries.source, None)
                yield entries
                continue
            for (source, piece, _), frames in zip(entries, np.asarray(result), strict=False):
                if source in failed:
                    continue
                timeline = timelines.setdefault(source, Timeline(segmentation is not None))
                rows = timeline.add(piece, frames)
                if piece.last:
                    del timelines[source]
                yield Scored(source, rows, timeline, piece.last)

    def _work(
        self, sources: Iterable[Blocks], segmentation: Segmentation | None
    ) -> Iterator["tuple[list[_Entry], int] | Failed"]:
        """(pieces of the same size, rows to compute them in), and what cannot be read."""
        waiting: dict[int, list[_Entry]] = defaultdict(list)
        filled: set[int] = set()
        count = 0

        def taken(size: int) -> tuple[list[_Entry], int]:
            entries, most = waiting.pop(size), self._batch_size(size)
            if len(entries) == most:
                filled.add(size)
            # The program of full batches is there already; else a smaller one costs as much.
            return entries, most if size in filled else _rows(len(entries), most)

        for number, blocks in enumerate(sources):
            try:
                for piece in self._pieces(blocks, segmentation):
                    count += 1
                    waiting[piece.size].append(_Entry(number, piece, count))
                    if len(waiting[piece.size]) == self._batch_size(piece.size):
                        yield taken(piece.size)
            except DecodeError as error:
                yield Failed(number, error)
            late = [n for n, held in waiting.items() if count - held[0].number > _PATIENCE]
            for size in late:
                yield taken(size)
        for size in list(waiting):
            yield taken(size)

    def _pieces(self, blocks: Blocks, segmentation: Segmentation | None) -> Iterator[Piece]:
        if segmentation is not None:
            yield from cut_segments(blocks(), segmentation)
            return
        pieces = cut_whole(blocks())
        first = next(pieces)
        if first.last or self.logmel.top_db_over == "none":
            yield first
            yield from pieces
        else:  # its pieces need to know the loudest value of all: the audio is read twice
            loudest = max(map(self._loudest, itertools.chain([first], pieces)))
            yield from cut_whole(blocks(), loudest)

    def _loudest(self, piece: Piece) -> float:
        """Loudest value in dB of the input frames that only this piece covers."""
        row = np.zeros((1, piece.size), np.float32)
        piece.write(row[0])
        frames = [_INPUT_FRAMES * piece.first, _INPUT_FRAMES * piece.stop]
        frames[1] = min(frames[1], num_frames(len(piece.audio)))
        return float(jitted_programs.loudest_of(row, np.array([frames], np.int32))[0])

    def _check_process(self) -> None:
        """Raises UserError in a forked process, where JAX would wait for ever."""
        if os.getpid() != self._process:
            raise UserError(
                "the model was loaded before this process was forked: load it in each process, or "
                "start processes with multiprocessing.get_context('spawn')"
            )

    def _batch_size(self, size: int) -> int:
        """Rows of `size` samples to compute at a time."""
        return int(np.clip(round(self.batch_seconds * SAMPLE_RATE / size), 1, _MAX_BATCH))


class _Entry(NamedTuple):
    """A piece of waveform number `source`, and its number among all pieces."""

    source: int
    piece: Piece
    number: int


def _rows(pieces: int, most: int) -> int:
    """Rows of a batch for so many pieces."""
    return next((n for n in _FEW if pieces <= n < most), most)


def _put(work: tuple[list[_Entry], int] | Failed):
    """Puts the arrays of a batch on the device."""
    if isinstance(work, Failed):
        return work, None
    entries, rows = work
    audio = np.zeros((rows, entries[0].piece.size), np.float32)
    num_samples = np.ones(rows, np.int32)
    loudest = np.full(rows, np.nan, np.float32)
    for i, (_, piece, _) in enumerate(entries):
        piece.write(audio[i])
        num_samples[i], loudest[i] = len(piece.audio), piece.loudest
    return entries, jax.device_put((audio, num_samples, loudest))


def _is_list(audio: Any) -> bool:
    """Whether `audio` is several, and not one waveform as a list of numbers."""
    if not isinstance(audio, list | tuple):
        return False
    if not audio or isinstance(audio[0], str | os.PathLike | bytes | bytearray | memoryview):
        return True
    return hasattr(audio[0], "read") or (hasattr(audio[0], "__array__") and np.ndim(audio[0]) > 0)


def _named(audio: Any, number: int, numbered: bool) -> str:
    """What to begin a message about `audio` with."""
    if isinstance(audio, str | os.PathLike):
        hint = "give a list of the files in it: " if os.path.isdir(audio) else ""
        return f"{audio}: {hint}"
    return f"audio number {number} of the list: " if numbered else ""


def load(
    path: str | os.PathLike,
    labels: Sequence[str] | None = None,
    classes: str | os.PathLike | None = None,
) -> Tagger:
    """The model of a finished run, ready to tag.

    Args:
      path: a run folder, its `averaged` folder, or another path that weights.load_model reads.
      labels: names of the classes to tag, in this order; by default all of the model's.
      classes: CSV of the classes of a published `.pt`; by default AudioSet's.

    Raises:
      UserError: there is no model, or it lacks a class; the message says what is missing.
    """
    model = load_model(path, None if classes is None else read_classes(classes)[0])
    if labels is None:
        return Tagger(model)
    if not labels:
        raise UserError("no labels are left: name at least one class")
    some = Tagger(model.for_classes(labels))
    some.model_labels = model.classes
    return some
