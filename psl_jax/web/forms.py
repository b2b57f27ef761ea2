"""Checks the settings of a request, in its query or in the fields of a multipart body."""

import dataclasses
import difflib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, Json, Strict, ValidationError, model_validator

from psl_jax.audio.segments import Segmentation
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings
from psl_jax.web.service import Cut, RefusedError, Service

MAX_CUTS = 1000
_HOPS = 8  # a segment's length divided by the shortest hop: shorter hops take longer
_CUT_TIMES = 2.0  # length of all clips cut from a file, divided by the accepted length of a file
_DEFAULT_TAGS = 10

Threshold = Annotated[float, Field(gt=0, le=1)]
Form = TypeVar("Form", bound="Upload")


class Upload(BaseModel):
    """Settings of every request with a file."""

    name: str = Field("", description="What the file is called, for the answer.")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        settings = list(cls.model_fields)
        for name in values:
            if name not in settings:
                similar = difflib.get_close_matches(name, settings, 1)
                hint = (
                    f"Did you mean {similar[0]}?"
                    if similar
                    else f"There are: {', '.join(settings)}."
                )
                raise ValueError(f"there is no setting {name[:100]!r}. {hint}")
        return values


class PageUpload(Upload):
    """An upload of the page, which asks for its progress by `ticket`."""

    ticket: str = ""


class PageTagUpload(PageUpload):
    """A file whose scores the page draws."""

    hop_seconds: float | None = None


class ClipsUpload(PageUpload):
    """A file from which clips are cut."""

    events: Json[Annotated[list[Cut], Field(min_length=1, max_length=MAX_CUTS)]]

    def make_cuts(self, service: Service) -> list[Cut]:
        """Lists the clips to cut, with names without folders. Raises RefusedError, 422."""
        if not all(0 <= cut.onset < cut.offset < math.inf for cut in self.events):
            raise _refuse("an event ends before it begins")
        max_seconds = _CUT_TIMES * service.limits.minutes * 60
        if sum(cut.offset - cut.onset for cut in self.events) > max_seconds:
            raise _refuse(f"the events together are longer than {max_seconds / 60:g} minutes")
        return [dataclasses.replace(cut, name=_clean_file_name(cut.name)) for cut in self.events]


