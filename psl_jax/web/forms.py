"""Checks the settings of a request, in its query or in the fields of a multipart body."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Json, Strict, ValidationError

from psl_jax.audio.segments import Segmentation
from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings
from psl_jax.web.service import RefusedError, Service

Threshold = Annotated[float, Field(gt=0, le=1)]
Form = TypeVar("Form", bound="Upload")


class Upload(BaseModel):
    """Settings of every request with a file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", description="What the file is called, for the answer.")


class PageUpload(Upload):
    """An upload of the page, which asks for its progress by `ticket`."""

    ticket: str = ""


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
        description="An event lasts while the score is at least this. Given here it is that of all "
        "classes. `/api/v1/labels` has the defaults of this and the other settings.",
    )
    thresholds: Json[dict[str, Annotated[Threshold, Strict()]]] = Field(
        default_factory=dict, description='Those of some classes, in JSON: `{"dog": 0.4}`.'
    )
    median_filter: int | None = Field(
        None,
        ge=1,
        le=101,
        description="Frames of 0.32 s over which scores are first median-filtered: an odd number.",
    )
    top_k: int = Field(
        10, ge=1, description="Largest number of tags of the whole file, the best first."
    )

    def make_event_settings(self, service: Service) -> EventSettings:
        """Adds the service's settings where this has none. Raises RefusedError, 422."""
        try:
            return service.settings.change(
                service.tagger.labels, self.threshold, self.thresholds, self.median_filter
            )
        except UserError as error:
            raise _refuse(str(error)) from error


class UsedSettings(BaseModel):
    """The settings that an answer rests on."""

    threshold: Threshold = Field(description="of classes without one of their own")
    thresholds: dict[str, Threshold] = Field(description="of classes with one of their own")
    median_filter: int
    segment_seconds: float
    hop_seconds: float | None


def describe_settings(
    events: EventSettings, segmentation: Segmentation, labels: tuple[str, ...]
) -> UsedSettings:
    """Describes settings; classes that share the threshold of most classes are not listed."""
    thresholds = events.get_threshold_by_class(labels)
    common_threshold, count = Counter(thresholds.values()).most_common(1)[0]
    if 2 * count <= len(labels):
        common_threshold = DEFAULT_THRESHOLD
    return UsedSettings(
        threshold=common_threshold,
        thresholds={name: x for name, x in thresholds.items() if x != common_threshold},
        median_filter=events.median_filter,
        segment_seconds=segmentation.seconds,
        hop_seconds=segmentation.hop_seconds,
    )


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
    path = error["loc"][1:] if error["loc"][0] == "query" else error["loc"]
    name = ": ".join(str(part)[:100] for part in path)
    if error["type"] == "extra_forbidden":
        return _refuse(f"there is no setting {name!r}: /api/v1/openapi.json lists them")
    if error["type"] == "missing":
        return _refuse(f"{name} is missing")
    problem = f": {error['msg']}".replace(": Input should be", ", expected")
    return _refuse(f"{name} is {str(error['input'])[:100]!r}{problem}")


def _refuse(message: str) -> RefusedError:
    return RefusedError(422, message, "setting")
