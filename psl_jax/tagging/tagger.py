"""Tags any waveform or audio file with times, by a finished model.

    model = psl_jax.load("runs/psl2s")
    tags = model.tag("street.mp3")
    tags.top(5)            # [("siren", 0.93), ...]
    tags.frame_scores      # [frames, classes], a row every 0.32 s at tags.frame_times

The network runs on arrays of a segment's length, padded where the audio is shorter. The padding has
no influence (see folding.FoldedNetwork).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NoReturn, overload

import jax
import jax.numpy as jnp
import numpy as np

from psl_jax.audio.audio_input import Blocks, OnOpen, open_blocks
from psl_jax.audio.decoding import MIN_SECONDS
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.networks.architecture import FrontEnd
from psl_jax.networks.class_lists import read_classes
from psl_jax.networks.folding import (
    FoldedNetwork,
    JaxOperations,
    frame_probabilities,
    scores_and_embeddings,
)
from psl_jax.networks.mobilenetv2 import FRAME_SAMPLES
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import Tags, check_number
from psl_jax.tagging.streaming import Stream
from psl_jax.tagging.windowing import Timeline, Window, compute_row_times, cut_segments
from psl_jax.weights.load_model import load_model

MAX_SEGMENT_SECONDS = 60.0
MIN_TAGGING_HOP_SECONDS = 0.01
HOP_SHARE = 0.25  # of a segment's length: measured in docs/RESULTS.md

_MAX_BATCH = 512

# Sizes of batches that are not full: each size needs another program.
_SMALL_BATCHES = (1, 8)

_Bytes = bytes | bytearray | memoryview
# A file, its content, or a waveform (see Tagger.tag).
Audio = str | os.PathLike[str] | _Bytes | BinaryIO | np.ndarray | jax.Array | Sequence[float]

_Windows = list[tuple[int, Window]]  # with the number of the waveform that each is of


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Rows [n, values] of waveform number `source` that became complete."""

    source: int
    rows: np.ndarray
    timeline: Timeline  # gives the length and the score of the waveform so far
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
        self.thresholds = model.thresholds.values
        self.median_filter = model.thresholds.median_filter
        self.info = model.info
        self.front_end = model.info.front_end
        tagging_seconds = model.info.architecture.tagging_seconds
        self.segment_seconds = min(model.info.segment_seconds, tagging_seconds)
        self._process = os.getpid()
        self._network = jax.device_put(model.folded)
        self.embedding_size = self._network.classifier.kernel.shape[0]
        # More audio in a batch gains nothing on a CPU, and accelerators have room.
        self.batch_seconds = 64.0 if jax.default_backend() == "cpu" else 640.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes over a pickled model, as processes do that were spawned."""
        self.__dict__.update(state, _process=os.getpid())

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
          audio: path, bytes or binary file object of a file (wav, flac, mp3, ogg, m4a, ...), or a
            waveform [samples], [samples, channels] or [channels, samples]: floating point in
            [-1, 1], or integers. A list of these is computed in batches across them.
          sample_rate: of waveforms, in Hz; not needed for files. Audio is resampled to the
            model's rate (`info.sample_rate`), several channels are averaged.
          segment_seconds: length of the segments that the network scores, by default the length
            that it was trained on; `scores` is the mean over them.
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
        audios = audio if is_list else [audio]
        timelines: dict[int, Timeline] = {}
        rows_by_number: list[list[np.ndarray]] = [[] for _ in audios]

        def refuse(number: int, error: Exception) -> NoReturn:
            name = _describe_audio(audios[number], number if is_list else None)
            raise UserError(f"{name}{error}") from error

        def open_sources() -> Iterator[Blocks]:
            for number, waveform in enumerate(audios):
                try:
                    yield self.open(waveform, sample_rate)
                except UserError as error:
                    refuse(number, error)

        for item in self.run(open_sources(), segmentation, embeddings=embeddings):
            if isinstance(item, ReadFailure):
                refuse(item.source, item.error)
            timelines[item.source] = item.timeline
            rows_by_number[item.source].append(item.rows)
        all_tags = [
            self.make_tags(np.concatenate(rows), timelines[number])
            for number, rows in enumerate(rows_by_number)
        ]
        return all_tags if is_list else all_tags[0]

    def make_tags(self, rows: np.ndarray, timeline: Timeline) -> Tags:
        """Makes the tags of a waveform of all its rows and its timeline, as `run` gives them."""
        # Behind the scores of the classes come the values of the embedding, if any.
        scores, embedding = np.split(timeline.score, [len(self.labels)])
        frame_scores, frame_embeddings = np.split(rows, [len(self.labels)], axis=1)
        return Tags(
            self.labels,
            scores,
            frame_scores,
            compute_row_times(len(rows)),
            timeline.seconds,
            self.thresholds,
            embedding if len(embedding) else None,
            frame_embeddings if len(embedding) else None,
            self.median_filter,
        )

    def stream(
        self,
        sample_rate: float = SAMPLE_RATE,
        *,
        segment_seconds: float | None = None,
        hop_seconds: float | None = None,
    ) -> Stream:
        """Opens a stream for audio that is still being recorded; takes the arguments of `tag`."""
        segmentation = self.segmentation(segment_seconds, hop_seconds)
        rate = self.info.sample_rate
        return Stream(self.compute, len(self.labels), segmentation, sample_rate, rate)

    def open(
        self, audio: Any, sample_rate: float | None = None, on_open: OnOpen | None = None
    ) -> Blocks:
        """Returns the blocks that `run` takes: `open_blocks` at the model's rate."""
        return open_blocks(audio, sample_rate, on_open, self.info.sample_rate)

    def segmentation(
        self, segment_seconds: float | None = None, hop_seconds: float | None = None
    ) -> Segmentation:
        """Returns how audio is cut into segments; takes arguments of `tag`.

        Raises UserError for values out of range.
        """
        if segment_seconds is None:
            segment_seconds = self.segment_seconds
        _check_seconds("segment_seconds", segment_seconds, MIN_SECONDS, MAX_SEGMENT_SECONDS)
        if hop_seconds is None:
            hop_seconds = max(segment_seconds * HOP_SHARE, MIN_TAGGING_HOP_SECONDS)
        _check_seconds("hop_seconds", hop_seconds, MIN_TAGGING_HOP_SECONDS, segment_seconds)
        return Segmentation(segment_seconds, hop_seconds)

    def compute(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Computes the network's scores [frames, classes] of windows of the same size."""
        self._check_process()
        program, scores = jit_program(self.front_end, embeddings=False), []
        for batch, rows in self._batch_windows((0, window) for window in windows):
            _, inputs = _put_on_device((batch, rows))
            scores += list(np.asarray(program(self._network, *inputs)))[: len(batch)]
        return scores

    def run(
        self, sources: Iterable[Blocks], segmentation: Segmentation, *, embeddings: bool = False
    ) -> Iterator[ScoredRows | ReadFailure]:
        """Runs the network over many waveforms, in batches across them and in bounded memory.

        sources: the waveforms; each is opened when its turn comes. embeddings: puts the values of
        the embedding behind the scores. Yields the rows of each waveform in order, up to its last
        ones or ReadFailure.
        """
        self._check_process()
        program = jit_program(self.front_end, embeddings=embeddings)
        timelines: dict[int, Timeline] = {}
        failed: set[int] = set()

        def cut_sources() -> Iterator[tuple[int, Window] | ReadFailure]:
            for number, blocks in enumerate(sources):
                try:
                    for window in cut_segments(blocks(), segmentation):
                        yield number, window
                except DecodeError as error:
                    yield ReadFailure(number, error)

        def compute_frames(_: Any, inputs: Any) -> jax.Array | None:
            return None if inputs is None else program(self._network, *inputs)

        batches = parallel.prefetch(self._batch_windows(cut_sources()), _put_on_device)
        for batch, result in parallel.compute_in_order(batches, compute_frames, alone=True):
            if isinstance(batch, ReadFailure):
                failed.add(batch.source)
                timelines.pop(batch.source, None)
                yield batch
                continue
            for (source, window), frames in zip(batch, np.asarray(result), strict=False):
                if source in failed:
                    continue
                timeline = timelines.setdefault(source, Timeline())
                rows = timeline.add(window, frames)
                if window.is_last:
                    del timelines[source]
                yield ScoredRows(source, rows, timeline, window.is_last)

    def _batch_windows(self, windows: Iterable[Any]) -> Iterator[tuple[_Windows, int] | Any]:
        """Yields (windows, rows of the batch), and ReadFailures as they come."""
        batch: _Windows = []
        had_full_batch = False
        for item in windows:
            if isinstance(item, ReadFailure):
                yield item
                continue
            batch.append(item)
            if len(batch) == self._batch_size(item[1]):
                yield batch, len(batch)
                batch, had_full_batch = [], True
        if batch:
            max_rows = self._batch_size(batch[0][1])
            # The program of a full batch is compiled: we use that one for fewer windows, too.
            small_sizes = () if had_full_batch else _SMALL_BATCHES
            fitting = (rows for rows in small_sizes if len(batch) <= rows < max_rows)
            yield batch, next(fitting, max_rows)

    def _batch_size(self, window: Window) -> int:
        return int(np.clip(round(self.batch_seconds * SAMPLE_RATE / window.size), 1, _MAX_BATCH))

    def _check_process(self) -> None:
        """Raises UserError in a forked process, where JAX would wait for ever."""
        if os.getpid() != self._process:
            raise UserError(
                "the model was loaded before this process was forked: load it in each process, or "
                "start processes with multiprocessing.get_context('spawn')"
            )


@functools.lru_cache
def jit_program(front_end: FrontEnd, *, embeddings: bool) -> Callable[..., jax.Array]:
    """Jits the function (network, audio, num_samples) -> [batch, frames, values].

    A network with one output for all of a segment has it in each of the segment's frames.
    """
    compute = scores_and_embeddings if embeddings else frame_probabilities

    def run(network: FoldedNetwork, audio: jax.Array, num_samples: jax.Array) -> jax.Array:
        features = front_end.of_piece(audio, num_samples)
        num_frames = front_end.num_frames(num_samples)
        values: jax.Array = compute(network, features, JaxOperations(), num_frames)
        if values.shape[1] > 1:
            return values
        frames = audio.shape[1] // FRAME_SAMPLES + 1
        return jnp.broadcast_to(values, (len(values), frames, values.shape[2]))

    return jax.jit(run)


def _put_on_device(work: tuple[_Windows, int] | ReadFailure) -> tuple[Any, Any]:
    """Puts the arrays of a batch on the device."""
    if isinstance(work, ReadFailure):
        return work, None
    batch, rows = work
    first = batch[0][1]
    audio = np.zeros((rows, first.size, *first.audio.shape[1:]), np.float32)
    num_samples = np.ones(rows, np.int32)
    for i, (_, window) in enumerate(batch):
        window.write(audio[i])
        num_samples[i] = len(window.audio)
    return batch, jax.device_put((audio, num_samples))


def _check_seconds(name: str, value: float, least: float, most: float) -> None:
    check_number(name, value)
    if not least <= value <= most:
        raise UserError(f"{name} is {value:g}, expected {least:g} to {most:g} seconds")


def _is_list(audio: Any) -> bool:
    """Tells whether `audio` is a list of waveforms or files, and not a waveform as numbers."""
    if not isinstance(audio, list | tuple):
        return False
    if not audio or isinstance(audio[0], str | os.PathLike | _Bytes):
        return True
    return hasattr(audio[0], "read") or (hasattr(audio[0], "__array__") and np.ndim(audio[0]) > 0)


def _describe_audio(audio: Any, number: int | None) -> str:
    """Returns the beginning of a message about `audio`; number: of the one in a list."""
    if isinstance(audio, str | os.PathLike):
        hint = "give a list of the files in it: " if os.path.isdir(audio) else ""
        return f"{audio}: {hint}"
    return "" if number is None else f"audio number {number} of the list: "


def load(
    path: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
) -> Tagger:
    """Loads a finished model, ready to tag: see `psl_jax.load`."""
    model = load_model(path, None if classes is None else read_classes(classes)[0])
    if labels is None:
        return Tagger(model)
    names = [labels] if isinstance(labels, str) else [str(name) for name in labels]
    if not names:
        raise UserError("no labels are left: name at least one class")
    tagger = Tagger(model.for_classes(names))
    tagger.model_labels = model.classes
    return tagger
