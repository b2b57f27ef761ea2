"""Who may use the service: holders of the token, and the page itself or pages that are named."""

import dataclasses
import secrets
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from psl_jax.web.service import RefusedError

_bearer = HTTPBearer(scheme_name="token", auto_error=False)


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

    @property
    def host_names(self) -> list[str]:
        """The names in a Host header that are answered.

        A page elsewhere whose name is made to point here must not reach the service.
        """
        own_name = f"[{self.host}]" if ":" in self.host else self.host
        return ["localhost", "127.0.0.1", "[::1]", own_name] if self.local else ["*"]

    def checks(self, *, api: bool) -> list[Any]:
        """Dependencies that raise RefusedError for requests of others.

        api: for the interface for programs, which the pages in `origins` may use as well.
        """
        allowed_origins = self.origins if api else ()
        allowed_pages = "the page itself or pages that --allow_origin names" if api else "the page"

        def refuse_foreign_page(request: Request) -> None:
            """Browsers say which page sends."""
            if request.method != "POST" or request.headers.get("origin") in allowed_origins:
                return
            own_origin = f"{request.url.scheme}://{request.headers.get('host', '')}"
            if request.headers.get("sec-fetch-site") not in (None, "same-origin", "none") or (
                request.headers.get("origin") not in (None, own_origin)
            ):
                raise RefusedError(403, f"Only {allowed_pages} may send files here.", "foreign")

        def check_token(
            given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        ) -> None:
            sent = given.credentials if given else ""
            if not secrets.compare_digest(sent.encode(), self.token.encode()):
                problem = "wants another token than that" if sent else "wants a token"
                raise RefusedError(
                    401,
                    f"This server {problem}: Authorization: Bearer TOKEN, as --token says.",
                    "token",
                )

        return [Depends(refuse_foreign_page), *([Depends(check_token)] if self.token else [])]
