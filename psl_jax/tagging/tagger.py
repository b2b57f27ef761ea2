"""Tags any waveform or audio file with times, and embeds it, by a finished model.

    model = psl_jax.load("runs/psl2s")
    tags = model.tag("street.mp3")
    tags.top(5)            # [("siren", 0.93), ...]
    tags.frame_scores      # [frames, classes], a row every 0.32 s at tags.frame_times

The network runs on arrays of few different shapes, padded where the audio is shorter. The padding
has no influence (see folding.FoldedNetwork), and tagging files of many lengths compiles few
programs.
"""

import dataclasses
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, overload

import jax
import numpy as np

from psl_jax.audio.audio_input import Blocks, OnOpen, open_blocks
from psl_jax.audio.decoding import MIN_SECONDS
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.networks.class_lists import read_classes
from psl_jax.networks.frontend import HOP, num_frames
from psl_jax.networks.mobilenetv2 import FRAME_SAMPLES
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD, Model
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.tagging import jitted_programs
from psl_jax.tagging.jitted_programs import FRAME_EMBEDDINGS, FRAME_SCORES, SCORES_AND_EMBEDDINGS
from psl_jax.tagging.streaming import Stream
from psl_jax.tagging.tags import Embedding, Tags
from psl_jax.tagging.windowing import (
    Timeline,
    Window,
    compute_row_times,
    cut_segments,
    cut_whole,
)
from psl_jax.weights.load_model import load_model

MAX_SEGMENT_SECONDS = 60.0
MIN_TAGGING_HOP_SECONDS = 0.01
HOP_SHARE = 0.25  # of a segment's length: measured in docs/RESULTS.md

# Seconds of audio in a batch: more gains nothing on a CPU, and accelerators have room.
_BATCH_SECONDS = {"cpu": 64.0}
_BATCH_SECONDS_ACCELERATOR = 640.0
_MAX_BATCH = 512

# Sizes of batches that are not full: each size needs another program.
_SMALL_BATCHES = (1, 8)

# A file, its content, or a waveform (see Tagger.tag).
Audio = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | np.ndarray
    | jax.Array
    | Sequence[float]
)

_INPUT_FRAMES = FRAME_SAMPLES // HOP  # 32 input frames make an output frame

