"""What a corpus gives to be prepared: rows of clips to be, problems, and the loader of rows."""

import abc
import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from psl_jax.audio.decoding import Audio
from psl_jax.audio.readers import CUT_TOLERANCE_SECONDS, DecodeError
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.stored_audio import RecordingPart, StoredAudio
from psl_jax.data.clip_index import ClipDescription, Event
from psl_jax.runtime.csv_files import listing
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import make_printable


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that was left out or changed, and why: one line of the preparation report."""

    file: str
    kind: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", make_printable(self.file))
        object.__setattr__(self, "detail", make_printable(self.detail))

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} ({self.detail})"


# A file whose length is that of a span, but for this much, is that span.
SPAN_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip to be: its id, where its audio lies, and what is said of it."""

    id: str
    filename: str  # for messages: as the corpus's table has it
    audio: StoredAudio
    labels: tuple[int, ...]
    events: tuple[Event, ...] | None = None
    span: tuple[float, float] | None = None  # where in its recording the clip lies, s; None: all
    unknown: tuple[int, ...] = ()  # classes that it has or has not, nobody said


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip ready to be written."""

    id: str
    audio: np.ndarray  # int16 [samples], 16 kHz mono
    labels: tuple[int, ...]  # weak labels, class indices
    events: tuple[Event, ...] | None = None
    unknown: tuple[int, ...] = ()  # ascending

    @property
    def description(self) -> ClipDescription:
        """What an index holds of it, in Python's numbers: those of a corpus may be NumPy's."""
        # Silent clips are not called the same.
        content = self.audio.tobytes() if self.audio.any() else self.id.encode()
        digest = hashlib.blake2b(content, digest_size=8).digest()
        events = self.events and [
            (float(start), float(end), int(k)) for start, end, k in self.events
        ]
        return ClipDescription(
            self.id,
            len(self.audio),
            list(map(int, self.labels)),
            events,
            digest=int.from_bytes(digest, "little"),
            unknown=list(map(int, self.unknown)),
        )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What became of one row: its clip, unless it is unusable, and what there is to report."""

    clip: Clip | None
    problems: tuple[Problem, ...] = ()


Loader = Callable[[Any], Loaded]  # a row of a corpus to its clip; pure and picklable


def mixed(rows: Iterable[ClipRow]) -> tuple[ClipRow, ...]:
    """The rows in an order that depends on the ids alone and mixes them.

    Tables are often sorted by class, and training shuffles only within windows of shards.
    """
    return tuple(sorted(rows, key=lambda row: make_mixing_key(row.id)))


def make_mixing_key(clip_id: str) -> bytes:
    """What clips are sorted by to be mixed."""
    return hashlib.md5(clip_id.encode()).digest()


class Corpus(abc.ABC):
    """Recordings and their labels as somebody has them on disk.

    Subclasses find their tables when they are made; audio is looked for by `rows`.
    """

    name: ClassVar[str]  # of the data set that is made of it
    source_dir: str = ""  # the folder of the recordings
    # Of the constructor, besides `splits`; none where splits cannot be chosen.
    arguments: Mapping[str, Any] = types.MappingProxyType({})
    classes: tuple[str, ...]  # names, in label order
    class_ids: tuple[str, ...]
    has_events: bool = False  # strong labels
    settings: Mapping[str, Any]  # all that decides the records; JSON-able
    problems: list[tuple[str | None, Problem]]  # with their split, found before audio is loaded
    absent: Mapping[str, int] = types.MappingProxyType({})  # clips by split that make no row
    # Splits that are several of those that `rows` gives, which share no clip.
    unions: Mapping[str, Sequence[str]] = types.MappingProxyType({})
    sample_rate: int = SAMPLE_RATE
    max_clip_seconds: float  # longer clips are cut there

    @abc.abstractmethod
    def rows(self) -> Mapping[str, Sequence[Any]]:
        """The rows of each split, in record order."""

    def loader(self) -> Loader:
        """What makes a row a clip at `sample_rate`."""
        return functools.partial(
            load_clip, max_seconds=self.max_clip_seconds, rate=self.sample_rate
        )

    def only(self, splits: Sequence[str]) -> Self:
        """The same corpus with these splits, of one that has `arguments`. Raises UserError."""
        corpus = type(self)(**{**self.arguments, "splits": splits})
        corpus.sample_rate = self.sample_rate
        return corpus

    def nothing_left(self, split: str, problems: Sequence[Problem]) -> UserError:
        """The error for a split of which no clip is left; problems: of its rows."""
        of_tables = [p for name, p in self.problems if name is None]
        problems = [*(p for name, p in self.problems if name == split), *problems, *of_tables]
        shown = list(map(str, problems[:5])) or ["(no rows in its table)"]
        return UserError(
            f"no clip of split {split!r} is usable. The first problems:\n{listing(shown)}"
        )


