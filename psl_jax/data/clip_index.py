"""What is known of a split without reading its audio."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.record_files import FRAMING_BYTES, HEADER_BYTES
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

Event = tuple[float, float, int]  # onset and offset in seconds, class index
UNKNOWN = -1.0  # a label, beside 1 and 0: nobody said whether the clip has the class


class ClipDescription(NamedTuple):
    """A clip without its audio."""

    id: str
    num_samples: int
    labels: Sequence[int]
    events: Sequence[Event] | None = None
    digest: int | None = None  # of the audio, 64 bits; None: not known
    record_bytes: int | None = None  # that its record takes in a shard
    audio_start: int | None = None  # where in its record; None: as `prepare` writes it
    unknown: Sequence[int] = ()  # classes that it has or has not, nobody said


@dataclasses.dataclass(frozen=True)
class ClipIndex:
    """The clips of one split in the order in which its shards hold them.

    Labels, events and unknown classes are ragged: the labels of clip `i` are
    `label_values[label_offsets[i]:label_offsets[i + 1]]`, and likewise the others.
    """

    split: str
    classes: tuple[str, ...]
    ids: np.ndarray  # [clips] str
    num_samples: np.ndarray  # [clips] int32, in ticks: see `audio.segments`
    label_offsets: np.ndarray  # [clips + 1] int64
    label_values: np.ndarray  # [labels] int32, class indices
    shard_sizes: np.ndarray  # [shards] int64, clips in each
    event_offsets: np.ndarray | None = None  # [clips + 1] int64
    event_times: np.ndarray | None = None  # [events, 2] float32, onset and offset in seconds
    event_values: np.ndarray | None = None  # [events] int32, class indices
    audio_digests: np.ndarray | None = None  # [clips] uint64: equal where the audio is
    record_bytes: np.ndarray | None = None  # [clips] int64: that each takes in its shard
    # [clips] int64: where the audio begins in each record; None: as `prepare` writes records
    audio_starts: np.ndarray | None = None
    unknown_offsets: np.ndarray | None = None  # [clips + 1] int64; None: every label is known
    unknown_values: np.ndarray | None = None  # [labels] int32, class indices
    sample_rate: int = SAMPLE_RATE  # of the audio, one of `segments.RATES`

    def __post_init__(self) -> None:
        if int(self.shard_sizes.sum()) != len(self.ids):
            raise ValueError(f"shards hold {self.shard_sizes.sum()} clips, {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_events(self) -> bool:
        return self.event_values is not None

    @cached_property
    def annotated(self) -> np.ndarray:
        """Which clips have events, or hold nothing: bool [clips]; others have weak labels alone."""
        if self.event_offsets is None:
            return np.zeros(len(self), bool)
        return np.asarray((np.diff(self.event_offsets) > 0) | self.holds_nothing)

    @property
    def has_unknown(self) -> bool:
        """Whether some label of some clip is unknown."""
        return self.unknown_values is not None

    @cached_property
    def num_known(self) -> np.ndarray:
        """Classes that each clip is known to have or not to have: int64 [clips]."""
        if self.unknown_offsets is None:
            return np.full(len(self), self.num_classes)
        return np.asarray(self.num_classes - np.diff(self.unknown_offsets))

    @cached_property
    def holds_nothing(self) -> np.ndarray:
        """Which clips have no label, and are known to lack some class: bool [clips]."""
        return np.asarray((np.diff(self.label_offsets) == 0) & (self.num_known > 0))

    @property
    def is_labelled(self) -> bool:
        """Whether any label of any clip is known."""
        return bool(self.num_known.any())

    @property
    def bytes_per_tick(self) -> int:
        """Of its audio."""
        return 2 * self.sample_rate // SAMPLE_RATE

    @cached_property
    def clip_samples(self) -> int:
        """Ticks of the longest clip."""
        return int(self.num_samples.max(initial=0))

    @cached_property
    def shard_offsets(self) -> np.ndarray:
        """[shards + 1]: shard `k` holds the clips `shard_offsets[k]:shard_offsets[k + 1]`."""
        return np.concatenate([[0], np.cumsum(self.shard_sizes)]).astype(np.int64)

    def shard_of(self, clips: np.ndarray | int) -> np.ndarray:
        """The shard that holds each of `clips`, numbers of any shape: int64 of that shape."""
        return np.searchsorted(self.shard_offsets, clips, side="right") - 1

    @cached_property
    def record_places(self) -> np.ndarray:
        """Where each clip's record begins in its shard: int64 [clips]."""
        assert self.record_bytes is not None, self.split
        ends: np.ndarray = np.concatenate([[0], np.cumsum(self.record_bytes)])
        return np.asarray(ends[:-1] - np.repeat(ends[self.shard_offsets[:-1]], self.shard_sizes))

    @cached_property
    def audio_places(self) -> np.ndarray:
        """Where each clip's audio begins in its shard: int64 [clips]."""
        if self.audio_starts is not None:
            return np.asarray(self.record_places + self.audio_starts)
        assert self.record_bytes is not None, self.split
        audio_bytes = self.bytes_per_tick * self.num_samples.astype(np.int64)
        audio_starts = prepared_audio_starts(self.record_bytes, audio_bytes)
        return np.asarray(self.record_places + audio_starts)

    @cached_property
    def ids_sha256(self) -> str:
        """See `clip_ids_sha256`."""
        return clip_ids_sha256(self.ids)

    @cached_property
    def labels_sha256(self) -> str:
        """Hash of the weak labels and lengths, clip by clip."""
        digest = hashlib.sha256()
        arrays = [self.num_samples, self.label_offsets, self.label_values]
        if self.unknown_offsets is not None and self.unknown_values is not None:
            arrays += [self.unknown_offsets, self.unknown_values]
        for array in arrays:
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
        return digest.hexdigest()

    @cached_property
    def audio_sha256(self) -> str:
        """Hash of the audio, clip by clip. Raises ValueError where it is not known."""
        if self.audio_digests is None:
            raise ValueError(f"the audio of split {self.split!r} was not hashed")
        return hashlib.sha256(np.ascontiguousarray(self.audio_digests, "<u8").tobytes()).hexdigest()

    @property
    def hours(self) -> float:
        return float(self.num_samples.sum(dtype=np.int64)) / SAMPLE_RATE / 3600

    def class_counts(self) -> np.ndarray:
        """Clips with each class: int64 [classes]."""
        return np.bincount(self.label_values, minlength=self.num_classes)

    def weak_labels(self, clips: np.ndarray | None = None) -> np.ndarray:
        """Labels of `clips` [n] (default: all), 1, 0 or UNKNOWN: float32 [n, classes]."""
        clips = np.arange(len(self)) if clips is None else np.asarray(clips)
        labels = _multi_hot(self.label_offsets, self.label_values, clips, self.num_classes)
        if self.has_unknown:
            labels[self.unknown_labels(clips)] = UNKNOWN
        return labels

    def unknown_labels(self, clips: np.ndarray) -> np.ndarray:
        """Which labels of `clips` [n] are unknown: bool [n, classes]."""
        if self.unknown_offsets is None or self.unknown_values is None:
            return np.zeros((len(clips), self.num_classes), bool)
        unknown = _multi_hot(self.unknown_offsets, self.unknown_values, clips, self.num_classes)
        return unknown > 0

    def with_classes(self, classes: Sequence[str]) -> "ClipIndex":
        """The same clips with classes of which every label is unknown; it has none so far."""
        if self.classes:
            raise ValueError(f"split {self.split!r} has classes")
        count = len(classes)
        return dataclasses.replace(
            self,
            classes=tuple(classes),
            unknown_offsets=np.arange(len(self) + 1, dtype=np.int64) * count,
            unknown_values=np.tile(np.arange(count, dtype=np.int32), len(self)),
        )

    def segment_labels(
        self, segmentation: Segmentation, clips: np.ndarray | None = None
    ) -> np.ndarray:
        """What truly sounds in each segment, from the events: bool [clips, segments, classes].

        clips: numbers (default: all). Segments past a clip's end are all False. Raises ValueError
        without events.
        """
        if self.event_offsets is None or self.event_times is None or self.event_values is None:
            raise ValueError(f"split {self.split!r} has no events")
        clips = np.arange(len(self)) if clips is None else clips
        counts = segmentation.count_segments(self.num_samples[clips])
        segments = int(counts.max(initial=1))
        onsets, offsets = segmentation.compute_times(np.arange(segments))
        clip, event = list_places(self.event_offsets[clips], np.diff(self.event_offsets)[clips])
        times = self.event_times[event]
        row, segment = np.nonzero((times[:, :1] < offsets) & (times[:, 1:] > onsets))
        truth = np.zeros((len(clips), segments, self.num_classes), bool)
        truth[clip[row], segment, self.event_values[event][row]] = True
        return truth & (np.arange(segments) < counts[:, None])[..., None]

    def list_events(self, clip: int) -> list[Event]:
        """Lists onset and offset in seconds, and class, of a clip's events; none if unknown."""
        if self.event_offsets is None or self.event_times is None or self.event_values is None:
            return []
        events = slice(*self.event_offsets[clip : clip + 2])
        columns = (*self.event_times[events].T, self.event_values[events])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def save(self, path: str | os.PathLike[str]) -> None:
        arrays = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        if self.sample_rate == SAMPLE_RATE:  # as earlier versions know it
            del arrays["sample_rate"]
        arrays |= {"classes": np.array(self.classes), "ids": np.asarray(self.ids, dtype=np.str_)}
        with files.atomic_open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ClipIndex":
        with path_of(path).open("rb") as file, np.load(file) as data:
            arrays = dict(data)
        arrays |= {"split": str(arrays["split"]), "classes": tuple(map(str, arrays["classes"]))}
        rate = int(arrays.pop("sample_rate", SAMPLE_RATE))
        return cls(**arrays, sample_rate=rate)


