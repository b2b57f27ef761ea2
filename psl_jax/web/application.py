"""The web application behind `psl_jax.serve`: one page, and what it asks for."""

import asyncio
import base64
import contextlib
import dataclasses
import os
import pathlib
import tempfile
import threading
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from psl_jax.audio.decoding import DecodeError, form_of
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.audio.waveforms import Blocks, at_most, blocks_of
from psl_jax.tagging import spectrogram, writing
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.tagged_files import BadFile, FileTags, Input, tag_files
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.timeline import FRAME_SECONDS

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_STATIC = {"serve.css": "text/css", "serve.js": "text/javascript"}
_MEGABYTE = 1_000_000
MAX_WAITING = 16  # uploads at a time, the one that is tagged among them
_LOOK_EVERY = 0.2  # seconds: whether somebody still waits
_USUAL_RATE = 2 * 48_000  # samples a second to decode, of all channels
_DRAINED_BYTES = 2_000 * _MEGABYTE  # of a body that is refused; then the connection is cut

# The page may load from and send to itself only.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is accepted of a file."""

    megabytes: float
    minutes: float


class RefusedError(Exception):
    """A request that is answered with `status` and a message for the reader of the page.

    kind: as of DecodeError; the page converts what is "undecodable" here and the browser can play.
    """

    def __init__(self, status: int, message: str, kind: str = ""):
        super().__init__(message)
        self.status, self.kind = status, kind


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


