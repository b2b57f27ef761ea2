"""Defines the interface for programs: /api/v1/tag, /api/v1/labels and /healthz."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

import psl_jax
from psl_jax.tagging import output_formats
from psl_jax.tagging.file_tagging import FileTags
from psl_jax.web.access import Access
from psl_jax.web.forms import TagUpload, Threshold, UsedSettings, describe_settings
from psl_jax.web.service import Job, Service
from psl_jax.web.uploads import Uploads

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, description="seconds from the start")]

# --- Answers ----------------------------------------------------------------------------------


class Tag(BaseModel):
    label: str
    score: Probability = Field(description="of the whole file")
    peak: Probability = Field(description="the highest over time")
    threshold: Threshold


class Event(BaseModel):
    onset: Seconds
    offset: Seconds
    label: str
    score: Probability


class Tagged(BaseModel):
    name: str
    model: str
    seconds: float = Field(description="the file's length")
    tags: list[Tag] = Field(description="the highest score first")
    events: list[Event] = Field(description="by onset")
    settings: UsedSettings


class Label(BaseModel):
    label: str
    threshold: Threshold


class Labels(BaseModel):
    model: str
    labels: list[Label]
    settings: UsedSettings


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    version: str
    model: str
    classes: int
    waiting: int = Field(description="files, the one that is tagged among them")


class Error(BaseModel):
    error: str = Field(description="what is wrong, in words")
    kind: str


_ERRORS = {
    400: "The name in the Host header is not this machine's.",
    401: "The server wants a token: Authorization: Bearer TOKEN.",
    403: "A web page from elsewhere sent this, and its origin is not on the server's list.",
    413: "The file is too large or too long.",
    415: "The file is empty or no audio, or the body is of another kind.",
    422: "A setting is unknown or out of range, or the multipart body lacks its file.",
    429: "Too many files are waiting; try again after the seconds in Retry-After.",
    500: "The server has no room for the file.",
}


def _describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error, "description": _ERRORS[status]} for status in statuses}


# --- The routes -------------------------------------------------------------------------------


def make_routes(service: Service, uploads: Uploads, access: Access) -> APIRouter:
    """Makes the routes for programs."""
    router = APIRouter()
    limits, checks = service.limits, access.checks(api=True)

    @router.post(
        "/api/v1/tag",
        summary="Tags a file",
        description="The file is the body, or the field `file` of a multipart body, whose other "
        "fields count like the query: any format and rate, up to "
        f"{limits.megabytes:g} MB and {limits.minutes:g} minutes. It is deleted once it is "
        "answered, or its sender has gone.",
        response_description="What is heard, and when.",
        response_model=Tagged,
        responses=_describe_errors(400, 401, 403, 413, 415, 422, 429, 500),
        openapi_extra={"requestBody": _describe_body()},
        dependencies=checks,
    )
    async def tag(request: Request, query: Annotated[TagUpload, Query()]) -> Response:
        # A wrong setting is refused before the file is received.
        query.make_event_settings(service)

        def work(job: Job, upload: TagUpload) -> Response:
            events = upload.make_event_settings(service)
            tags = service.tag(job, events)
            settings = describe_settings(events, service.segmentation, tags.labels)
            answer = _make_answer(tags, settings, upload.top_k, service.tagger.info.name)
            return Response(answer.model_dump_json(), media_type="application/json")

        return await uploads.answer(request, TagUpload, work)

    @router.get(
        "/api/v1/labels",
        summary="The classes, and how they are tagged by default",
        response_description="The model's classes in their order.",
        responses=_describe_errors(400, 401, 403),
        dependencies=checks,
    )
    async def labels() -> Labels:
        thresholds = service.settings.get_threshold_by_class(service.tagger.labels)
        return Labels(
            model=service.tagger.info.name,
            labels=[Label(label=name, threshold=value) for name, value in thresholds.items()],
            settings=make_default_settings(service),
        )

    @router.get(
        "/healthz",
        summary="Whether the server is there",
        response_description="It is.",
        responses=_describe_errors(400),
    )
    async def healthz() -> Health:
        return Health(
            version=psl_jax.__version__,
            model=service.tagger.info.name,
            classes=len(service.tagger.labels),
            waiting=len(uploads),
        )

    return router


def _describe_body() -> dict[str, Any]:
    """Describes the body for the OpenAPI document; the route itself reads it as a stream."""
    audio = {"type": "string", "format": "binary"}
    form = TagUpload.model_json_schema()
    form["properties"]["file"] = audio | {"description": "the audio file"}
    form["required"] = ["file"]
    content = {"application/octet-stream": audio, "multipart/form-data": form}
    return {
        "required": True,
        "content": {content_type: {"schema": schema} for content_type, schema in content.items()},
    }


def make_default_settings(service: Service) -> UsedSettings:
    """Makes the settings of a request that gives none."""
    return describe_settings(service.settings, service.segmentation, service.tagger.labels)


def _make_answer(tags: FileTags, settings: UsedSettings, num_tags: int, model: str) -> Tagged:
    content = output_formats.to_json(tags, num_tags)
    for tag in content["tags"]:
        tag["threshold"] = settings.thresholds.get(tag["label"], settings.threshold)
    return Tagged.model_validate(
        content | {"name": content["file"], "model": model, "settings": settings}
    )