def joined(indices: Sequence[ClipIndex], name: str | None = None) -> ClipIndex:
    """Several splits as one called `name` (default: as in "a+b"), their shards one after the other.

    What not all of them know is not known. Raises UserError for other classes, or a clip of two.
    """
    first = indices[0]
    name = name or "+".join(index.split for index in indices)
    for index in indices[1:]:
        if index.classes != first.classes:
            raise UserError(f"splits {first.split!r} and {index.split!r} have different classes")
        if index.sample_rate != first.sample_rate:
            raise UserError(f"splits {first.split!r} and {index.split!r} have different rates")
    ids = np.concatenate([index.ids for index in indices])
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{name}: clip {str(unique[counts > 1][0])!r} is in more than one of the splits"
        )

    if any(index.has_unknown for index in indices):
        indices = [index if index.has_unknown else _mark_all_known(index) for index in indices]
    merged: dict[str, Any] = {"sample_rate": first.sample_rate}
    for field in dataclasses.fields(ClipIndex):
        values = [getattr(index, field.name) for index in indices]
        if field.name == "audio_starts" and any(value is not None for value in values):
            values = [index.audio_places - index.record_places for index in indices]
        if any(value is None for value in values):
            merged[field.name] = None
        elif field.name.endswith("_offsets"):
            counts = np.concatenate([np.diff(value) for value in values])
            merged[field.name] = np.concatenate([[0], np.cumsum(counts)])
        elif isinstance(values[0], np.ndarray):
            merged[field.name] = np.concatenate(values)
    return ClipIndex(**merged | {"split": name, "classes": first.classes})


