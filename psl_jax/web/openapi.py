"""The OpenAPI document of the interface: what is asked, what is answered, and each error."""

from typing import Any

import psl_jax
from psl_jax.web.parameters import HOPS, MAX_MEDIAN_FILTER, thresholds_of
from psl_jax.web.service import Service

_NUMBER = {"type": "number"}
_TEXT = {"type": "string"}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_THRESHOLD = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}

_ERRORS = {
    400: "The name in the Host header is not this machine's.",
    401: "The server wants a token: Authorization: Bearer TOKEN.",
    403: "A web page from elsewhere sent this, and its origin is not on the server's list.",
    413: "The file is too large or too long.",
    415: "The file is empty or no audio, or the body is of another kind.",
    422: "A setting is unknown or out of range, or the multipart body lacks its file.",
    429: "Too many files are waiting; try again after the seconds in Retry-After.",
}


def document(service: Service, token: bool) -> dict[str, Any]:
    """The OpenAPI document for what `service` accepts. token: requests need one."""
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "psl_jax",
            "version": psl_jax.__version__,
            "description": "Tags with times for audio files.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/api/v1/tag": {"post": _tag(service)},
            "/api/v1/labels": {"get": _labels()},
            "/healthz": {"get": _health()},
        },
        "components": {"schemas": _schemas()},
    }
    if token:
        result["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in ("/api/v1/tag", "/api/v1/labels"):
            (operation,) = result["paths"][path].values()
            operation["security"] = [{"token": []}]
    return result


def _tag(service: Service) -> dict[str, Any]:
    audio = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": _object(
            {"file": {"type": "string", "format": "binary", "description": "the audio file"}},
            required=["file"],
        )
    }
    limits = service.limits
    return {
        "operationId": "tag",
        "summary": "Tags a file",
        "description": "The file is the body, or the field `file` of a multipart body: any format "
        f"and rate, up to {limits.megabytes:g} MB and {limits.minutes:g} minutes. It is deleted "
        "once it is answered, or its sender has gone.",
        "parameters": _parameters(service),
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": audio, "multipart/form-data": form},
        },
        "responses": {
            "200": _answer("What is heard, and when.", "Tagged"),
            **_errors(400, 401, 403, 413, 415, 422, 429),
        },
    }


def _parameters(service: Service) -> list[dict[str, Any]]:
    settings, labels = service.settings, service.tagger.labels
    common, _ = thresholds_of(settings, labels)
    own = {"type": "object", "additionalProperties": _THRESHOLD}
    found = [
        _query("name", _TEXT, "What the file is called, for the answer."),
        _query(
            "threshold",
            _THRESHOLD | {"default": common},
            "An event has a score of at least this somewhere. Given here it is that of all "
            "classes, else that of those without one of their own (see /api/v1/labels).",
        ),
        {
            "name": "thresholds",
            "in": "query",
            "description": 'Of some classes, in JSON: {"' + labels[0] + '": 0.4}.',
            "content": {"application/json": {"schema": own}},
        },
        _query(
            "low_threshold",
            _THRESHOLD,
            "An event reaches as far as scores are at least this: hysteresis. By default the "
            "threshold.",
        ),
        _query(
            "median_filter",
            {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_MEDIAN_FILTER,
                "default": settings.median_filter,
            },
            "Frames of 0.32 s over which scores are first median-filtered: an odd number.",
        ),
        _query(
            "top_k",
            {"type": "integer", "minimum": 1, "maximum": len(labels)},
            "Tags of the whole file to tell.",
        ),
        _query(
            "frames",
            {"type": "boolean", "default": False},
            "Tell all scores over time, too: a row of all classes every 0.32 s.",
        ),
    ]
    if service.segmentation is not None:
        seconds = service.segmentation.seconds
        limits = {"type": "number", "minimum": seconds / HOPS, "maximum": seconds}
        default = {"default": service.segmentation.hop_seconds}
        text = "From one segment's start to the next, in seconds: shorter takes longer."
        found.insert(-2, _query("hop_seconds", limits | default, text))
    return found


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _labels() -> dict[str, Any]:
    return {
        "operationId": "labels",
        "summary": "The classes, and how they are tagged by default",
        "responses": {
            "200": _answer("The model's classes in their order.", "Labels"),
            **_errors(400, 401, 403),
        },
    }


def _health() -> dict[str, Any]:
    return {
        "operationId": "healthz",
        "summary": "Whether the server is there",
        "responses": {"200": _answer("It is.", "Health"), **_errors(400)},
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _answer(_ERRORS[status], "Error") for status in statuses}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _schemas() -> dict[str, Any]:
    seconds = {"type": "number", "minimum": 0, "description": "seconds from the start"}
    event = {"onset": seconds, "offset": seconds, "label": _TEXT, "score": _PROBABILITY}
    tag = {
        "label": _TEXT,
        "score": _PROBABILITY | {"description": "of the whole file"},
        "peak": _PROBABILITY | {"description": "the highest over time"},
        "threshold": _THRESHOLD,
    }
    used = {
        "threshold": _THRESHOLD | {"description": "of classes without one of their own"},
        "thresholds": {
            "type": "object",
            "additionalProperties": _THRESHOLD,
            "description": "of classes with one of their own",
        },
        "low_threshold": {"type": ["number", "null"]},
        "median_filter": {"type": "integer"},
        "segment_seconds": {"type": ["number", "null"], "description": "null: the file whole"},
        "hop_seconds": {"type": ["number", "null"]},
    }
    frames = {
        "seconds": {"type": "number", "description": "from one row's time to the next"},
        "labels": _list(_TEXT),
        "scores": _list(_list(_PROBABILITY)),
    }
    tagged = {
        "name": _TEXT,
        "model": _TEXT,
        "seconds": {"type": "number", "description": "the file's length"},
        "tags": _list(_object(tag)) | {"description": "the highest score first"},
        "events": _list(_object(event)) | {"description": "by onset"},
        "settings": _object(used),
    }
    labels = {
        "model": _TEXT,
        "labels": _list(_object({"label": _TEXT, "threshold": _THRESHOLD})),
        "settings": _object(used),
    }
    health = {
        "status": {"const": "ok"},
        "version": _TEXT,
        "model": _TEXT,
        "classes": {"type": "integer"},
        "waiting": {"type": "integer", "description": "files, the one that is tagged among them"},
    }
    error = {"error": _TEXT | {"description": "what is wrong, in words"}, "kind": _TEXT}
    everything = _object(tagged)
    everything["properties"]["frames"] = _object(frames)  # where they were asked for
    return {
        "Tagged": everything,
        "Labels": _object(labels),
        "Health": _object(health),
        "Error": _object(error),
    }