class SegmentForm(BaseModel):
    """A decision on a segment, by its place in the order of the review."""

    place: Annotated[int, Field(ge=0)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    decision: Literal["yes", "no", "unsure"]


class DecisionForm(BaseModel):
    """A decision on the tags of a file."""

    filename: Annotated[str, Field(min_length=1, max_length=500)]
    onset: Annotated[float, Field(ge=0, lt=1e7)]
    offset: Annotated[float, Field(gt=0, lt=1e7)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    decision: Literal["yes", "no", "undo"]


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
        """Adds the service's settings where this has none. Raises RefusedError, 422."""
        defaults, labels = service.settings, service.tagger.labels
        common_threshold, class_thresholds = split_thresholds(defaults, labels)
        if self.threshold is not None:  # it holds for all classes
            common_threshold, class_thresholds = self.threshold, {}
        for label in self.thresholds:
            if label not in labels:
                similar = difflib.get_close_matches(label, labels, 1)
                hint = (
                    f"Did you mean {similar[0]!r}?" if similar else "GET /api/v1/labels lists them."
                )
                raise _refuse(f"thresholds: there is no class {label[:100]!r}. {hint}")
        class_thresholds = class_thresholds | self.thresholds
        low_threshold, median_filter = self.low_threshold, self.median_filter
        if low_threshold is None and defaults.low_threshold is not None:
            low_threshold = min(defaults.low_threshold, common_threshold)
        try:
            settings = EventSettings(
                tuple(class_thresholds.get(label, common_threshold) for label in labels)
                if class_thresholds
                else common_threshold,
                low_threshold,
                defaults.median_filter if median_filter is None else median_filter,
            )
        except UserError as error:
            raise _refuse(str(error)) from error
        num_tags = min(_DEFAULT_TAGS, len(labels)) if self.top_k is None else self.top_k
        if num_tags > len(labels):
            raise _refuse(
                f"top_k is {num_tags}, expected 1 to {len(labels)}, the number of classes"
            )
        segmentation = make_segmentation(self.hop_seconds, service)
        return TagSettings(
            settings, common_threshold, class_thresholds, segmentation, num_tags, self.frames
        )


@dataclasses.dataclass(frozen=True)
class TagSettings:
    """Settings by which a file is tagged for a program, and of the answer.

    Attributes:
      events: settings of events, with all thresholds.
      common_threshold: the threshold of all classes that are not in class_thresholds.
      class_thresholds: other thresholds by class.
      segmentation: how the file is cut; None: not at all.
      num_tags: number of tags in the answer.
      frames: whether the answer has all scores over time.
    """

    events: EventSettings
    common_threshold: float
    class_thresholds: dict[str, float]
    segmentation: Segmentation | None
    num_tags: int
    frames: bool


def split_thresholds(
    settings: EventSettings, labels: tuple[str, ...]
) -> tuple[float, dict[str, float]]:
    """Splits thresholds into the one of most classes, and the others by class.

    Where no threshold is that of most classes, the second value has all classes.
    """
    if isinstance(settings.threshold, float | int):
        return float(settings.threshold), {}
    most_frequent, count = Counter(settings.threshold).most_common(1)[0]
    common_threshold = most_frequent if 2 * count > len(labels) else EventSettings().threshold
    assert isinstance(common_threshold, float)
    pairs = zip(labels, settings.threshold, strict=True)
    return common_threshold, {
        label: threshold for label, threshold in pairs if threshold != common_threshold
    }


def list_hops(service: Service) -> list[float]:
    """Lists the hops, in seconds, that the page offers."""
    segmentation = service.segmentation
    return [segmentation.seconds / divisor for divisor in (1, 2, 4, _HOPS)] if segmentation else []


def make_segmentation(hop_seconds: float | None, service: Service) -> Segmentation | None:
    """Makes segments every `hop_seconds`; None: as the service cuts. Raises RefusedError, 422."""
    segmentation = service.segmentation
    if hop_seconds is None:
        return segmentation
    if segmentation is None:
        raise _refuse("hop_seconds needs segments, and this server tags each file whole")
    min_seconds = segmentation.seconds / _HOPS
    if not min_seconds <= hop_seconds <= segmentation.seconds:
        raise _refuse(
            f"hop_seconds is {hop_seconds:g}, expected {min_seconds:g} to {segmentation.seconds:g}"
        )
    return service.tagger.segmentation(segmentation.seconds, hop_seconds)


def read_form(form: type[Form], pairs: Sequence[tuple[str, str]]) -> Form:
    """Reads the settings in a request's query and fields. Raises RefusedError, 422."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise _refuse(f"{name[:100]} is given {count} times; expected once")
    try:
        return form.model_validate(dict(pairs))
    except ValidationError as error:
        raise describe_invalid(error.errors()) from error


def describe_invalid(errors: Sequence[Any]) -> RefusedError:
    """Makes an error in words of what pydantic reports."""
    error = errors[0]
    if error["type"] == "value_error":
        return _refuse(str(error["ctx"]["error"]))
    path = error["loc"][1:] if error["loc"][0] == "query" else error["loc"]
    name = ": ".join(str(part)[:100] for part in path)
    if error["type"] == "missing":
        return _refuse(f"{name} is missing")
    problem = ": " + error["msg"]
    problem = problem.replace(": Input should be", ", expected")
    return _refuse(f"{name} is {str(error['input'])[:100]!r}{problem}")


def _clean_file_name(name: str) -> str:
    """Removes folders and unprintable characters from a name."""
    return "".join(c for c in name if c.isprintable() and c not in "/\\:")[-150:] or "clip.wav"


def _refuse(message: str) -> RefusedError:
    return RefusedError(422, message, "setting")
