"""Makes the web application of `psl_jax.commands.serve`: the page, its requests, and the API."""

import pathlib
import secrets
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import psl_jax
from psl_jax.audio.decoding import AUDIO_SUFFIXES
from psl_jax.data.decision_table import OTHERS, OTHERS_DECISIONS, DecisionTable
from psl_jax.networks.class_lists import clean_name
from psl_jax.runtime.errors import UserError
from psl_jax.web import api, forms
from psl_jax.web.access import Access
from psl_jax.web.service import CancelledError, Job, RefusedError, Service, read_chunks
from psl_jax.web.uploads import Uploads, drain


def make_base(access: Access) -> FastAPI:
    """Makes an application that has what all pages need, and no page yet."""
    app = FastAPI(
        title="psl_jax",
        version=psl_jax.__version__,
        description="Tags with times for audio files.",
        servers=[{"url": "/"}],
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=access.host_names),
            Middleware(
                CORSMiddleware,
                allow_origins=access.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            ),
        ],
    )
    _add_error_handlers(app)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def make_application(
    service: Service, access: Access, table: DecisionTable | None = None
) -> FastAPI:
    """Makes the web application; table: stores the corrections of tags."""
    uploads, app = Uploads(service), make_base(access)
    app.include_router(api.make_routes(service, uploads, access))
    app.include_router(_make_page_routes(service, uploads, access, table))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _render_front_page(service, access, table)

    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answers errors as {"error": in words, "kind": ...}."""

    @app.exception_handler(RefusedError)
    async def answer_refusal(request: Request, error: RefusedError) -> Response:
        # A wrong setting is answered before the file is sent, or after all of it.
        if error.status not in (401, 403) and error.kind != "setting":
            await drain(request)
        headers = {429: {"Retry-After": "10"}, 401: {"WWW-Authenticate": "Bearer"}}
        content = {"error": str(error), "kind": error.kind}
        return JSONResponse(content, error.status, headers.get(error.status))

    @app.exception_handler(RequestValidationError)
    async def answer_wrong_setting(request: Request, error: RequestValidationError) -> Response:
        return await answer_refusal(request, forms.describe_invalid(error.errors()))

    @app.exception_handler(OSError)
    @app.exception_handler(UserError)
    async def answer_unusable_file(request: Request, error: Exception) -> Response:
        message = f"The server cannot read or write a file: {error}"
        return await answer_refusal(request, RefusedError(500, message, "disk"))

    @app.exception_handler(HTTPException)
    async def answer_wrong_address(request: Request, error: HTTPException) -> Response:
        words = {
            404: f"there is nothing at {request.url.path}",
            405: "this method is not known here",
        }
        content = {"error": words.get(error.status_code, error.detail), "kind": "address"}
        return JSONResponse(content, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(CancelledError)
    async def answer_nobody(request: Request, error: Exception) -> Response:
        return Response(status_code=400)


def store_decision(table: DecisionTable, **fields: Any) -> None:
    """Stores a decision. Raises RefusedError where that is not possible."""
    fields["label"] = clean_name(fields["label"])
    if not round(fields["onset"], 3) < round(fields["offset"], 3):  # as the table has them
        raise RefusedError(422, "offset: expected more than the onset", "setting")
    if not fields["label"] or len(fields["filename"].splitlines()) > 1:
        raise RefusedError(422, "filename and label: expected a name in one line", "setting")
    if fields["label"] == OTHERS and fields["decision"] not in OTHERS_DECISIONS:
        raise RefusedError(422, f"decision: on {OTHERS}, all other classes, expected no", "setting")
    try:
        table.append(**fields)
    except OSError as error:
        raise RefusedError(
            500, f"The decision is not stored: {table.path} cannot be written ({error}).", "disk"
        ) from error


def _make_page_routes(
    service: Service, uploads: Uploads, access: Access, table: DecisionTable | None
) -> APIRouter:
    """Makes the routes of the page's requests."""
    router = APIRouter(
        prefix="/page", include_in_schema=False, dependencies=access.checks(api=False)
    )

    @router.post("/tag")
    async def tag(request: Request) -> Response:
        def work(job: Job, upload: forms.PageUpload) -> Response:
            parts = service.analyse(job)
            return StreamingResponse(parts, media_type="application/octet-stream")

        return await uploads.answer(request, forms.PageUpload, work)

    @router.post("/wav")
    async def wav(request: Request) -> Response:
        def work(job: Job, upload: forms.PageUpload) -> Response:
            return StreamingResponse(read_chunks(service.decode(job)), media_type="audio/wav")

        return await uploads.answer(request, forms.PageUpload, work)

    if table is not None:

        @router.post("/decide")
        def decide(form: Annotated[forms.DecisionForm, Query()]) -> Response:
            store_decision(table, **form.model_dump(), chosen="page")
            return JSONResponse({})

    @router.get("/progress")
    async def progress(ticket: str = "") -> Response:
        return JSONResponse(uploads.progress(ticket))

    return router


def _render_front_page(service: Service, access: Access, table: DecisionTable | None) -> Response:
    page_settings = {
        "corrections": "" if table is None else str(table.path),
        "megabytes": service.limits.megabytes,
        "minutes": service.limits.minutes,
        "suffixes": sorted(AUDIO_SUFFIXES),
        "labels": list(service.tagger.labels),
        "settings": api.make_default_settings(service).model_dump(),
        "tuned": service.settings.threshold == service.tagger.thresholds,
    }
    return render(
        "page.html.jinja",
        name=service.tagger.info.name,
        classes=len(service.tagger.labels),
        limits=service.limits,
        local=access.local,
        about=page_settings,
    )


_FOLDER = pathlib.Path(__file__).parent
STATIC = _FOLDER / "static"


def make_policy(nonce: str = "") -> str:
    """Makes the Content-Security-Policy. nonce: that of the style elements that a page makes."""
    styles = f"'self' 'nonce-{nonce}'" if nonce else "'self'"
    return (
        f"default-src 'none'; script-src 'self'; style-src {styles}; connect-src 'self'; "
        "media-src blob:; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


_HEADERS = {
    "Content-Security-Policy": make_policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class SafeHeaders:
    """Middleware that adds headers to every answer that lacks them."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Response:
    """Renders a page with a new nonce."""
    nonce = secrets.token_urlsafe(16)
    html = _templates.get_template(template).render(nonce=nonce, **values)
    return HTMLResponse(html, headers={"Content-Security-Policy": make_policy(nonce)})