class Service:
    """Tags the files that the page sends, one at a time."""

    def __init__(
        self,
        tagger: Tagger,
        segmentation: Segmentation | None,
        settings: EventSettings,
        limits: Limits,
    ):
        self.tagger, self.segmentation = tagger, segmentation
        self.settings, self.limits = settings, limits
        self._lock = threading.Lock()
        # A thread of its own: those of the server hand out the page meanwhile.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="tag")

    def warm_up(self) -> None:
        """Compiles before the first file comes: for those of one segment, and of several."""
        cut = self.segmentation
        lengths = (cut.seconds, 2 * cut.seconds + 1) if cut else (5.0, 10.0, 60.0)
        with self._lock:
            for seconds in lengths:
                silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
                list(self.tagger.run([blocks_of(silence, SAMPLE_RATE)], cut))

    def tag(self, path: str, name: str, cancelled: threading.Event) -> dict[str, Any]:
        """What the page shows of an uploaded file. Raises RefusedError, or CancelledError."""

        def check(_: object = None) -> None:
            if cancelled.is_set():
                raise CancelledError

        with self._lock:
            check()
            found = next(
                tag_files(
                    self.tagger,
                    [Input(path, name)],
                    self.segmentation,
                    self.settings,
                    heard=check,
                    max_seconds=self._longest(path, name),
                )
            )
            if isinstance(found, BadFile):
                raise self._refusal(found.error, name)
            decibel, step = spectrogram.spectrogram(_checked(blocks_of(path), check))
        tags = dataclasses.replace(found, input=Input(name, name))
        return answer(tags, spectrogram.as_bytes(decibel), step, self.settings)

    def _longest(self, path: str, name: str) -> float:
        """Seconds that are accepted of a file: fewer where each holds much to decode."""
        try:
            rate, channels = form_of(path)
        except DecodeError as error:
            raise self._refusal(error, name) from error
        return self.limits.minutes * 60 * min(1.0, _USUAL_RATE / (rate * channels))

    def decode(self, path: str, name: str, cancelled: threading.Event) -> IO[bytes]:
        """What is tagged of a file as a WAV, which any browser plays. Raises RefusedError."""
        longest = self._longest(path, name)
        target = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            with wave.open(target, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                for block in at_most(blocks_of(path), longest)():
                    if cancelled.is_set():
                        raise CancelledError
                    file.writeframes(block.astype("<i2").tobytes())
        except DecodeError as error:
            target.close()
            raise self._refusal(error, name) from error
        except CancelledError:
            target.close()
            raise
        target.seek(0)
        return target

    def _refusal(self, error: DecodeError, name: str) -> RefusedError:
        if error.kind == "too long":
            limit = (
                f"Files of up to {self.limits.minutes:g} minutes are tagged here (of more than two "
                "channels at 48 kHz, fewer)"
            )
            return RefusedError(413, f"{name} is too long. {limit}; {_ELSEWHERE}", error.kind)
        message = f"{name} cannot be tagged: {error.kind} ({error.detail})."
        return RefusedError(415, message, error.kind)


def _checked(blocks: Blocks, check: Callable[[], None]) -> Blocks:
    def checked() -> Iterator[np.ndarray]:
        for block in blocks():
            check()
            yield block

    return checked


_ELSEWHERE = "for others use python -m psl_jax.tag."


def answer(
    tags: FileTags, mel: np.ndarray, mel_step: float, settings: EventSettings
) -> dict[str, Any]:
    """The JSON of a tagged file: its tags, scores over time, events, and spectrogram.

    Scores are 16-bit and the spectrogram 8-bit numbers in base64, a time step after the other.
    """
    scores = np.rint(tags.heat * 65535).astype("<u2")
    return {
        "name": tags.input.name,
        "seconds": tags.seconds,
        "labels": list(tags.labels),
        "scores": np.round(tags.scores.astype(float), 4).tolist(),
        "peaks": np.round(tags.peaks.astype(float), 4).tolist(),
        "heat": {"step": tags.heat_seconds, "frame": FRAME_SECONDS, "data": _base64(scores)},
        "mel": {"step": mel_step, "bands": mel.shape[1], "data": _base64(mel)},
        "events": [event._asdict() for event in tags.events],
        "threshold": settings.threshold,
        "csv": "".join(writing.render(tags, "csv", writing.Best())),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


# --- Requests ---------------------------------------------------------------------------------


def application(service: Service, local: bool = True, host: str = "127.0.0.1") -> Starlette:
    """The web application. local: answer only to the names of this machine, `host` among them."""
    waiting: set[object] = set()

    async def page(request: Request) -> Response:
        template = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True
        ).get_template("serve.html.jinja")
        html = template.render(
            name=service.tagger.info.name,
            classes=len(service.tagger.labels),
            limits=service.limits,
            local=local,
        )
        return Response(html, media_type="text/html", headers=_HEADERS)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            return Response("not found", 404)
        headers = _HEADERS | {"Content-Type": f"{_STATIC[name]}; charset=utf-8"}
        return FileResponse(_TEMPLATES / name, headers=headers)

    async def tag(request: Request) -> Response:
        def work(path: str, name: str, cancelled: threading.Event) -> Response:
            return JSONResponse(service.tag(path, name, cancelled), headers=_HEADERS)

        return await _with_upload(request, service, work, waiting)

    async def wav(request: Request) -> Response:
        def work(path: str, name: str, cancelled: threading.Event) -> Response:
            file = service.decode(path, name, cancelled)
            return StreamingResponse(_chunks(file), media_type="audio/wav", headers=_HEADERS)

        return await _with_upload(request, service, work, waiting)

    routes = [
        Route("/", page),
        Route("/{name}", static),
        Route("/tag", tag, methods=["POST"]),
        Route("/wav", wav, methods=["POST"]),
    ]
    # A page elsewhere whose name is made to point here must not reach the service.
    own = f"[{host}]" if ":" in host else host
    hosts = ["localhost", "127.0.0.1", "[::1]", own] if local else ["*"]
    return Starlette(
        routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    )


async def _with_upload(
    request: Request, service: Service, work: Callable, waiting: set[object]
) -> Response:
    """The response that `work(path, name, cancelled)` makes of the body; errors in words.

    waiting: the uploads that are being received, wait or are worked on.
    """
    name = pathlib.PurePath(request.query_params.get("name", "")).name[:200] or "recording"
    ticket = object()
    try:
        _refuse_foreign(request)
        if len(waiting) >= MAX_WAITING:
            raise RefusedError(
                429, f"{len(waiting)} files are waiting already. Try again in a while.", "busy"
            )
        waiting.add(ticket)
        with _temporary() as path:
            await _receive(request, path, name, service.limits)
            return await _worked(request, service, lambda gone: work(path, name, gone))
    except RefusedError as error:
        content = {"error": str(error), "kind": error.kind}
        more = {"Retry-After": "10"} if error.status == 429 else {}
        return JSONResponse(content, error.status, headers=_HEADERS | more)
    except (ClientDisconnect, CancelledError):
        return Response(status_code=400)
    finally:
        waiting.discard(ticket)


def _refuse_foreign(request: Request) -> None:
    """Raises RefusedError where a page from elsewhere sends: browsers say so."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if site not in (None, "same-origin", "none") or origin not in (None, own):
        raise RefusedError(403, "Only the page itself may send files here.", "foreign")


async def _worked(
    request: Request, service: Service, work: Callable[[threading.Event], Response]
) -> Response:
    """What the worker makes of an upload. Raises CancelledError where its sender has gone."""
    gone = threading.Event()
    job = service.worker.submit(work, gone)
    task = asyncio.wrap_future(job)
    while True:
        done, _ = await asyncio.wait({task}, timeout=_LOOK_EVERY)
        if done:
            return task.result()
        if await request.is_disconnected():
            gone.set()
            if not job.cancel():  # it has begun, and its file is in use until it has ended
                await asyncio.wait({task})
                task.exception()
            raise CancelledError


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1 << 20):
            yield chunk


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    handle, path = tempfile.mkstemp(prefix="psl_jax-")
    os.close(handle)
    try:
        yield path
    finally:
        os.unlink(path)


async def _receive(request: Request, path: str, name: str, limits: Limits) -> None:
    """Writes the body to a file. Raises RefusedError where it is too large.

    What is refused is read to its end all the same: else the browser would tell of a lost
    connection and not show the message.
    """
    limit, received = limits.megabytes * _MEGABYTE, 0
    announced = request.headers.get("content-length", "")
    keep = not (announced.isdigit() and int(announced) > limit)
    with open(path, "wb") as file:
        async for chunk in request.stream():
            received += len(chunk)
            keep = keep and received <= limit
            if keep:
                file.write(chunk)
            elif received > limit + _DRAINED_BYTES:
                break
    if not keep:
        raise RefusedError(
            413,
            f"{name} is too large. Files of up to {limits.megabytes:g} MB are tagged here; "
            f"{_ELSEWHERE}",
            "too large",
        )
    if not received:
        raise RefusedError(415, f"{name} is empty.", "empty")
