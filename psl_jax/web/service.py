"""What is computed of an upload: tags, what the page draws, and sound to play, one at a time."""

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

from psl_jax.audio.audio_input import at_most, blocks_of
from psl_jax.audio.decoding import DecodeError, form_of
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.tagging import spectrogram
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.file_tagging import BadFile, FileTags, Input, Keep, tag_files
from psl_jax.tagging.tagger import Failed, Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS, Pool

_USUAL_RATE = 2 * 48_000  # samples a second to decode, of all channels
_MEL_COLUMNS = 30_000  # of the spectrogram: 10 ms each up to 5 minutes
_WAVE_COLUMNS = 30_000
_WAVE_SAMPLES = 80  # that make a column, at least
_LIVE_SECONDS = 10.0  # where files are tagged whole
_LIVE_FRAMES = 2
_COPY_BYTES = 1 << 20

# What to do with files that are too large or too long.
ELSEWHERE = "for others use psl-jax tag."


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is accepted of a file."""

    megabytes: float
    minutes: float


class RefusedError(Exception):
    """A request that is answered with `status` and a message for its sender.

    kind: as of DecodeError; the page converts what is "undecodable" here and the browser can play.
    """

    def __init__(self, status: int, message: str, kind: str = ""):
        super().__init__(message)
        self.status, self.kind = status, kind


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


class Job:
    """An upload that is worked on: whether its sender has gone, and how far its tagging is."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.begun = False
        self.seconds = 0.0  # of audio that have been heard

    def check(self, heard: float = 0.0) -> None:
        """Raises CancelledError where nobody waits any more."""
        self.seconds += heard
        if self.gone.is_set():
            raise CancelledError


@dataclasses.dataclass(frozen=True)
class Cut:
    """A stretch of a recording to be saved, in seconds, and a name for it."""

    onset: float
    offset: float
    name: str


