"""Merges the decisions of one or several people (`decision_table`) into labels.

What holds for a segment follows from the decisions on any stretches of its recording. A yes holds
for each segment that contains its stretch. Nos hold for each segment that they cover together, as
an unsure does. For example, yes for 2 to 4 s is a yes for 0 to 5 s and for 0 to 10 s. A no to the
label `*` is one to all classes on which the person said neither yes nor unsure there.
"""

import collections
import dataclasses
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.clip_index import UNKNOWN, ClipIndex
from psl_jax.data.decision_table import NO, OTHERS, YES, Decision, drop_undone, read_decisions
from psl_jax.networks.class_lists import find_class, list_first, near_names
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError

_CELLS = 20  # of a clip, a second: times are compared to 25 ms
_PART = re.compile(r"(.+)@(\d+(?:\.\d+)?)")  # the id of a clip that was cut from a recording
_SHOWN = 3  # decisions named in a message


class SegmentValues(NamedTuple):
    """What people say of segments: sparse, ordered by segment."""

    segments: np.ndarray  # [n] numbers of segments of the split
    classes: np.ndarray  # [n] class indices
    values: np.ndarray  # float32 [n], 1 or 0, or NaN: unknown

    def put(self, labels: np.ndarray, numbers: np.ndarray) -> None:
        """Replaces the labels [n, classes] of the segments `numbers` [n], in place."""
        begins = np.searchsorted(self.segments, numbers, side="left")
        ends = np.searchsorted(self.segments, numbers, side="right")
        for row in np.flatnonzero(ends > begins):
            part = slice(begins[row], ends[row])
            labels[row, self.classes[part]] = np.nan_to_num(self.values[part], nan=UNKNOWN)


@dataclasses.dataclass(frozen=True)
class Corrections:
    """The decisions that stand, of all people; where: names of their tables."""

    decisions: tuple[Decision, ...]
    where: str = "corrections"

    @classmethod
    def read(cls, paths: str) -> "Corrections":
        """Reads tables, separated by commas: those of several people. Raises UserError."""
        # A folder may have a comma in its name.
        is_one = os.path.exists(paths)
        names = [paths] if is_one else list(filter(None, map(str.strip, paths.split(","))))
        decisions = [decision for name in names for decision in read_decisions(name)]
        return cls(tuple(drop_undone(decisions)), paths)

    @cached_property
    def digest(self) -> str:
        """Hash of who decided what; the order of the tables does not matter."""
        by_person = sorted(self.decisions, key=lambda d: d.who)  # tables come in any order
        return files.json_digest([(*d.subject, d.decision) for d in by_person])

    def find_values(self, index: ClipIndex, segmentation: Segmentation) -> SegmentValues:
        """Finds what holds for the segments of a split."""
        firsts = segmentation.number_segments(index.num_samples)
        segments, classes, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for clip, people in self._collect_opinions(index):
            seconds = index.num_samples[clip] / SAMPLE_RATE
            onsets, offsets = segmentation.compute_times(np.arange(firsts[clip + 1] - firsts[clip]))
            verdicts = _judge_yeses(people)
            for number, span in enumerate(zip(onsets, np.minimum(offsets, seconds), strict=True)):
                of_classes = _judge(people, verdicts, _to_cells(*span))
                decided = np.flatnonzero(of_classes != _NOTHING)
                segments.append(np.full(len(decided), firsts[clip] + number))
                classes.append(decided)
                values.append(of_classes[decided])
        of_all = np.concatenate(values).astype(np.float32)
        return SegmentValues(np.concatenate(segments), np.concatenate(classes), of_all)

    def correct(self, index: ClipIndex) -> ClipIndex:
        """The split with the weak labels that follow from the decisions."""
        clips, classes, values = self.find_values(
            index, Segmentation(max(index.clip_samples, 1) / SAMPLE_RATE)
        )
        decided = clips * index.num_classes + classes
        pairs = _number_pairs(index, index.label_offsets, index.label_values)
        unknown = _number_pairs(index, index.unknown_offsets, index.unknown_values)
        pairs = np.union1d(np.setdiff1d(pairs, decided), decided[values == 1])
        unknown = np.union1d(np.setdiff1d(unknown, decided), decided[np.isnan(values)])
        label_offsets, label_values = _unpair(pairs, index)
        unknown_offsets, unknown_values = _unpair(unknown, index) if len(unknown) else (None, None)
        return dataclasses.replace(
            index,
            label_offsets=label_offsets,
            label_values=label_values,
            unknown_offsets=unknown_offsets,
            unknown_values=unknown_values,
        )

    def describe_problems(self, splits: Sequence[ClipIndex]) -> list[str]:
        """What has no effect on these splits, and where people disagree. Raises UserError."""
        places = [_Places(index) for index in splits]
        split_names, classes = ", ".join(index.split for index in splits), splits[0].classes
        lacking = [d for d in self.decisions if not any(p.find(d.filename) for p in places)]
        if len(lacking) == len(self.decisions):
            first = f"; the first is about {lacking[0].filename!r}" if lacking else ""
            raise UserError(
                f"{self.where}: none of its {len(lacking)} decisions is about a file of these data "
                f"({split_names}){first}"
            )
        self._check_names(places)
        labels = {decision.label for decision in self.decisions} - {OTHERS}
        disputed = [
            f"{index.classes[label]!r} at {begin / _CELLS:g} to {end / _CELLS:g} s of "
            f"{index.ids[clip]}"
            for index in splits
            for clip, people in self._collect_opinions(index)
            for (label, begin, end), verdict in _judge_yeses(people).items()
            if verdict is None
        ]
        of_all = f"of {len(self.decisions)} decisions"
        problems = {
            f"{of_all} are about files that these data ({split_names}) lack, and have no effect": [
                repr(decision.filename) for decision in lacking
            ],
            "decisions lie outside the clips, or are yeses that cross from one clip to the next, "
            "and have no effect; decide on a part that one clip holds": [
                repr(d.filename) for d in self.decisions if _is_lost(d, places)
            ],
            "labels are no class of the data, and decisions on them have no effect; rename them, "
            "or add them to classes.csv and prepare the data again": [
                f"{name!r}{near_names(name, classes)}"
                for name in sorted(labels)
                if find_class(name, classes) is None
            ],
            "labels are unknown, because people disagree; a new decision of theirs or of one more "
            "person counts": disputed,
        }
        return [
            f"{self.where}: {len(cases)} {what}: {list_first(cases, _SHOWN)}"
            for what, cases in problems.items()
            if cases
        ]

    def _check_names(self, places: Sequence["_Places"]) -> None:
        """Raises UserError where files of one name in several folders are taken for one clip."""
        folders: dict[tuple[int, str], set[str]] = collections.defaultdict(set)
        for decision in self.decisions:
            for number, of_split in enumerate(places):
                name = of_split.find_name(decision.filename)
                folder = posixpath.dirname(_with_slashes(decision.filename))
                if name and folder:
                    folders[number, name].add(folder)
        for (_, name), of_name in folders.items():
            if len(of_name) > 1:
                raise UserError(
                    f"{self.where}: decisions on files called {name!r} in the folders "
                    f"{' and '.join(sorted(of_name))} would all be about the only clip of that "
                    "name. Delete those about other files"
                )

    def _collect_opinions(self, index: ClipIndex) -> Iterator[tuple[int, list["_Opinion"]]]:
        """What each person says of a clip, for the clips of which somebody does, ascending."""
        places = _Places(index)
        labels = {d.label: find_class(d.label, index.classes) for d in self.decisions}
        by_clip: dict[int, list[tuple[_Place, Decision]]] = collections.defaultdict(list)
        for decision in self.decisions:
            if decision.label == OTHERS or labels[decision.label] is not None:
                for place in places.find(decision.filename):
                    by_clip[place.clip].append((place, decision))
        for clip, of_clip in sorted(by_clip.items()):
            people: dict[str, _Opinion] = {}
            for place, decision in of_clip:
                stretch = place.find_stretch(decision)
                if stretch is None:
                    continue
                opinion = people.setdefault(
                    decision.who, _Opinion(index.num_classes, place.num_cells)
                )
                label = labels[decision.label]
                if label is None:
                    opinion.add_no_to_others(*stretch)
                else:
                    opinion.add(label, *stretch, decision.decision)
            if people:  # a recording has clips of which no decision says anything
                yield clip, list(people.values())