# A window of a rare size waits for others of its size until so many others have come.
_PATIENCE = 256


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Rows [n, values] of waveform number `source` that became complete.

    Attributes:
      timeline: gives the length and the score of the waveform so far.
      is_last: whether no more rows follow.
    """

    source: int
    rows: np.ndarray
    timeline: Timeline
    is_last: bool


@dataclasses.dataclass(frozen=True)
class ReadFailure:
    """Waveform number `source` cannot be read (further); no more rows of it follow."""

    source: int
    error: DecodeError


class Tagger:
    """A model that tags audio.

    Attributes:
      labels: names of the classes.
      model_labels: names of all classes of the model, of which `labels` may be some.
      thresholds: the lowest score with which each class counts as present.
      median_filter: rows of the median filter that the thresholds were tuned with; 1: none.
      segment_seconds: length of segments by default: of those that the model was trained on.
      embedding_size: number of values of an embedding.
      info: other facts about the model (see trained_model.ModelInfo).
    """

    def __init__(self, model: Model):
        self.labels = self.model_labels = model.classes
        tuned = model.info.thresholds
        self.thresholds = (DEFAULT_THRESHOLD,) * len(self.labels) if tuned is None else tuned.values
        self.median_filter = 1 if tuned is None else tuned.median_filter
        self.info = model.info
        architecture = model.info.architecture
        self.segment_seconds = min(model.info.segment_seconds, architecture.tagging_seconds)
        self.front_end, self._has_frames = model.info.front_end, architecture.has_frames
        self._process = os.getpid()
        self._network = jax.device_put(model.folded)
        self.embedding_size = self._network.classifier.kernel.shape[0]
        platform = jax.default_backend()
        self.batch_seconds = _BATCH_SECONDS.get(platform, _BATCH_SECONDS_ACCELERATOR)

    def __repr__(self) -> str:
        name = self.info.name
        return f"<{name}: {len(self.labels)} classes, segments of {self.segment_seconds:g} s>"

    @overload
    def tag(  # type: ignore[overload-overlap]  # a text is also a sequence of texts
        self,
        audio: Audio,
        sample_rate: float | None = None,
        *,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
        embeddings: bool = False,
    ) -> Tags: ...

    @overload
    def tag(
        self,
        audio: Sequence[Audio],
        sample_rate: float | None = None,
        *,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
        embeddings: bool = False,
    ) -> list[Tags]: ...

    def tag(
        self,
        audio: Any,
        sample_rate: float | None = None,
        *,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
        embeddings: bool = False,
    ) -> Tags | list[Tags]:
        """Tags a waveform or a file, or a list of them: Tags, or a list of Tags.

        Args:
          audio: path of a file, the bytes of one, or a binary file object (wav, flac, mp3, ogg,
            m4a, ...), or a waveform [samples], [samples, channels] or
            [channels, samples]: floating point in [-1, 1], or integers. A list of these is
            computed in batches across them.
          sample_rate: of waveforms, in Hz; not needed for files. Audio is resampled to the
            model's rate (`info.sample_rate`), several channels are averaged.
          segment_seconds: length of the segments that the network scores, by default the length
            that it was trained on; `scores` is the mean over them. 0: the whole waveform in one
            pass.
          hop_seconds: seconds from one segment's start to the next, by default a quarter of their
            length. Where segments overlap, their frames are averaged, and those in the middle of a
            segment weigh more.
          embeddings: computes embeddings, too, in the same pass.

        Raises:
          UserError: for audio that cannot be read or is shorter than 0.1 s, and for settings out of
            range; it names the waveform of a list (`file_tagging.tag_files` goes on with the
            others).
        """
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        is_list = _is_list(audio)
        output = SCORES_AND_EMBEDDINGS if embeddings else FRAME_SCORES
        num_classes = len(self.labels)
        all_tags = []
        for timeline, rows in self._run_all(
            audio if is_list else [audio], sample_rate, segmentation, output, is_list
        ):
            tags = Tags(
                self.labels,
                timeline.score[:num_classes],
                rows[:, :num_classes],
                compute_row_times(len(rows)),
                timeline.seconds,
                self.thresholds,
                timeline.score[num_classes:] if embeddings else None,
                rows[:, num_classes:] if embeddings else None,
                self.median_filter,
            )
            all_tags.append(tags)
        return all_tags if is_list else all_tags[0]

    def stream(
        self,
        sample_rate: float = SAMPLE_RATE,
        *,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
    ) -> Stream:
        """Opens a stream for audio that is still being recorded; takes the arguments of `tag`.

        Raises UserError for segment_seconds=0: one pass needs all of the audio.
        """
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        if segmentation is None:
            raise UserError("a stream needs segments: give segment_seconds above 0")
        rate = self.info.sample_rate
        return Stream(self.compute, len(self.labels), segmentation, sample_rate, rate)

    def open(
        self, audio: Any, sample_rate: float | None = None, on_open: OnOpen | None = None
    ) -> Blocks:
        """Returns the blocks that `run` takes: `open_blocks` at the model's rate."""
        return open_blocks(audio, sample_rate, on_open, self.info.sample_rate)

    def segmentation(
        self, segment_seconds: float | None = None, hop_seconds: float | None = None
    ) -> Segmentation | None:
        """Returns how audio is cut into segments, None for one pass; takes arguments of `tag`.

        Raises UserError for values out of range.
        """
        if segment_seconds is None:
            segment_seconds = self.segment_seconds
        if not segment_seconds:
            if not self._has_frames:
                raise UserError(
                    f"segment_seconds is 0, and {self.info.architecture.title} has one output for "
                    "all of a segment: give more than 0"
                )
            if hop_seconds is not None:
                raise UserError("hop_seconds needs segments: there are none with segment_seconds=0")
            return None
        if not MIN_SECONDS <= segment_seconds <= MAX_SEGMENT_SECONDS:
            raise UserError(
                f"segment_seconds is {segment_seconds:g}, expected {MIN_SECONDS} to "
                f"{MAX_SEGMENT_SECONDS:g} seconds (0: the whole file)"
            )
        if hop_seconds is None:
            hop_seconds = max(segment_seconds * HOP_SHARE, MIN_TAGGING_HOP_SECONDS)
        if not MIN_TAGGING_HOP_SECONDS <= hop_seconds <= segment_seconds:
            raise UserError(
                f"hop_seconds is {hop_seconds:g}, expected {MIN_TAGGING_HOP_SECONDS} to "
                f"segment_seconds, {segment_seconds:g}"
            )
        return Segmentation(segment_seconds, hop_seconds)

    def embed(
        self,
        audio: Audio,
        sample_rate: float | None = None,
        *,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
    ) -> Embedding:
        """Embeds a waveform or a file; takes the arguments of `tag`, and raises its errors."""
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        ((timeline, rows),) = self._run_all(
            [audio], sample_rate, segmentation, FRAME_EMBEDDINGS, False
        )
        return Embedding(timeline.score, rows, compute_row_times(len(rows)))

    def _run_all(
        self,
        audios: Sequence[Any],
        sample_rate: float | None,
        segmentation: Segmentation | None,
        output: str,
        is_numbered: bool,
    ) -> list[tuple[Timeline, np.ndarray]]:
        """Runs all: (timeline, rows [frames, values]) of each. Raises UserError for a bad one."""
        timelines: dict[int, Timeline] = {}
        rows: list[list[np.ndarray]] = [[] for _ in audios]

        def open_sources() -> Iterator[Blocks]:
            for number, audio in enumerate(audios):
                try:
                    yield self.open(audio, sample_rate)
                except UserError as error:
                    raise UserError(
                        f"{_describe_audio(audio, number, is_numbered)}{error}"
                    ) from error

        for item in self.run(open_sources(), segmentation, output):
            if isinstance(item, ReadFailure):
                name = _describe_audio(audios[item.source], item.source, is_numbered)
                raise UserError(f"{name}{item.error}") from item.error
            timelines[item.source] = item.timeline
            rows[item.source].append(item.rows)
        return [
            (timelines[number], np.concatenate(waveform_rows))
            for number, waveform_rows in enumerate(rows)
        ]

    def compute(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Computes the network's scores [frames, classes] of windows of the same size."""
        self._check_process()
        program, scores = jitted_programs.jit_program(self.front_end, FRAME_SCORES), []
        batch_size = self._batch_size(windows[0].size)
        for first in range(0, len(windows), batch_size):
            batch = [
                _NumberedWindow(0, window, 0) for window in windows[first : first + batch_size]
            ]
            _, inputs = _put_on_device((batch, _choose_batch_rows(len(batch), batch_size)))
            scores += list(np.asarray(program(self._network, *inputs)))[: len(batch)]
        return scores

    def run(
        self,
        sources: Iterable[Blocks],
        segmentation: Segmentation | None = None,
        output: str = FRAME_SCORES,
    ) -> Iterator[ScoredRows | ReadFailure]:
        """Runs the network over many waveforms, in batches across them and in bounded memory.

        Args:
          sources: the waveforms; each is opened when its turn comes.
          segmentation: how to cut them; None: not at all.
          output: FRAME_SCORES, FRAME_EMBEDDINGS, or SCORES_AND_EMBEDDINGS: scores and behind them
            the embedding.

        Yields:
          The rows of each waveform in order, up to its last ones or ReadFailure. Waveforms of
          different lengths can finish in another order than they came in.
        """
        self._check_process()
        program = jitted_programs.jit_program(self.front_end, output)
        timelines: dict[int, Timeline] = {}
        failed: set[int] = set()

        def compute_frames(_: Any, inputs: Any) -> jax.Array | None:
            return None if inputs is None else program(self._network, *inputs)

        batches = parallel.prefetch(self._batch_windows(sources, segmentation), _put_on_device)
        for batch, result in parallel.compute_in_order(batches, compute_frames, alone=True):
            if isinstance(batch, ReadFailure):
                failed.add(batch.source)
                timelines.pop(batch.source, None)
                yield batch
                continue
            for (source, window, _), frames in zip(batch, np.asarray(result), strict=False):
                if source in failed:
                    continue
                timeline = timelines.setdefault(source, Timeline(segmentation is not None))
                rows = timeline.add(window, frames)
                if window.is_last:
                    del timelines[source]
                yield ScoredRows(source, rows, timeline, window.is_last)

    def _batch_windows(
        self, sources: Iterable[Blocks], segmentation: Segmentation | None
    ) -> Iterator["tuple[list[_NumberedWindow], int] | ReadFailure"]:
        """Yields (windows of the same size, rows of the batch), and waveforms that fail."""
        waiting: dict[int, list[_NumberedWindow]] = defaultdict(list)
        full_sizes: set[int] = set()
        num_windows = 0

        def take_batch(size: int) -> tuple[list[_NumberedWindow], int]:
            batch, batch_size = waiting.pop(size), self._batch_size(size)
            if len(batch) == batch_size:
                full_sizes.add(size)
            # A full batch of this size has compiled its program: we use that one for fewer, too.
            if size in full_sizes:
                return batch, batch_size
            return batch, _choose_batch_rows(len(batch), batch_size)

        for number, blocks in enumerate(sources):
            try:
                for window in self._cut(blocks, segmentation):
                    num_windows += 1
                    waiting[window.size].append(_NumberedWindow(number, window, num_windows))
                    if len(waiting[window.size]) == self._batch_size(window.size):
                        yield take_batch(window.size)
            except DecodeError as error:
                yield ReadFailure(number, error)
            late_sizes = [
                size for size, batch in waiting.items() if num_windows - batch[0].number > _PATIENCE
            ]
            for size in late_sizes:
                yield take_batch(size)
        for size in list(waiting):
            yield take_batch(size)

    def _cut(self, blocks: Blocks, segmentation: Segmentation | None) -> Iterator[Window]:
        if segmentation is not None:
            yield from cut_segments(blocks(), segmentation)
            return
        windows = cut_whole(blocks())
        first = next(windows)
        if first.is_last or not self.front_end.needs_loudest:
            yield first
            yield from windows
        else:  # each window needs the loudest value of all: the audio is read twice
            loudest = max(map(self._find_loudest, itertools.chain([first], windows)))
            yield from cut_whole(blocks(), loudest)

    def _find_loudest(self, window: Window) -> float:
        """Finds the loudest value in dB of the input frames that only this window covers."""
        row = np.zeros((1, window.size, *window.audio.shape[1:]), np.float32)
        window.write(row[0])
        frames = [_INPUT_FRAMES * window.first_frame, _INPUT_FRAMES * window.stop_frame]
        frames[1] = min(frames[1], num_frames(len(window.audio)))
        return float(jitted_programs.find_loudest(row, np.array([frames], np.int32))[0])

    def _check_process(self) -> None:
        """Raises UserError in a forked process, where JAX would wait for ever."""
        if os.getpid() != self._process:
            raise UserError(
                "the model was loaded before this process was forked: load it in each process, or "
                "start processes with multiprocessing.get_context('spawn')"
            )

    def _batch_size(self, size: int) -> int:
        """Returns the number of rows of `size` samples in a full batch."""
        return int(np.clip(round(self.batch_seconds * SAMPLE_RATE / size), 1, _MAX_BATCH))


class _NumberedWindow(NamedTuple):
    """A window of waveform number `source`, and its number among all windows."""

    source: int
    window: Window
    number: int


def _choose_batch_rows(num_windows: int, max_rows: int) -> int:
    """Chooses the number of rows of a batch for `num_windows` windows."""
    return next((rows for rows in _SMALL_BATCHES if num_windows <= rows < max_rows), max_rows)


def _put_on_device(work: tuple[list[_NumberedWindow], int] | ReadFailure) -> tuple[Any, Any]:
    """Puts the arrays of a batch on the device."""
    if isinstance(work, ReadFailure):
        return work, None
    batch, rows = work
    first = batch[0].window
    audio = np.zeros((rows, first.size, *first.audio.shape[1:]), np.float32)
    num_samples = np.ones(rows, np.int32)
    loudest = np.full(rows, np.nan, np.float32)
    for i, (_, window, _) in enumerate(batch):
        window.write(audio[i])
        num_samples[i], loudest[i] = len(window.audio), window.loudest
    return batch, jax.device_put((audio, num_samples, loudest))


def _is_list(audio: Any) -> bool:
    """Tells whether `audio` is a list of waveforms or files, and not a waveform as numbers."""
    if not isinstance(audio, list | tuple):
        return False
    if not audio or isinstance(audio[0], str | os.PathLike | bytes | bytearray | memoryview):
        return True
    return hasattr(audio[0], "read") or (hasattr(audio[0], "__array__") and np.ndim(audio[0]) > 0)


def _describe_audio(audio: Any, number: int, is_numbered: bool) -> str:
    """Returns the beginning of a message about `audio`."""
    if isinstance(audio, str | os.PathLike):
        hint = "give a list of the files in it: " if os.path.isdir(audio) else ""
        return f"{audio}: {hint}"
    return f"audio number {number} of the list: " if is_numbered else ""


def load(
    path: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
) -> Tagger:
    """Loads the model of a finished run, ready to tag.

    Args:
      path: a run folder, its `averaged` folder, or another path that `load_model` reads.
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
    tagger = Tagger(model.for_classes(labels))
    tagger.model_labels = model.classes
    return tagger