class Service:
    """Works on uploads, one at a time.

    Attributes:
      tagger: the model.
      segmentation: how files are cut, None: not at all.
      settings: what makes an event where a request does not say.
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
        # A thread of its own: those of the server hand out the page meanwhile.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="tag")

    def warm_up(self) -> None:
        """Compiles before the first file comes: for those of one segment, and of several."""
        cut = self.segmentation
        lengths = (cut.seconds, 2 * cut.seconds + 1) if cut else (5.0, 10.0, 60.0)
        with self._lock:
            for seconds in lengths:
                silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
                list(self.tagger.run([blocks_of(silence, SAMPLE_RATE)], cut))
            spectrogram.spectrogram(blocks_of(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE))

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
        """The tags of an uploaded file. Raises RefusedError, or CancelledError.

        rows: keep the scores over time, too. watch: is shown each block of the file's samples.
        """
        job.begun = True
        with self._lock:
            job.check()
            found = next(
                tag_files(
                    self.tagger,
                    [Input(path, name)],
                    segmentation or self.segmentation,
                    settings or self.settings,
                    keep=Keep(rows=rows),
                    heard=job.check,
                    watch=watch,
                    max_seconds=self._longest(path, name),
                )
            )
        if isinstance(found, BadFile):
            raise self._refusal(found.error, name)
        return dataclasses.replace(found, input=Input(name, name))

    def analyse(
        self, path: str, name: str, job: Job, segmentation: Segmentation | None = None
    ) -> Iterator[bytes]:
        """What the page shows of an uploaded file, packed. Raises as `tag` does."""
        picture, waves = spectrogram.Spectrogram(_MEL_COLUMNS), _Waves()

        def watch(_: Input, block: np.ndarray) -> None:
            picture.add(block)
            waves.add(block)

        tags = self.tag(path, name, job, None, segmentation, rows=True, watch=watch)
        decibel, step = picture.finish()
        return packed(tags, spectrogram.as_bytes(decibel), step, waves.as_bytes())

    @property
    def live_seconds(self) -> float:
        """What `live` looks back on, at most."""
        return self.segmentation.seconds if self.segmentation else _LIVE_SECONDS

    def live(self, samples: np.ndarray) -> np.ndarray:
        """Scores [classes] of what was heard last of int16 [samples] at 16 kHz: of up to 0.64 s.

        Waits for nothing that is worked on.
        """
        rows = []
        for found in self.tagger.run([lambda: iter([samples])], self.segmentation):
            if isinstance(found, Failed):
                raise self._refusal(found.error, "the recording")
            rows.append(found.rows)
        return np.concatenate(rows)[-_LIVE_FRAMES:].mean(axis=0)

    def decode(self, path: str, name: str, job: Job) -> IO[bytes]:
        """What is tagged of a file as a WAV, which any browser plays. Raises RefusedError."""
        longest = self._longest(path, name)
        with contextlib.ExitStack() as undo:
            target = undo.enter_context(tempfile.TemporaryFile())
            try:
                with _wav(target) as file:
                    for block in at_most(blocks_of(path), longest)():
                        job.check()
                        file.writeframes(block.astype("<i2").tobytes())
            except DecodeError as error:
                raise self._refusal(error, name) from error
            target.seek(0)
            undo.pop_all()
        return target

    def cut(self, path: str, name: str, job: Job, cuts: Sequence[Cut]) -> IO[bytes]:
        """Stretches of a file as a ZIP of WAV files. Raises RefusedError.

        At the file's own rate and channels where libsndfile reads it, else as they are tagged.
        """
        self._longest(path, name)  # is it audio?
        with contextlib.ExitStack() as undo:
            target = undo.enter_context(tempfile.TemporaryFile())
            try:
                source = soundfile.SoundFile(path)
            except soundfile.LibsndfileError:
                source = soundfile.SoundFile(self.decode(path, name, job))
            with source, zipfile.ZipFile(target, "w") as archive:
                for cut in cuts:
                    job.check()
                    archive.writestr(cut.name, _stretch(source, cut))
            target.seek(0)
            undo.pop_all()
        return target

    def _longest(self, path: str, name: str) -> float:
        """Seconds that are accepted of a file: fewer where each holds much to decode."""
        try:
            rate, channels, _ = form_of(path)
        except DecodeError as error:
            raise self._refusal(error, name) from error
        return self.limits.minutes * 60 * min(1.0, _USUAL_RATE / (rate * channels))

    def _refusal(self, error: DecodeError, name: str) -> RefusedError:
        if error.kind == "too long":
            limit = (
                f"Files of up to {self.limits.minutes:g} minutes are tagged here (of more than two "
                "channels at 48 kHz, fewer)"
            )
            return RefusedError(413, f"{name} is too long. {limit}; {ELSEWHERE}", error.kind)
        message = f"{name} cannot be tagged: {error.kind} ({error.detail.rstrip('.')})."
        return RefusedError(415, message, error.kind)


def _wav(target: IO[bytes]) -> wave.Wave_write:
    file = wave.open(target, "wb")  # noqa: SIM115
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(SAMPLE_RATE)
    return file


def _stretch(source: soundfile.SoundFile, cut: Cut) -> bytes:
    first = min(round(cut.onset * source.samplerate), source.frames)
    last = min(round(cut.offset * source.samplerate), source.frames)
    source.seek(first)
    data = source.read(max(last - first, 0), dtype="float32", always_2d=True)
    file = io.BytesIO()
    kind = "PCM_24" if source.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else "PCM_16"
    soundfile.write(file, data, source.samplerate, kind, format="WAV")
    return file.getvalue()


# --- What the page draws ----------------------------------------------------------------------


class _Waves:
    """Highest and lowest samples of a waveform: as many columns as a screen could show."""

    def __init__(self) -> None:
        self._pool, self._held = Pool(_WAVE_COLUMNS), np.zeros(0, np.int16)

    def add(self, block: np.ndarray) -> None:
        held = np.concatenate([self._held, block])
        whole = len(held) // _WAVE_SAMPLES * _WAVE_SAMPLES
        self._add(held[:whole].reshape(-1, _WAVE_SAMPLES))
        self._held = held[whole:]

    def _add(self, parts: np.ndarray) -> None:
        extremes = np.stack([parts.max(axis=1), ~parts.min(axis=1)], axis=1)  # ~x is -x - 1
        self._pool.add(np.maximum(extremes, 0))

    def as_bytes(self) -> np.ndarray:
        """uint8 [2, columns]: 255 is full scale, upwards and downwards."""
        if len(self._held):
            self._add(self._held[None])
        return (self._pool.rows.T.astype(np.int32) >> 7).astype(np.uint8)


def packed(tags: FileTags, mel: np.ndarray, mel_step: float, waves: np.ndarray) -> Iterator[bytes]:
    """A file's answer to the page: all of its scores, spectrogram and waveform.

    First the length of a JSON text as 4 bytes, then that text; then, in this order, the scores
    over time as 16-bit numbers [frames, classes], the spectrogram as 8-bit numbers
    [columns, bands], and the waveform as 8-bit numbers [2, columns].
    """
    assert tags.rows is not None
    about: dict[str, Any] = {
        "name": tags.input.name,
        "seconds": tags.seconds,
        "labels": list(tags.labels),
        "scores": np.round(tags.scores.astype(float), 4).tolist(),
        "peaks": np.round(tags.peaks.astype(float), 4).tolist(),
        "frame": FRAME_SECONDS,
        "high_hertz": tags.high_hertz,
        "mel": {"step": mel_step, "bands": mel.shape[1], "columns": len(mel)},
        "wave": {"columns": waves.shape[1]},
    }
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 4)  # what follows is read as 16-bit numbers
    yield len(text).to_bytes(4, "little") + text
    for block in tags.rows:
        yield np.rint(block * 65535).astype("<u2").tobytes()
    yield mel.tobytes()
    yield waves.tobytes()


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file's content, which is closed after."""
    with file:
        while chunk := file.read(_COPY_BYTES):
            yield chunk
