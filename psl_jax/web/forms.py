"""What a request may ask for, in its query or in the fields of a multipart body."""

import dataclasses
import difflib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, Json, Strict, ValidationError, model_validator

from psl_jax.audio.segments import Segmentation
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings
from psl_jax.web.service import Cut, RefusedError, Service

MAX_CUTS = 1000
_HOPS = 8  # a segment's length divided by the shortest hop: ever shorter ones take ever longer
_CUT_TIMES = 2.0  # what may be cut from a file, in its accepted length
_DEFAULT_TAGS = 10

Threshold = Annotated[float, Field(gt=0, le=1)]
Form = TypeVar("Form", bound="Upload")


class Upload(BaseModel):
    """What every request with a file may say."""

    name: str = Field("", description="What the file is called, for the answer.")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: dict[str, Any]) -> dict[str, Any]:
        settings = list(cls.model_fields)
        for name in given:
            if name not in settings:
                near = difflib.get_close_matches(name, settings, 1)
                hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(settings)}."
                raise ValueError(f"there is no setting {name[:100]!r}. {hint}")
        return given


class PageUpload(Upload):
    """Of the page: `ticket` is what it asks for the upload's progress by."""

    ticket: str = ""


class PageTagUpload(PageUpload):
    """A file whose scores the page draws."""

    hop_seconds: float | None = None


class ClipsUpload(PageUpload):
    """A file of which clips are cut."""

    events: Json[Annotated[list[Cut], Field(min_length=1, max_length=MAX_CUTS)]]

    def cuts(self, service: Service) -> list[Cut]:
        """What is cut, under names without folders. Raises RefusedError, 422."""
        if not all(0 <= cut.onset < cut.offset < math.inf for cut in self.events):
            raise _wrong("an event ends before it begins")
        longest = _CUT_TIMES * service.limits.minutes * 60
        if sum(cut.offset - cut.onset for cut in self.events) > longest:
            raise _wrong(f"the events together are longer than {longest / 60:g} minutes")
        return [dataclasses.replace(cut, name=_file_name(cut.name)) for cut in self.events]


class TagUpload(Upload):
    """A file that is tagged for a program."""

    threshold: Threshold | None = Field(
        None,
        description="An event has a score of at least this somewhere. Given here it is that of all "
        "classes. `/api/v1/labels` has the defaults of this and the other settings.",
    )
    thresholds: Json[dict[str, Annotated[Threshold, Strict()]]] = Field(
        default_factory=dict, description='Those of some classes, in JSON: `{"dog": 0.4}`.'
    )
    low_threshold: Threshold | None = Field(
        None,
        description="An event reaches as far as scores are at least this: hysteresis. By default "
        "the threshold.",
    )
    median_filter: int | None = Field(
        None,
        ge=1,
        le=101,
        description="Frames of 0.32 s over which scores are first median-filtered: an odd number.",
    )
    hop_seconds: float | None = Field(
        None,
        description="From one segment's start to the next, in seconds, down to an eighth of a "
        "segment: shorter takes longer.",
    )
    top_k: int | None = Field(
        None, ge=1, description="Tags of the whole file in the answer, the best first."
    )
    frames: bool = Field(
        False, description="Answer all scores over time, too: a row of all classes every 0.32 s."
    )

    def resolve(self, service: Service) -> "TagSettings":
        """These settings, and the service's where none is given. Raises RefusedError, 422."""
        defaults, labels = service.settings, service.tagger.labels
        common, own = common_and_own(defaults, labels)
        if self.threshold is not None:  # whoever names one for all classes means all of them
            common, own = self.threshold, {}
        for label in self.thresholds:
            if label not in labels:
                near = difflib.get_close_matches(label, labels, 1)
                hint = f"Did you mean {near[0]!r}?" if near else "GET /api/v1/labels lists them."
                raise _wrong(f"thresholds: there is no class {label[:100]!r}. {hint}")
        own = own | self.thresholds
        low, median = self.low_threshold, self.median_filter
        if low is None and defaults.low_threshold is not None:
            low = min(defaults.low_threshold, common)
        try:
            settings = EventSettings(
                tuple(own.get(label, common) for label in labels) if own else common,
                low,
                defaults.median_filter if median is None else median,
            )
        except UserError as error:
            raise _wrong(str(error)) from error
        num_tags = min(_DEFAULT_TAGS, len(labels)) if self.top_k is None else self.top_k
        if num_tags > len(labels):
            raise _wrong(f"top_k is {num_tags}, expected 1 to {len(labels)}, the number of classes")
        segmentation = segmentation_with(self.hop_seconds, service)
        return TagSettings(settings, common, own, segmentation, num_tags, self.frames)


@dataclasses.dataclass(frozen=True)
class TagSettings:
    """How a file is tagged for a program, and what the answer holds.

    Attributes:
      events: what makes an event; in it are
      common: the threshold of all classes but those of
      own: which have one of their own.
      segmentation: how the file is cut, None: not at all.
      num_tags: tags in the answer.
      frames: answer all scores over time.
    """

    events: EventSettings
    common: float
    own: dict[str, float]
    segmentation: Segmentation | None
    num_tags: int
    frames: bool


def common_and_own(
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
    each = zip(labels, settings.threshold, strict=True)
    return common, {label: threshold for label, threshold in each if threshold != common}


def hops(service: Service) -> list[float]:
    """What may be chosen on the page as hop, in seconds."""
    cut = service.segmentation
    return [cut.seconds / n for n in (1, 2, 4, _HOPS)] if cut else []


def segmentation_with(hop_seconds: float | None, service: Service) -> Segmentation | None:
    """Segments `hop_seconds` apart, None: as the service cuts. Raises RefusedError, 422."""
    cut = service.segmentation
    if hop_seconds is None:
        return cut
    if cut is None:
        raise _wrong("hop_seconds needs segments, and this server tags each file whole")
    shortest = cut.seconds / _HOPS
    if not shortest <= hop_seconds <= cut.seconds:
        raise _wrong(f"hop_seconds is {hop_seconds:g}, expected {shortest:g} to {cut.seconds:g}")
    return service.tagger.segmentation(cut.seconds, hop_seconds)


def read_form(form: type[Form], pairs: Sequence[tuple[str, str]]) -> Form:
    """The settings in a request's query and fields, each named once. Raises RefusedError, 422."""
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise _wrong(f"{name[:100]} is given {times} times; expected once")
    try:
        return form.model_validate(dict(pairs))
    except ValidationError as error:
        raise invalid(error.errors()) from error


def invalid(errors: Sequence[Any]) -> RefusedError:
    """What pydantic says of a setting, in words."""
    error = errors[0]
    if error["type"] == "value_error":
        return _wrong(str(error["ctx"]["error"]))
    path = error["loc"][1:] if error["loc"][0] == "query" else error["loc"]
    name = ": ".join(str(part)[:100] for part in path)
    if error["type"] == "missing":
        return _wrong(f"{name} is missing")
    problem = ": " + error["msg"]
    problem = problem.replace(": Input should be", ", expected")
    return _wrong(f"{name} is {str(error['input'])[:100]!r}{problem}")


def _file_name(name: str) -> str:
    """A name without folders and what else is none of a file's."""
    return "".join(c for c in name if c.isprintable() and c not in "/\\:")[-150:] or "clip.wav"


def _wrong(message: str) -> RefusedError:
    return RefusedError(422, message, "setting")
