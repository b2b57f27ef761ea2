"""The interface for programs: /api/v1/tag, /api/v1/labels, /healthz, and their description."""

import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import psl_jax
from psl_jax.audio.segments import Segmentation
from psl_jax.tagging import writing
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.tagged_files import FileTags
from psl_jax.tagging.timeline import FRAME_SECONDS
from psl_jax.web import openapi, parameters
from psl_jax.web.pages import Pages
from psl_jax.web.service import Job, RefusedError, Service
from psl_jax.web.uploads import Uploads, refused


class Api:
    """Answers programs; `routes` are what they ask."""

    def __init__(self, service: Service, uploads: Uploads, pages: Pages, token: bool):
        """token: requests need one, which the document says."""
        self._service, self._uploads, self._pages = service, uploads, pages
        self._document = openapi.document(service, token)

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/api/v1/tag", self._tag, methods=["POST"]),
            Route("/api/v1/labels", self._labels),
            Route("/api/v1/openapi.json", self._openapi),
            Route("/api/v1/docs", self._docs),
            Route("/healthz", self._health),
        ]

    async def _tag(self, request: Request) -> Response:
        service, headers = self._service, self._pages.headers
        try:
            asked = parameters.asked(request.query_params, service)
        except RefusedError as error:
            return refused(error, headers)

        def work(path: str, name: str, fields: dict[str, str], job: Job) -> Response:
            tags = service.tag(path, name, job, asked.settings, asked.segmentation, asked.frames)
            answer = as_json(tags, asked, service)
            if not asked.frames:
                return JSONResponse(answer, headers=headers)
            return StreamingResponse(_with_frames(answer, tags), 200, headers, "application/json")

        return await self._uploads.answer(request, work)

    async def _labels(self, request: Request) -> Response:
        service = self._service
        labels = service.tagger.labels
        thresholds = service.settings.high(len(labels)).astype(float).round(6)
        content = {
            "model": service.tagger.info.name,
            "labels": [
                {"label": label, "threshold": float(threshold)}
                for label, threshold in zip(labels, thresholds, strict=True)
            ],
            "settings": usual(service),
        }
        return JSONResponse(content, headers=self._pages.headers)

    async def _health(self, request: Request) -> Response:
        tagger = self._service.tagger
        content = {
            "status": "ok",
            "version": psl_jax.__version__,
            "model": tagger.info.name,
            "classes": len(tagger.labels),
            "waiting": len(self._uploads),
        }
        return JSONResponse(content, headers=self._pages.headers)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._document, headers=self._pages.headers)

    async def _docs(self, request: Request) -> Response:
        return self._pages.render("api.html.jinja", document=self._document, **_examples(request))


def _examples(request: Request) -> dict[str, str]:
    return {"address": str(request.base_url).rstrip("/")}


def used(
    common: float, own: dict[str, float], settings: EventSettings, cut: Segmentation | None
) -> dict[str, Any]:
    """The settings that an answer rests on; see `parameters.Asked`."""
    return {
        "threshold": common,
        "thresholds": own,
        "low_threshold": settings.low_threshold,
        "median_filter": settings.median_filter,
        "segment_seconds": cut.seconds if cut else None,
        "hop_seconds": cut.hop_seconds if cut else None,
    }


def usual(service: Service) -> dict[str, Any]:
    """Those where a request does not say."""
    common, own = parameters.thresholds_of(service.settings, service.tagger.labels)
    return used(common, own, service.settings, service.segmentation)


def as_json(tags: FileTags, asked: parameters.Asked, service: Service) -> dict[str, Any]:
    """The answer for a file: its tags and events, and the settings they rest on."""
    found = writing.as_json(tags, writing.Best(asked.most))
    own, common = asked.own, asked.common
    told = [tag | {"threshold": own.get(tag["label"], common)} for tag in found["tags"]]
    cut = asked.segmentation or service.segmentation
    return {
        "name": found["file"],
        "model": service.tagger.info.name,
        "seconds": found["seconds"],
        "tags": told,
        "events": found["events"],
        "settings": used(common, own, asked.settings, cut),
    }


def _with_frames(answer: dict[str, Any], tags: FileTags) -> Iterator[str]:
    """JSON of an answer with all scores over time, in parts: those of an hour fill 40 MB."""
    assert tags.rows is not None
    labels = json.dumps(list(tags.labels))
    yield json.dumps(answer)[:-1]
    yield f', "frames": {{"seconds": {FRAME_SECONDS}, "labels": {labels}, "scores": ['
    between = ""
    for block in tags.rows:
        lines = ("[" + ", ".join(f"{x:.4f}" for x in row) + "]" for row in block.tolist())
        yield between + ",\n".join(lines)
        between = ",\n"
    yield "]}}"
