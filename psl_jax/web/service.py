"""Works on uploads, one at a time: tags, drawings of the page, and sound to play."""

import contextlib
import dataclasses
import io
import json
import tempfile
import threading
import wave
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np
import soundfile

from psl_jax.audio.audio_input import limit_blocks, open_blocks
from psl_jax.audio.decoding import read_form
from psl_jax.audio.readers import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.tagging import spectrogram
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.file_tagging import BadFile, FileTags, Input, KeepOptions, tag_files
from psl_jax.tagging.tagger import ReadFailure, Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS, MaxPool

_USUAL_RATE = 2 * 48_000  # samples of all channels per second that a usual file has
_MEL_COLUMNS = 30_000  # columns of the spectrogram: 10 ms each up to 5 minutes
_WAVE_COLUMNS = 30_000
_WAVE_SAMPLES = 80  # a column of the waveform has at least so many samples
_LIVE_SECONDS = 10.0  # used where files are tagged whole
_LIVE_FRAMES = 2
_COPY_BYTES = 1 << 20

# What to do with files that are too large or too long.
ELSEWHERE = "for others use psl-jax tag."


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the size and length of a file."""

    megabytes: float
    minutes: float


class RefusedError(Exception):
    """A request that is answered with `status` and a message for its sender.

    kind: as in DecodeError; the page converts a file that is "undecodable" here if the browser
      plays it.
    """

    def __init__(self, status: int, message: str, kind: str = ""):
        super().__init__(message)
        self.status, self.kind = status, kind


class CancelledError(Exception):
    """Raised when nobody waits for the answer any more."""


class Job:
    """The state of an upload: whether its sender has gone, and the progress of its tagging."""

    def __init__(self) -> None:
        self.has_gone = threading.Event()
        self.has_begun = False
        self.seconds = 0.0  # seconds of audio that are tagged

    def check(self, new_seconds: float = 0.0) -> None:
        """Raises CancelledError where nobody waits any more."""
        self.seconds += new_seconds
        if self.has_gone.is_set():
            raise CancelledError


@dataclasses.dataclass(frozen=True)
class Cut:
    """A clip to be cut from a recording, in seconds, and its file name."""

    onset: float
    offset: float
    name: str


class Service:
    """Works on uploads, one at a time.

    Attributes:
      tagger: the model.
      segmentation: how files are cut; None: not at all.
      settings: settings of events for requests without their own.
    """

    def __init__(
        self,
        tagger: Tagger,
        segmentation: Segmentation | None,
        settings: EventSettings,
        limits: Limits,
    ):
        self.tagger, self.segmentation = tagger, segmentation
        self.settings, self.limits = settings, limits
        self._lock = threading.Lock()
        # It has its own thread: the server's threads answer other requests meanwhile.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="tag")

    def warm_up(self) -> None:
        """Compiles, before the first file comes, for files of one segment and of several."""
        segmentation = self.segmentation
        lengths = (
            (segmentation.seconds, 2 * segmentation.seconds + 1)
            if segmentation
            else (5.0, 10.0, 60.0)
        )
        with self._lock:
            for seconds in lengths:
                silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
                list(self.tagger.run([self.tagger.open(silence, SAMPLE_RATE)], segmentation))
            spectrogram.compute_spectrogram(
                open_blocks(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
            )

    def tag(
        self,
        path: str,
        name: str,
        job: Job,
        settings: EventSettings | None = None,
        segmentation: Segmentation | None = None,
        rows: bool = False,
        watch: Callable[[Input, np.ndarray], object] | None = None,
    ) -> FileTags:
        """Tags an uploaded file. Raises RefusedError, or CancelledError.

        rows: keeps the scores over time, too. watch: is called with each block of samples.
        """
        job.has_begun = True
        with self._lock:
            job.check()
            result = next(
                tag_files(
                    self.tagger,
                    [Input(path, name)],
                    segmentation=segmentation or self.segmentation,
                    settings=settings or self.settings,
                    keep=KeepOptions(rows=rows),
                    report_seconds=job.check,
                    watch_block=watch,
                    max_seconds=self._find_max_seconds(path, name),
                )
            )
        if isinstance(result, BadFile):
            raise self._make_refusal(result.error, name)
        return dataclasses.replace(result, input=Input(name, name))

    def analyse(
        self, path: str, name: str, job: Job, segmentation: Segmentation | None = None
    ) -> Iterator[bytes]:
        """Computes all that the page shows of an uploaded file, packed. Raises as `tag` does."""
        mel, waveform = spectrogram.Spectrogram(_MEL_COLUMNS), _Waves()

        def watch(_: Input, block: np.ndarray) -> None:
            mel.add(block)
            waveform.add(block)

        tags = self.tag(path, name, job, None, segmentation, rows=True, watch=watch)
        decibels, step = mel.finish()
        return pack(tags, spectrogram.to_bytes(decibels), step, waveform.to_bytes())

    @property
    def live_seconds(self) -> float:
        """Seconds of sound that `score_live` takes, at most."""
        return self.segmentation.seconds if self.segmentation else _LIVE_SECONDS

    def score_live(self, samples: np.ndarray) -> np.ndarray:
        """Scores the last 0.64 s of int16 [samples] at 16 kHz: [classes].

        It does not wait for the uploads.
        """
        rows = []
        for item in self.tagger.run([lambda: iter([samples])], self.segmentation):
            if isinstance(item, ReadFailure):
                raise self._make_refusal(item.error, "the recording")
            rows.append(item.rows)
        return np.asarray(np.concatenate(rows)[-_LIVE_FRAMES:].mean(axis=0))

    def decode(self, path: str, name: str, job: Job) -> IO[bytes]:
        """Decodes a file to a WAV, which any browser plays. Raises RefusedError."""
        max_seconds = self._find_max_seconds(path, name)
        with contextlib.ExitStack() as undo:
            target = undo.enter_context(tempfile.TemporaryFile())
            try:
                with _open_wav(target) as file:
                    for block in limit_blocks(open_blocks(path), max_seconds)():
                        job.check()
                        file.writeframes(block.astype("<i2").tobytes())
            except DecodeError as error:
                raise self._make_refusal(error, name) from error
            target.seek(0)
            undo.pop_all()
        return target

    def cut(self, path: str, name: str, job: Job, cuts: Sequence[Cut]) -> IO[bytes]:
        """Cuts clips from a file into a ZIP of WAV files. Raises RefusedError.

        Clips have the file's rate and channels where libsndfile reads it, else 16 kHz and one
        channel.
        """
        self._find_max_seconds(path, name)  # is it audio?
        with contextlib.ExitStack() as undo:
            target = undo.enter_context(tempfile.TemporaryFile())
            try:
                source = soundfile.SoundFile(path)
            except soundfile.LibsndfileError:
                source = soundfile.SoundFile(self.decode(path, name, job))
            with source, zipfile.ZipFile(target, "w") as archive:
                for cut in cuts:
                    job.check()
                    archive.writestr(cut.name, _cut_wav(source, cut))
            target.seek(0)
            undo.pop_all()
        return target

    def _find_max_seconds(self, path: str, name: str) -> float:
        """Finds the length in seconds up to which a file is accepted: less at high data rates."""
        try:
            rate, channels, _ = read_form(path)
        except DecodeError as error:
            raise self._make_refusal(error, name) from error
        return self.limits.minutes * 60 * min(1.0, _USUAL_RATE / (rate * channels))

    def _make_refusal(self, error: DecodeError, name: str) -> RefusedError:
        if error.kind == "too long":
            limit = (
                f"Files of up to {self.limits.minutes:g} minutes are tagged here (of more than two "
                "channels at 48 kHz, fewer)"
            )
            return RefusedError(413, f"{name} is too long. {limit}; {ELSEWHERE}", error.kind)
        message = f"{name} cannot be tagged: {error.kind} ({error.detail.rstrip('.')})."
        return RefusedError(415, message, error.kind)


def _open_wav(target: IO[bytes]) -> wave.Wave_write:
    file = wave.open(target, "wb")  # noqa: SIM115
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(SAMPLE_RATE)
    return file


def _cut_wav(source: soundfile.SoundFile, cut: Cut) -> bytes:
    start = min(round(cut.onset * source.samplerate), source.frames)
    stop = min(round(cut.offset * source.samplerate), source.frames)
    source.seek(start)
    data = source.read(max(stop - start, 0), dtype="float32", always_2d=True)
    file = io.BytesIO()
    subtype = "PCM_24" if source.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else "PCM_16"
    soundfile.write(file, data, source.samplerate, subtype, format="WAV")
    return file.getvalue()


# --- Data for the page ------------------------------------------------------------------------


class _Waves:
    """Collects the highest and lowest samples of a waveform, in columns for a screen."""

    def __init__(self) -> None:
        self._pool, self._waiting_samples = MaxPool(_WAVE_COLUMNS), np.zeros(0, np.int16)

    def add(self, block: np.ndarray) -> None:
        samples = (
            np.concatenate([self._waiting_samples, block]) if len(self._waiting_samples) else block
        )
        num_columns = len(samples) // _WAVE_SAMPLES
        num_whole = num_columns * _WAVE_SAMPLES
        if num_columns:
            self._add(samples[:num_whole].reshape(num_columns, -1))
        self._waiting_samples = samples[num_whole:]

    def _add(self, columns: np.ndarray) -> None:
        extremes = np.stack([columns.max(axis=1), ~columns.min(axis=1)], axis=1)  # ~x is -x - 1
        self._pool.add(np.maximum(extremes, 0))

    def to_bytes(self) -> np.ndarray:
        """Returns uint8 [2, columns]: 255 is full scale, upwards and downwards."""
        if len(self._waiting_samples):
            self._add(self._waiting_samples.reshape(1, -1))
        return (self._pool.rows.T.astype(np.int32) >> 7).astype(np.uint8)


def pack(tags: FileTags, mel: np.ndarray, mel_step: float, waveform: np.ndarray) -> Iterator[bytes]:
    """Packs a file's answer to the page: all of its scores, spectrogram and waveform.

    It begins with the length of a JSON text as 4 bytes, and that text. Then follow the scores over
    time as 16-bit numbers [frames, classes], the spectrogram as 8-bit numbers [columns, bands], and
    the waveform as 8-bit numbers [2, columns].
    """
    assert tags.rows is not None
    header: dict[str, Any] = {
        "name": tags.input.name,
        "seconds": tags.seconds,
        "labels": list(tags.labels),
        "scores": np.round(tags.scores.astype(float), 4).tolist(),
        "peaks": np.round(tags.peaks.astype(float), 4).tolist(),
        "frame": FRAME_SECONDS,
        "high_hertz": tags.high_hertz,
        "mel": {"step": mel_step, "bands": mel.shape[1], "columns": len(mel)},
        "wave": {"columns": waveform.shape[1]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)  # what follows is read as 16-bit numbers
    yield len(text).to_bytes(4, "little") + text
    for block in tags.rows:
        yield np.rint(block * 65535).astype("<u2").tobytes()
    yield mel.tobytes()
    yield waveform.tobytes()


def read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Reads a file in chunks, and closes it."""
    with file:
        while chunk := file.read(_COPY_BYTES):
            yield chunk