_Yes = tuple[int, int, int]  # class, and cells from and to
_NOTHING, _NO, _UNSURE = -1, 0, 1  # in cells


class _Opinion:
    """What a person says of a clip, by all decisions: the last ones count."""

    def __init__(self, num_classes: int, num_cells: int):
        self.yeses: list[_Yes] = []  # stretches in which a class sounds somewhere
        # int8 [classes, cells], _NO and _UNSURE where that was decided
        self.cells = np.full((num_classes, num_cells), _NOTHING, np.int8)

    def add(self, label: int, begin: int, end: int, decision: str) -> None:
        stretch, part = (label, begin, end), self.cells[label, begin:end]
        if decision == YES:
            if (part != _NOTHING).all():  # else it may sound where nothing was decided
                part[:] = _NOTHING
            self.yeses.append(stretch)
        else:
            part[:] = _NO if decision == NO else _UNSURE
            self.yeses = [yes for yes in self.yeses if not _contains(stretch, yes)]

    def add_no_to_others(self, begin: int, end: int) -> None:
        part = self.cells[:, begin:end]
        others = ~(part == _UNSURE).all(axis=1)
        others[[yes[0] for yes in self.yeses if _contains((yes[0], begin, end), yes)]] = False
        part[others] = _NO

    def covers(self, begin: int, end: int, what: int) -> np.ndarray:
        """Which classes have `what` all over a stretch: bool [classes]."""
        part = self.cells[:, begin:end]
        return np.asarray((part == what).all(axis=1) & (part.shape[1] > 0))


