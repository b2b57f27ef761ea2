"""Renders pages, and adds headers by which pages load from and send to this server only."""

import pathlib
import re
import secrets
from typing import Any

import jinja2
import markupsafe
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def _mark_code(text: str) -> markupsafe.Markup:
    """Marks text between backticks, as in the document for programs, as code."""
    return markupsafe.Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text))))


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters["code"] = _mark_code


def render(template: str, **values: Any) -> Response:
    """Renders a page with a new nonce."""
    nonce = secrets.token_urlsafe(16)
    html = _templates.get_template(template).render(nonce=nonce, **values)
    return HTMLResponse(html, headers={"Content-Security-Policy": make_policy(nonce)})
