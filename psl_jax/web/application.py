"""The web application behind `psl_jax.serve`: one page, what it asks for, and the API."""

import dataclasses
import secrets
from collections.abc import Awaitable, Callable

import anyio
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.web import parameters
from psl_jax.web.api import Api, usual
from psl_jax.web.pages import Pages
from psl_jax.web.service import Job, RefusedError, Service, chunks
from psl_jax.web.uploads import Uploads, received_samples, refused

Endpoint = Callable[[Request], Awaitable[Response]]

_API = "/api/"
_FOR_ALL = ("/api/v1/docs", "/api/v1/openapi.json")


@dataclasses.dataclass(frozen=True)
class Access:
    """Who may use the service.

    Attributes:
      local: answer only to the names of this machine, `host` among them.
      token: what requests must bring along, if any.
      origins: web pages from elsewhere that may use the API, such as https://example.org.
    """

    local: bool = True
    host: str = "127.0.0.1"
    token: str = ""
    origins: tuple[str, ...] = ()


def application(service: Service, access: Access = Access()) -> Starlette:
    """The web application."""
    pages = Pages()
    uploads = Uploads(service, pages.headers)
    api = Api(service, uploads, pages, bool(access.token))
    routes = [*_page_routes(service, uploads, pages, access), *api.routes, *pages.routes]

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {
            404: f"there is nothing at {request.url.path}",
            405: "this method is not known here",
        }
        told = {"error": words.get(error.status_code, error.detail), "kind": "address"}
        headers = pages.headers | dict(error.headers or {})
        return JSONResponse(told, error.status_code, headers)

    # A page elsewhere whose name is made to point here must not reach the service.
    own = f"[{access.host}]" if ":" in access.host else access.host
    hosts = ["localhost", "127.0.0.1", "[::1]", own] if access.local else ["*"]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        Middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        ),
        Middleware(_Guard, access=access, headers=pages.headers),
    ]
    return Starlette(
        routes=routes, middleware=middleware, exception_handlers={HTTPException: failed}
    )


class _Guard:
    """Refuses what comes from pages elsewhere, or without the token."""

    def __init__(self, app: ASGIApp, access: Access, headers: dict[str, str]):
        self._app, self._access, self._headers = app, access, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        if scope["type"] == "http":
            try:
                self._check(Request(scope))
            except RefusedError as error:
                answer = refused(error, self._headers)
        await answer(scope, receive, send)

    def _check(self, request: Request) -> None:
        path = request.url.path
        if request.method == "POST":
            self._refuse_foreign(request, api=path.startswith(_API))
        wanted = self._access.token
        private = path.startswith((_API, "/page/")) and path not in _FOR_ALL
        if not wanted or not private:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secrets.compare_digest(given.encode(), wanted.encode()):
            words = "wants another token than that" if given else "wants a token"
            raise RefusedError(
                401, f"This server {words}: Authorization: Bearer TOKEN, as --token says.", "token"
            )

    def _refuse_foreign(self, request: Request, api: bool) -> None:
        """Raises RefusedError where a page from elsewhere sends: browsers say so."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if api and origin in self._access.origins:
            return
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if site not in (None, "same-origin", "none") or origin not in (None, own):
            more = " or pages that --allow_origin names" if api else ""
            raise RefusedError(403, f"Only the page itself{more} may send files here.", "foreign")


def _page_routes(service: Service, uploads: Uploads, pages: Pages, access: Access) -> list[Route]:
    headers = pages.headers

    async def tag(request: Request) -> Response:
        try:
            cut = parameters.segmentation(request.query_params, service)
        except RefusedError as error:
            return refused(error, headers)

        def work(path: str, name: str, fields: dict[str, str], job: Job) -> Response:
            parts = service.analyse(path, name, job, cut)
            return StreamingResponse(parts, 200, headers, "application/octet-stream")

        return await uploads.answer(request, work)

    async def wav(request: Request) -> Response:
        def work(path: str, name: str, fields: dict[str, str], job: Job) -> Response:
            return StreamingResponse(
                chunks(service.decode(path, name, job)), 200, headers, "audio/wav"
            )

        return await uploads.answer(request, work)

    async def clips(request: Request) -> Response:
        def work(path: str, name: str, fields: dict[str, str], job: Job) -> Response:
            wanted = parameters.cuts(fields.get("events", ""), service)
            archive = service.cut(path, name, job, wanted)
            return StreamingResponse(chunks(archive), 200, headers, "application/zip")

        return await uploads.answer(request, work)

    async def progress(request: Request) -> Response:
        ticket = request.query_params.get("ticket", "")
        return JSONResponse(uploads.progress(ticket), headers=headers)

    return [
        Route("/", _front_page(service, pages, access)),
        Route("/page/live", _live(service, headers), methods=["POST"]),
        Route("/page/tag", tag, methods=["POST"]),
        Route("/page/wav", wav, methods=["POST"]),
        Route("/page/clips", clips, methods=["POST"]),
        Route("/page/progress", progress),
    ]


def _front_page(service: Service, pages: Pages, access: Access) -> Endpoint:
    async def page(request: Request) -> Response:
        cut = service.segmentation
        about = {
            "megabytes": service.limits.megabytes,
            "minutes": service.limits.minutes,
            "live": service.live_seconds,
            "clips": parameters.MAX_CUTS,
            "hops": [cut.seconds / n for n in (1, 2, 4, 8)] if cut else [],
            "suffixes": sorted(AUDIO_SUFFIXES),
            "labels": list(service.tagger.labels),
            "settings": usual(service),
            "tuned": service.settings.threshold == service.tagger.thresholds,
        }
        return pages.render(
            "page.html.jinja",
            name=service.tagger.info.name,
            classes=len(service.tagger.labels),
            limits=service.limits,
            local=access.local,
            about=about,
        )

    return page


def _live(service: Service, headers: dict[str, str]) -> Endpoint:
    """Scores of what a microphone heard last, of one microphone at a time."""
    listening = anyio.CapacityLimiter(1)

    async def live(request: Request) -> Response:
        try:
            if listening.borrowed_tokens:  # the next one, a moment later, says more
                raise RefusedError(429, "The server listens to another microphone.", "busy")
            samples = await received_samples(request, service.live_seconds)
            scores = await anyio.to_thread.run_sync(service.live, samples, limiter=listening)
        except RefusedError as error:
            return refused(error, headers)
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse({"scores": np.round(scores, 4).astype(float).tolist()}, headers=headers)

    return live
