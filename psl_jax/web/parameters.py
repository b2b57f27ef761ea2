"""What a request asks for, from its query: checked, and refused in words where it is wrong."""

import dataclasses
import difflib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from psl_jax.audio.segments import Segmentation
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings
from psl_jax.web.service import Cut, RefusedError, Service

MAX_MEDIAN_FILTER = 101
HOPS = 8  # a segment's length divided by the shortest hop: ever shorter ones take ever longer
MAX_CUTS = 1000
_CUT_TIMES = 2.0  # what may be cut from a file, in its accepted length
_DEFAULT_TAGS = 10

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Asked:
    """How a file is to be tagged, and what of it is to be told.

    Attributes:
      settings: what makes an event; in it are
      common: the threshold of all classes but those of
      own: which have one of their own.
      segmentation: how it is cut, None: as the service does.
      most: tags to tell.
      frames: tell all scores over time.
    """

    settings: EventSettings
    common: float
    own: dict[str, float]
    segmentation: Segmentation | None
    most: int
    frames: bool


def asked(query: Mapping[str, str], service: Service) -> Asked:
    """Reads the query of a request to tag. Raises RefusedError, 422, for what is wrong in it."""
    names = ("threshold", "thresholds", "low_threshold", "median_filter", "hop_seconds")
    _check_names(query, ("name", *names, "top_k", "frames"))
    given, labels = service.settings, service.tagger.labels
    common, own = thresholds_of(given, labels)
    threshold = _read(query, "threshold", _number, "a number above 0, at most 1")
    if threshold is not None:  # whoever names one for all classes means all of them
        common, own = threshold, {}
    own = own | _thresholds(query, labels)
    low = _read(query, "low_threshold", _number, "a number above 0, at most the threshold")
    if low is None and given.low_threshold is not None:
        low = min(given.low_threshold, common)
    median = _read(query, "median_filter", int, "an odd number of frames")
    median = given.median_filter if median is None else median
    if median > MAX_MEDIAN_FILTER:
        raise _wrong(f"median_filter is {median}, expected at most {MAX_MEDIAN_FILTER}")
    try:
        settings = EventSettings(_each(common, own, labels), low, median)
    except UserError as error:
        raise _wrong(str(error)) from error
    most = _read(query, "top_k", int, "a number of tags")
    most = min(_DEFAULT_TAGS, len(labels)) if most is None else most
    if not 1 <= most <= len(labels):
        raise _wrong(f"top_k is {most}, expected 1 to {len(labels)}, the number of classes")
    frames = _read(query, "frames", _truth, "true or false")
    return Asked(settings, common, own, segmentation(query, service), most, bool(frames))


def thresholds_of(
    settings: EventSettings, labels: tuple[str, ...]
) -> tuple[float, dict[str, float]]:
    """The threshold of most classes, and those of the others by their names.

    Where no value is that of most, each class has one of its own.
    """
    if isinstance(settings.threshold, float | int):
        return float(settings.threshold), {}
    value, times = Counter(settings.threshold).most_common(1)[0]
    common = value if 2 * times > len(labels) else EventSettings().threshold
    assert isinstance(common, float)
    own = zip(labels, settings.threshold, strict=True)
    return common, {label: threshold for label, threshold in own if threshold != common}


def _each(
    common: float, own: dict[str, float], labels: tuple[str, ...]
) -> float | tuple[float, ...]:
    return tuple(own.get(label, common) for label in labels) if own else common


def segmentation(query: Mapping[str, str], service: Service) -> Segmentation | None:
    """Segments `hop_seconds` apart, None: as the service cuts. Raises RefusedError, 422."""
    hop = _read(query, "hop_seconds", _number, "a number of seconds")
    if hop is None:
        return None
    cut = service.segmentation
    if cut is None:
        raise _wrong("hop_seconds needs segments, and this server tags each file whole")
    shortest = cut.seconds / HOPS
    if not shortest <= hop <= cut.seconds:
        raise _wrong(f"hop_seconds is {hop:g}, expected {shortest:g} to {cut.seconds:g}")
    return service.tagger.segmentation(cut.seconds, hop)


def cuts(text: str, service: Service) -> list[Cut]:
    """Stretches to be saved, a JSON list of {onset, offset, name}. Raises RefusedError, 422."""
    try:
        found = [
            Cut(float(x["onset"]), float(x["offset"]), str(x["name"])) for x in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _wrong(
            'events is no list of clips; expected [{"onset": 0.5, "offset": 1.2, "name": "a.wav"}]'
        ) from error
    if not 1 <= len(found) <= MAX_CUTS:
        raise _wrong(f"events are {len(found)}, expected 1 to {MAX_CUTS}")
    if not all(0 <= cut.onset < cut.offset < math.inf for cut in found):
        raise _wrong("an event ends before it begins")
    longest = _CUT_TIMES * service.limits.minutes * 60
    if sum(cut.offset - cut.onset for cut in found) > longest:
        raise _wrong(f"the events together are longer than {longest / 60:g} minutes")
    return found


def _plain(name: str) -> str:
    """A name without folders and what else is none of a file's."""
    return "".join(c for c in str(name) if c.isprintable() and c not in "/\\:")[-150:] or "clip.wav"


def _wrong(message: str) -> RefusedError:
    return RefusedError(422, message, "setting")


def _check_names(query: Iterable[str], known: tuple[str, ...]) -> None:
    for name in query:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(known)}."
            raise _wrong(f"there is no setting {name[:100]!r}.{hint}")


def _read(
    query: Mapping[str, str], name: str, kind: Callable[[str], Value], expected: str
) -> Value | None:
    if name not in query:
        return None
    try:
        return kind(query[name])
    except ValueError as error:
        raise _wrong(f"{name} is {query[name][:100]!r}, expected {expected}") from error


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[_known(text.lower())]


def _known(text: str) -> str:
    if text not in ("true", "1", "false", "0"):
        raise ValueError
    return text


def _thresholds(query: Mapping[str, str], labels: tuple[str, ...]) -> dict[str, float]:
    example = f'a JSON object of classes and numbers, {{"{labels[0]}": 0.4}}'
    try:
        found: Any = json.loads(query.get("thresholds", "{}"))
    except (ValueError, RecursionError) as error:
        raise _wrong(f"thresholds is no JSON; expected {example}") from error
    if not isinstance(found, dict) or not all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in found.values()
    ):
        raise _wrong(f"thresholds: expected {example}")
    for label in found:
        if label not in labels:
            near = difflib.get_close_matches(label, labels, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " GET /api/v1/labels lists them."
            raise _wrong(f"thresholds: there is no class {label[:100]!r}.{hint}")
    return {label: float(min(value, 2)) for label, value in found.items()}
