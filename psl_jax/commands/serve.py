"""Serves a web page on this machine that tags files and recordings, over time.

    psl-jax serve runs/psl2s            # then open http://127.0.0.1:8000

Audio stays on this machine. The page loads nothing from elsewhere, and only this machine can open
it, unless --host says otherwise. Programs use /api/v1/tag (docs/SERVE.md). The page
needs more packages: pip install -e '.[serve]' in your clone of the repository.
"""

import argparse
import contextlib
import errno
import getpass
import ipaddress
import os
import re
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Any

from psl_jax.data.decision_table import DecisionTable
from psl_jax.runtime import cli_entry, distributed, interrupts
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.tagging import tagger, tagging_cli

TOKEN_VARIABLE = "PSL_JAX_TOKEN"
TABLE = "corrections.csv"  # of decisions, in the working directory


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("serve", __doc__ or "")
    tagging_cli.add_settings(parser)
    group = add_server_settings(parser)
    group.add_argument(
        "--max_megabytes",
        type=cli_entry.make_number_reader("max_megabytes", float, above=0),
        default=200,
        metavar="MB",
        help="largest file that is accepted, in megabytes (default: 200)",
    )
    group.add_argument(
        "--max_minutes",
        type=cli_entry.make_number_reader("max_minutes", float, above=0),
        default=60,
        metavar="MIN",
        help="longest audio that is accepted, in minutes (default: 60)",
    )
    group.add_argument(
        "--allow_origin",
        action="append",
        default=[],
        metavar="URL",
        help="address of a web site whose pages may call /api/v1 (CORS), such as "
        "https://example.org; may be given several times (default: none)",
    )
    group.add_argument(
        "--corrections",
        metavar="FILE",
        help="CSV for corrections made on the page, a table as of psl-jax review (default: "
        f"{TABLE}; none if --host opens the page to others)",
    )
    return parser.parse_intermixed_args(arguments[1:])


def add_server_settings(parser: argparse.ArgumentParser) -> Any:
    """Adds the settings of any server; returns their group."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only)",
    )
    group.add_argument(
        "--port",
        type=cli_entry.make_number_reader("port", int, least=0, most=65535),
        default=8000,
        help="port to listen on; 0: any free one (default: 8000)",
    )
    group.add_argument(
        "--token",
        type=_read_token,
        default=os.environ.get(TOKEN_VARIABLE, ""),
        help="secret that each request must carry, as Authorization: Bearer TOKEN; the address "
        f"printed at the start holds it for the page (default: the variable {TOKEN_VARIABLE}, "
        "safer because other users cannot see it; else none)",
    )
    group.add_argument(
        "--who",
        default=_find_user_name(),
        metavar="NAME",
        help="your name, written beside each decision (default: your login name)",
    )
    return group


def _read_token(text: str) -> str:
    """The token, without the line end of a secret's file. Raises UserError for other letters."""
    if not text.isascii():
        raise UserError("--token holds letters that no header can carry: give ASCII alone")
    if text.isspace():
        raise UserError("--token is white space alone: is its file empty? Expected a secret")
    return text.strip()


def _find_user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container
        return "somebody"


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Raises UserError for what no browser would send."""
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s?#]+", origin):
            raise UserError(
                f"allow_origin is {origin!r}, expected a scheme and a name: https://example.org, "
                "without a path"
            )
    return tuple(origins)


def main(arguments: argparse.Namespace) -> int:
    """Serves until interrupted."""
    try:
        from psl_jax.web import access, application, service
    except ImportError as error:
        raise MissingPackageError("the web page", f"{error.name}", "serve") from error
    limits = service.Limits(arguments.max_megabytes, arguments.max_minutes)
    origins = check_origins(arguments.allow_origin)
    with contextlib.closing(listen(arguments.host, arguments.port)) as listener:
        allowed = access.Access(
            is_local(listener), listener.getsockname()[0], arguments.token, origins
        )
        path = arguments.corrections or (TABLE if allowed.local else "")
        table = DecisionTable(path, arguments.who) if path else None
        distributed.configure()
        model = tagger.load(arguments.model)
        event_settings = tagging_cli.make_event_settings(arguments, model)
        segmentation = model.segmentation(arguments.segment_seconds, arguments.hop_seconds)
        served = service.Service(model, segmentation, event_settings, limits)
        served.worker.submit(served.warm_up)
        run_server(application.make_application(served, allowed, table), listener, arguments.token)
    return 0


def run_server(app: Any, listener: socket.socket, token: str) -> None:
    """Says where the page is, and serves until interrupted."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    secret = f"/#token={urllib.parse.quote(token)}" if token else ""
    print(f"open http://{shown}:{port}{secret} in a browser; Ctrl-C stops", flush=True)
    if not is_local(listener) and not secret:
        print("whoever reaches this address can use it: --token sets a password", flush=True)
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    with contextlib.suppress(KeyboardInterrupt, interrupts.Preempted):
        uvicorn.Server(config).run(sockets=[listener])


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def listen(host: str, port: int) -> socket.socket:
    """Opens a socket at an address. Raises UserError where that is not possible."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        takes_ipv4 = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # at ::, too
        return socket.create_server(address, family=family, dualstack_ipv6=takes_ipv4)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use, perhaps by another psl-jax serve or review that "
                "still runs. End that, or choose another --port"
            ) from error
        raise UserError(
            f"cannot listen on {host}, port {port}: {error}. Choose others with --host and --port"
        ) from error
