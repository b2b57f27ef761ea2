"""Works on uploads, one at a time: tags, drawings of the page, and sound to play."""

import contextlib
import dataclasses
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
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
from psl_jax.tagging.file_tagging import BadFile, FileTags, Input, tag_files
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.windowing import FRAME_SECONDS, MaxPool

_USUAL_RATE = 2 * 48_000  # samples of all channels per second that a usual file has
_MEL_COLUMNS = 30_000  # columns of the spectrogram: 10 ms each up to 5 minutes
_WAVE_COLUMNS = 30_000
_COPY_BYTES = 1 << 20
_ROWS_AT_ONCE = 4096  # of the scores over time

# What to do with files that are too large or too long.
ELSEWHERE = "for others use psl-jax tag."


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the size and length of a file."""

    megabytes: float
    minutes: float


class RefusedError(Exception):
    """A request that is answered with `status` and a message for its sender; kind: one word."""

    def __init__(self, status: int, message: str, kind: str = ""):
        super().__init__(message)
        self.status, self.kind = status, kind


class CancelledError(Exception):
    """Raised when nobody waits for the answer any more."""


class Job:
    """An upload: its file, whether its sender has gone, and the progress of its tagging."""

    def __init__(self, path: str = "", name: str = ""):
        self.path, self.name = path, name
        self.has_gone = threading.Event()
        self.has_begun = False
        self.seconds = 0.0  # seconds of audio that are tagged
        self.length: float | None = None  # seconds of all of it, where its header tells

    def check(self, new_seconds: float = 0.0) -> None:
        """Raises CancelledError where nobody waits any more."""
        self.seconds += new_seconds
        if self.has_gone.is_set():
            raise CancelledError


class Service:
    """Works on uploads, one at a time."""

    def __init__(
        self, tagger: Tagger, segmentation: Segmentation, settings: EventSettings, limits: Limits
    ):
        """settings: of events, for requests without their own."""
        self.tagger, self.segmentation = tagger, segmentation
        self.settings, self.limits = settings, limits
        # It has its own thread: the server's threads answer other requests meanwhile.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="tag")

    def warm_up(self) -> None:
        """Compiles, before the first file comes, for files of one segment and of several."""
        for seconds in (self.segmentation.seconds, 2 * self.segmentation.seconds + 1):
            silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
            self.tagger.tag(
                silence,
                SAMPLE_RATE,
                segment_seconds=self.segmentation.seconds,
                hop_seconds=self.segmentation.hop_seconds,
            )
        picture = spectrogram.Spectrogram()
        picture.add(silence)
        picture.finish()

    def tag(
        self,
        job: Job,
        settings: EventSettings | None = None,
        watch: Callable[[Input, np.ndarray], object] | None = None,
    ) -> FileTags:
        """Tags an uploaded file. Raises RefusedError, or CancelledError.

        watch: is called with each block of samples.
        """
        job.has_begun = True
        job.check()
        result = next(
            tag_files(
                self.tagger,
                [Input(job.path, job.name)],
                segmentation=self.segmentation,
                settings=settings or self.settings,
                report_seconds=job.check,
                watch_block=watch,
                max_seconds=self._find_max_seconds(job),
            )
        )
        if isinstance(result, BadFile):
            raise self._make_refusal(result.error, job)
        return dataclasses.replace(result, input=Input(job.name, job.name))

    def analyse(self, job: Job) -> Iterator[bytes]:
        """Computes all that the page shows of an uploaded file, packed. Raises as `tag` does."""
        mel, waveform = spectrogram.Spectrogram(_MEL_COLUMNS), MaxPool(_WAVE_COLUMNS)

        def watch(_: Input, block: np.ndarray) -> None:
            mel.add(block)
            ticks = block.reshape(len(block), -1)
            extremes = np.stack([ticks.max(axis=1), (~ticks).max(axis=1)], axis=1)  # ~x is -x - 1
            waveform.add(np.maximum(extremes, 0))

        tags = self.tag(job, watch=watch)
        decibels, step = mel.finish()
        wave = (waveform.rows.T.astype(np.int32) >> 7).astype(np.uint8)
        return pack(tags, spectrogram.to_bytes(decibels), step, wave)

    def decode(self, job: Job) -> IO[bytes]:
        """Decodes a file to a WAV, which any browser plays. Raises RefusedError."""
        blocks = limit_blocks(open_blocks(job.path), self._find_max_seconds(job))
        form = (SAMPLE_RATE, 1, "PCM_16")
        with contextlib.ExitStack() as undo, self._refuse_undecodable(job):
            target = undo.enter_context(tempfile.TemporaryFile())
            with soundfile.SoundFile(target, "w", *form, format="WAV") as file:
                for block in blocks():
                    job.check()
                    file.write(block)
            target.seek(0)
            undo.pop_all()  # only an error closes it
            return target

    def _find_max_seconds(self, job: Job) -> float:
        """Finds the length in seconds up to which a file is accepted: less at high data rates."""
        with self._refuse_undecodable(job):
            rate, channels, job.length = read_form(job.path)
        return self.limits.minutes * 60 * min(1.0, _USUAL_RATE / (rate * channels))

    @contextlib.contextmanager
    def _refuse_undecodable(self, job: Job) -> Iterator[None]:
        try:
            yield
        except DecodeError as error:
            raise self._make_refusal(error, job) from error

    def _make_refusal(self, error: DecodeError, job: Job) -> RefusedError:
        if error.kind == "too long":
            limit = (
                f"Files of up to {self.limits.minutes:g} minutes are tagged here (of more than two "
                "channels at 48 kHz, fewer)"
            )
            return RefusedError(413, f"{job.name} is too long. {limit}; {ELSEWHERE}", error.kind)
        message = f"{job.name} cannot be tagged: {error.kind} ({error.detail.rstrip('.')})."
        return RefusedError(415, message, error.kind)


# --- Data for the page ------------------------------------------------------------------------


def pack(tags: FileTags, mel: np.ndarray, mel_step: float, waveform: np.ndarray) -> Iterator[bytes]:
    """Packs a file's answer to the page: all of its scores, spectrogram and waveform.

    It begins with the length of a JSON text as 4 bytes, and that text. Then follow the scores over
    time as 16-bit numbers [frames, classes], the spectrogram as 8-bit numbers [columns, bands], and
    the waveform as 8-bit numbers [2, columns]: 255 is full scale, upwards and downwards.
    """
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
    for start in range(0, len(tags.frame_scores), _ROWS_AT_ONCE):  # they lie on disk
        block = tags.frame_scores[start : start + _ROWS_AT_ONCE]
        yield np.rint(block * 65535).astype("<u2").tobytes()
    yield mel.tobytes()
    yield waveform.tobytes()


def read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Reads a file in chunks, and closes it."""
    with file:
        while chunk := file.read(_COPY_BYTES):
            yield chunk