def _judge_yeses(people: Sequence[_Opinion]) -> dict[_Yes, bool | None]:
    """Whether most people agree with each yes: None where as many say no."""
    verdicts: dict[_Yes, bool | None] = {}
    for yes in sorted({yes for opinion in people for yes in opinion.yeses}):
        label, begin, end = yes
        agree = sum(any(_contains(yes, other) for other in opinion.yeses) for opinion in people)
        against = sum(bool(opinion.covers(begin, end, _NO)[label]) for opinion in people)
        verdicts[yes] = None if agree == against else agree > against
    return verdicts


def _judge(
    people: Sequence[_Opinion], verdicts: dict[_Yes, bool | None], stretch: tuple[int, int]
) -> np.ndarray:
    """The labels of a segment [classes]: 1, 0, NaN for unknown, _NOTHING where none is decided."""
    no, unsure = (
        np.any([opinion.covers(*stretch, what) for opinion in people], axis=0)
        for what in (_NO, _UNSURE)
    )
    values = np.where(no, 0.0, np.where(unsure, np.nan, _NOTHING))
    # A no to all of a stretch where the sound is, or may be, says nothing of its parts.
    for (label, begin, end), verdict in verdicts.items():
        overlaps = begin < stretch[1] and stretch[0] < end
        is_no = overlaps and values[label] == 0 and verdict is not False
        if is_no and any(opinion.covers(begin, end, _NO)[label] for opinion in people):
            values[label] = np.nan
    inside = [(yes[0], v) for yes, v in verdicts.items() if _contains((yes[0], *stretch), yes)]
    values[[label for label, verdict in inside if verdict is None]] = np.nan
    values[[label for label, verdict in inside if verdict]] = 1.0
    return values


def _contains(outer: _Yes, inner: _Yes) -> bool:
    return outer[0] == inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2]


def _to_cells(onset: float, offset: float) -> tuple[int, int]:
    begin = round(onset * _CELLS)
    return begin, max(round(offset * _CELLS), begin + 1)


def _number_pairs(
    index: ClipIndex, offsets: np.ndarray | None, values: np.ndarray | None
) -> np.ndarray:
    """clip * classes + class of a ragged list of `ClipIndex`: int64."""
    if offsets is None or values is None:
        return np.zeros(0, np.int64)
    clips = np.repeat(np.arange(len(index), dtype=np.int64), np.diff(offsets))
    return np.asarray(clips * index.num_classes + values)


def _unpair(pairs: np.ndarray, index: ClipIndex) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of clip * classes + class, ascending: see `ClipIndex`."""
    counts = np.bincount(pairs // index.num_classes, minlength=len(index))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return offsets, (pairs % index.num_classes).astype(np.int32)


# --- Names of clips ---------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a clip lies in a recording: from `start` seconds on, for `num_cells`."""

    clip: int
    start: float
    num_cells: int
    is_last: bool  # no other clip of the recording follows

    def find_stretch(self, decision: Decision) -> tuple[int, int] | None:
        """The cells of the clip of which a decision says something; None: there are none."""
        begin, end = _to_cells(decision.onset - self.start, decision.offset - self.start)
        inside = max(begin, 0), min(end, self.num_cells)
        if inside[0] >= inside[1]:
            return None
        # A sound that is somewhere in two clips may be in either.
        in_two = begin < 0 or (end > self.num_cells and not self.is_last)
        return None if decision.decision == YES and in_two else inside


class _Places:
    """Finds the clips of a recording by its name, or by the id of a clip."""

    def __init__(self, index: ClipIndex):
        parts: dict[str, list[_Place]] = collections.defaultdict(list)
        ids = {}
        for clip, clip_id in enumerate(index.ids.tolist()):
            num_cells = _to_cells(0.0, index.num_samples[clip] / SAMPLE_RATE)[1]
            ids[clip_id] = [_Place(clip, 0.0, num_cells, True)]
            recording, start = split_id(clip_id)
            if start is not None:
                parts[recording].append(_Place(clip, start, num_cells, False))
        for places in parts.values():
            last = max(range(len(places)), key=lambda number: places[number].start)
            places[last] = places[last]._replace(is_last=True)
        self._clips = parts | ids

    def find_name(self, filename: str) -> str | None:
        """The name by which the split has a file."""
        stem = posixpath.splitext(_with_slashes(filename))[0]
        names = filename, posixpath.splitext(filename)[0], stem, posixpath.basename(stem)
        return next((name for name in names if name in self._clips), None)

    def find(self, filename: str) -> list[_Place]:
        """The clips of a recording, or the clip of this id."""
        name = self.find_name(filename)
        return self._clips[name] if name else []


def _with_slashes(filename: str) -> str:
    """The name of a file of Windows as that of others."""
    return filename.replace("\\", "/")


def _is_lost(decision: Decision, splits: Sequence[_Places]) -> bool:
    """Whether a decision about a recording of the data holds for no clip of it."""
    places = [place for of_split in splits for place in of_split.find(decision.filename)]
    return bool(places) and all(place.find_stretch(decision) is None for place in places)


def split_id(clip_id: str) -> tuple[str, float | None]:
    """The recording of a clip, and the clip's start in it in seconds; None: it is not cut."""
    match = _PART.fullmatch(clip_id)
    return (match[1], float(match[2])) if match else (clip_id, None)