def load_clip(row: ClipRow, max_seconds: float, rate: int = SAMPLE_RATE) -> Loaded:
    """Decodes the clip of a row at `rate`, cut to `max_seconds`: pure and picklable.

    Audio that is not usable gives no clip but its problem. A silent clip is kept. Of a row with a
    span the audio is that span of a recording, or the recording of which it is a span.
    """
    problems: list[Problem] = []

    def note(kind: str, detail: str) -> None:
        problems.append(Problem(row.filename, kind, detail))

    try:
        if row.span is None:
            audio = row.audio.decode(max_seconds, rate)
        else:
            start, end = row.span
            audio = row.audio.decode(end + SPAN_TOLERANCE, rate)
            audio, holds_more = _take_span(audio, start, end)
            if holds_more:
                note(
                    "whole recording",
                    f"holds more than the clip: {start:g} to {end:g} s of it are used",
                )
            limit = round(max_seconds * SAMPLE_RATE)
            cut = len(audio.samples) > limit + round(CUT_TOLERANCE_SECONDS * SAMPLE_RATE)
            audio = dataclasses.replace(audio, samples=audio.samples[:limit], cut=cut)
    except DecodeError as error:
        return Loaded(None, (Problem(row.filename, error.kind, error.detail),))
    if audio.cut:
        whole = "" if audio.source_seconds is None else f" of {audio.source_seconds:.1f} s"
        note("cut", f"the first {max_seconds:g} s{whole} kept")
    if audio.is_silent:
        of_clip = f"{row.id}: " if isinstance(row.audio, RecordingPart) else ""
        note("silent", f"{of_clip}every sample is zero; kept")
    seconds = len(audio.samples) / SAMPLE_RATE
    labels, events = row.labels, row.events
    if events is not None:
        inside = [event for event in events if event[0] < seconds]
        if audio.cut:  # labels go with what is cut away, where all their events are in it
            gone = {label for *_, label in events} - {label for *_, label in inside}
            labels = tuple(label for label in labels if label not in gone)
            if dropped := len(row.labels) - len(labels):
                and_clip = "" if labels else ", and with them the clip"
                detail = f"{dropped} of {len(row.labels)} labels have events only after the first "
                note("label cut away", f"{detail}{seconds:g} s; left out{and_clip}")
            if row.labels and not labels:
                return Loaded(None, tuple(problems))
        elif outside := len(events) - len(inside):
            note("bad event", f"{outside} begin after the clip's end ({seconds:.2f} s); left out")
        events = tuple((onset, min(offset, seconds), label) for onset, offset, label in inside)
    return Loaded(Clip(row.id, audio.samples, labels, events, row.unknown), tuple(problems))


def _take_span(audio: Audio, start: float, end: float) -> tuple[Audio, bool]:
    """The clip from `start` to `end`, and whether `audio` holds more of its recording.

    Raises DecodeError where it is neither the clip nor reaches its end.
    """
    seconds = len(audio.samples) / SAMPLE_RATE
    if not audio.cut and abs(seconds - (end - start)) <= SPAN_TOLERANCE:
        return audio, False
    if audio.cut or seconds >= end - SPAN_TOLERANCE:
        first, last = (round(time * SAMPLE_RATE) for time in (start, end))
        samples = np.ascontiguousarray(audio.samples[first:last])
        return dataclasses.replace(audio, samples=samples, cut=False), True
    raise DecodeError(
        "other length",
        f"{seconds:.2f} s: neither the {end - start:g} s from {start:g} to {end:g} s nor a "
        "recording that reaches there; left out",
    )
