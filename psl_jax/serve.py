"""A web page on this machine: drop a file or record, see its tags over time, play along.

    python -m psl_jax.serve runs/psl2s            # then open http://127.0.0.1:8000

Nothing leaves the machine: the page loads nothing from elsewhere, and only this machine can open it
unless --host says otherwise. Needs: pip install 'psl_jax[serve]'.
"""

import argparse
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Sequence

from psl_jax.runtime import entry
from psl_jax.runtime.errors import UserError
from psl_jax.tagging import options


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = options.parser("serve", __doc__ or "")
    options.add_settings(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address (default: this machine only)")
    group.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    group.add_argument(
        "--max_megabytes", type=float, default=200, metavar="MB", help="of a file (default: 200)"
    )
    group.add_argument(
        "--max_minutes", type=float, default=60, metavar="MIN", help="of audio (default: 60)"
    )
    return options.parse(parser, arguments)


def main(arguments: argparse.Namespace) -> int:
    """Serves until interrupted."""
    try:
        import uvicorn

        from psl_jax.web import application
    except ImportError as error:
        raise UserError("the web page needs more packages: pip install 'psl_jax[serve]'") from error
    from psl_jax.runtime import interrupts, joining
    from psl_jax.tagging import tagger

    settings = options.event_settings(arguments)
    if arguments.max_megabytes <= 0 or arguments.max_minutes <= 0:
        raise UserError("max_megabytes and max_minutes must be above 0")
    limits = application.Limits(arguments.max_megabytes, arguments.max_minutes)
    with contextlib.closing(listen(arguments.host, arguments.port)) as listener:
        joining.configure()
        model = tagger.load(arguments.model)
        segmentation = options.segmentation(arguments, model)
        service = application.Service(model, segmentation, settings, limits)
        threading.Thread(target=service.warm_up, daemon=True).start()
        host, port = listener.getsockname()[:2]
        local = ipaddress.ip_address(host).is_loopback
        shown = f"[{host}]" if ":" in host else host
        print(f"open http://{shown}:{port} in a browser; Ctrl-C stops", flush=True)
        if not local:
            print("whoever reaches this address can use it: there is no password", flush=True)
        app = application.application(service, local, host)
        config = uvicorn.Config(app, log_level="warning", lifespan="off")
        with contextlib.suppress(KeyboardInterrupt, interrupts.Preempted):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises UserError where that is not possible."""
    with contextlib.ExitStack() as undo:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"cannot listen on {host}, port {port}: {error}. Choose others with --host and "
                "--port"
            ) from error
        undo.pop_all()
    return listener


if __name__ == "__main__":
    entry.run(main, parse)
