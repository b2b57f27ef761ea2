"""Which clip a file name belongs to. Names are never split: ids hold "_" and "-" themselves."""

import enum
import re
from collections.abc import Mapping

from psl_jax.corpora.audioset_csv import ID_LENGTH, ListedClip

# What is tried, in this order, for a name without its folder and extension.
PATTERNS = (
    "{id}",
    "Y{id}",
    "{id}_{start}, {id}_{start}_{end} or {id}_{start}-{end}",
    "Y{id}_{start} and so on",
)
_TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?")


class Match(enum.Enum):
    """What came of a name."""

    CLIP = "clip"
    OTHER_SEGMENT = "other segment"  # the right video, but other times
    UNKNOWN = "unknown"


def match(stem: str, segments: Mapping[str, ListedClip]) -> tuple[Match, str]:
    """The clip that a name (without folder and extension) belongs to, and how sure that is.

    The whole name is tried as an id first. Times, in milliseconds or seconds, must be those of the
    segment: another part of the video has other labels.
    """
    for candidate in (stem, stem.removeprefix("Y")):
        if candidate in segments:
            return Match.CLIP, candidate
    other = None
    for candidate in (stem, stem.removeprefix("Y")):
        clip, times = candidate[:ID_LENGTH], _TIMES.fullmatch(candidate[ID_LENGTH:])
        if times and clip in segments:
            if _fits(times[1], times[2], segments[clip]):
                return Match.CLIP, clip
            other = clip
    return (Match.UNKNOWN, "") if other is None else (Match.OTHER_SEGMENT, other)


def _fits(start: str, end: str | None, segment: ListedClip) -> bool:
    """Times in a file name are those of the segment, in milliseconds or in seconds."""
    return any(
        abs(float(start) * unit - segment.start) < 0.01
        and (end is None or abs(float(end) * unit - segment.end) < 0.01)
        for unit in (0.001, 1.0)
    )