def _mark_all_known(index: ClipIndex) -> ClipIndex:
    """The index with empty lists of unknown classes."""
    offsets, values = ragged([()] * len(index))
    return dataclasses.replace(index, unknown_offsets=offsets, unknown_values=values)


def prepared_audio_starts(record_bytes: np.ndarray, audio_bytes: np.ndarray) -> np.ndarray:
    """Where the audio, its first feature, begins in each record of `prepare`: int64 [clips]."""
    audio = np.asarray(audio_bytes, np.int64)
    bytes_list = 1 + _varint_bytes(audio) + audio
    feature = 1 + _varint_bytes(bytes_list) + bytes_list
    name = 7  # "audio", its field and size
    entry = name + 1 + _varint_bytes(feature) + feature
    example = np.asarray(record_bytes, np.int64) - FRAMING_BYTES
    all_features = example - 1 - _varint_bytes(example - 1)  # one byte off at most, so once more
    all_features = example - 1 - _varint_bytes(all_features)
    sizes = (all_features, entry, feature, bytes_list, audio)
    lengths = np.sum([1 + _varint_bytes(size) for size in sizes], axis=0)
    return np.asarray(HEADER_BYTES + name + lengths)


def _varint_bytes(numbers: np.ndarray) -> np.ndarray:
    """Bytes that numbers take as varints, seven bits in each."""
    return np.asarray(1 + np.sum([numbers >> 7 * k > 0 for k in range(1, 5)], axis=0))


def shared_clips(a: ClipIndex, b: ClipIndex) -> np.ndarray:
    """Clips of `a` that `b` has too, by id or by audio: int64 [n, 2], numbers in `a` and in `b`."""
    keys = [(a.ids, b.ids)]
    if a.audio_digests is not None and b.audio_digests is not None:
        keys.append((a.audio_digests, b.audio_digests))
    pairs = [np.stack(np.intersect1d(*both, return_indices=True)[1:], axis=1) for both in keys]
    together = np.concatenate(pairs)
    _, kept = np.unique(together[:, 0], return_index=True)
    return together[kept].astype(np.int64)


def clip_ids_sha256(ids: Iterable[Any]) -> str:
    """Hash of the sorted clip ids: two results with the same hash cover the same clips."""
    return hashlib.sha256("\n".join(sorted(map(str, ids))).encode()).hexdigest()


def ragged(lists: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of numbers as (offsets int64 [n + 1], values int32)."""
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    return offsets, np.array([v for x in lists for v in x], dtype=np.int32)


def list_places(begins: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each i counts[i] pairs of i and begins[i], begins[i] + 1, ...: int64 [pairs] each."""
    rows = np.repeat(np.arange(len(counts)), counts)
    number_in_row = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, np.repeat(begins, counts) + number_in_row


def _multi_hot(offsets: np.ndarray, values: np.ndarray, clips: np.ndarray, size: int) -> np.ndarray:
    hot = np.zeros((len(clips), size), np.float32)
    rows, places = list_places(offsets[clips], np.diff(offsets)[clips])
    hot[rows, values[places]] = 1.0
    return hot
