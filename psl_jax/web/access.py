"""Decides who may use the service: holders of the token, the page itself, and named web pages."""

import dataclasses
import secrets
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from psl_jax.web.service import RefusedError

_bearer = HTTPBearer(scheme_name="token", auto_error=False)


@dataclasses.dataclass(frozen=True)
class Access:
    """Rules for who may use the service."""

    local: bool = True  # it answers only to the names of this machine, `host` among them
    host: str = "127.0.0.1"
    token: str = ""  # that requests must carry; "": none
    origins: tuple[str, ...] = ()  # other pages that may use the API, such as https://example.org

    @property
    def host_names(self) -> list[str]:
        """Names in a Host header that the service answers.

        Another web page whose host name points to this machine must not reach the service.
        """
        own_name = f"[{self.host}]" if ":" in self.host else self.host
        return ["localhost", "127.0.0.1", "[::1]", own_name] if self.local else ["*"]

    def checks(self, *, api: bool) -> list[Any]:
        """Returns dependencies that raise RefusedError for requests of others.

        api: makes those of the interface for programs, which the pages in `origins` may use, too.
        """
        allowed_origins = self.origins if api else ()
        allowed_pages = "the page itself or pages that --allow_origin names" if api else "the page"

        def refuse_foreign_page(request: Request) -> None:
            """Refuses requests of other web pages, which browsers name in a header."""
            site, origin = map(request.headers.get, ("sec-fetch-site", "origin"))
            own_origin = f"{request.url.scheme}://{request.headers.get('host', '')}"
            # To a proxy with TLS, which has another origin, browsers tell the site.
            is_own = site in ("same-origin", "none") if site else origin in (None, own_origin)
            if request.method == "POST" and not is_own and origin not in allowed_origins:
                raise RefusedError(403, f"Only {allowed_pages} may send files here.", "foreign")

        def check_token(
            credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        ) -> None:
            token = credentials.credentials if credentials else ""
            if not secrets.compare_digest(token.encode(), self.token.encode()):
                problem = "wants another token than that" if token else "wants a token"
                raise RefusedError(
                    401,
                    f"This server {problem}: Authorization: Bearer TOKEN, as --token says. The "
                    "address that it printed at its start holds the token for the page.",
                    "token",
                )

        return [Depends(refuse_foreign_page), *([Depends(check_token)] if self.token else [])]
