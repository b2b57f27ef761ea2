"""Pages and their parts: rendered templates and static files, under a policy that keeps to them."""

import pathlib
import re
import secrets
from typing import Any

import jinja2
import markupsafe
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_FOLDER = pathlib.Path(__file__).parent
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def policy(nonce: str = "") -> str:
    """Pages may load from and send to themselves only. nonce: of the style elements they make."""
    styles = f"'self' 'nonce-{nonce}'" if nonce else "'self'"
    return (
        f"default-src 'none'; script-src 'self'; style-src {styles}; connect-src 'self'; "
        "media-src blob:; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _code(text: str) -> markupsafe.Markup:
    """What stands between backticks, as in the document for programs, is code on its page."""
    return markupsafe.Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text))))


class Pages:
    """Renders templates, and hands out what lies in `static`."""

    def __init__(self) -> None:
        self.headers = {
            "Content-Security-Policy": policy(),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["code"] = _code
        folder = _FOLDER / "static"
        found = (path for path in folder.rglob("*") if path.suffix in _KINDS)
        self._static = {path.relative_to(folder).as_posix(): path for path in found}

    @property
    def routes(self) -> list[Route]:
        return [Route("/static/{name:path}", self._file)]

    def render(self, template: str, **values: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = self._templates.get_template(template).render(nonce=nonce, **values)
        headers = self.headers | {"Content-Security-Policy": policy(nonce)}
        return Response(html, media_type="text/html", headers=headers)

    async def _file(self, request: Request) -> Response:
        path = self._static.get(request.path_params["name"])
        if path is None:
            return Response("not found", 404, self.headers)
        kind = f"{_KINDS[path.suffix]}; charset=utf-8"
        return FileResponse(path, headers=self.headers | {"Content-Type": kind})
