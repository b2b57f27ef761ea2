"""The web application behind `psl_jax.serve`: one page, and what it asks for."""

import base64
import contextlib
import dataclasses
import os
import pathlib
import tempfile
import threading
import wave
from collections.abc import Callable, Iterator
from typing import IO, Any

import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from psl_jax.audio.decoding import DecodeError
from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.audio.waveforms import at_most, blocks_of
from psl_jax.tagging import spectrogram, writing
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.tagged_files import BadFile, FileTags, Input, tag_files
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.timeline import FRAME_SECONDS

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_STATIC = {"serve.css": "text/css", "serve.js": "text/javascript"}
_MEGABYTE = 1_000_000
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

    def warm_up(self) -> None:
        """Compiles before the first file comes: for those of one segment, and of several."""
        cut = self.segmentation
        lengths = (cut.seconds, 2 * cut.seconds + 1) if cut else (5.0, 10.0, 60.0)
        with self._lock:
            for seconds in lengths:
                silence = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
                list(self.tagger.stream([blocks_of(silence, SAMPLE_RATE)], cut))

    def tag(self, path: str, name: str) -> dict[str, Any]:
        """What the page shows of an uploaded file. Raises RefusedError."""
        with self._lock:
            found = next(
                tag_files(
                    self.tagger,
                    [Input(path, name)],
                    self.segmentation,
                    self.settings,
                    max_seconds=self.limits.minutes * 60,
                )
            )
            if isinstance(found, BadFile):
                raise self._refusal(found.error, name)
            decibel, step = spectrogram.spectrogram(blocks_of(path))
        tags = dataclasses.replace(found, input=Input(name, name))
        return answer(tags, spectrogram.as_bytes(decibel), step, self.settings)

    def decode(self, path: str, name: str) -> IO[bytes]:
        """What is tagged of a file as a WAV, which any browser plays. Raises RefusedError."""
        target = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            with wave.open(target, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                for block in at_most(blocks_of(path), self.limits.minutes * 60)():
                    file.writeframes(block.astype("<i2").tobytes())
        except DecodeError as error:
            target.close()
            raise self._refusal(error, name) from error
        target.seek(0)
        return target

    def _refusal(self, error: DecodeError, name: str) -> RefusedError:
        if error.kind == "too long":
            limit = f"Files of up to {self.limits.minutes:g} minutes are tagged here"
            return RefusedError(413, f"{name} is too long. {limit}; {_ELSEWHERE}", error.kind)
        message = f"{name} cannot be tagged: {error.kind} ({error.detail})."
        return RefusedError(415, message, error.kind)


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
        "csv": "".join(writing.render(tags, "csv", 0)),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


# --- Requests ---------------------------------------------------------------------------------


def application(service: Service, local: bool = True) -> Starlette:
    """The web application. local: answer only to the names of this machine."""

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
        def work(path: str, name: str) -> Response:
            return JSONResponse(service.tag(path, name), headers=_HEADERS)

        return await _with_upload(request, service, work)

    async def wav(request: Request) -> Response:
        def work(path: str, name: str) -> Response:
            file = service.decode(path, name)
            return StreamingResponse(_chunks(file), media_type="audio/wav", headers=_HEADERS)

        return await _with_upload(request, service, work)

    routes = [
        Route("/", page),
        Route("/{name}", static),
        Route("/tag", tag, methods=["POST"]),
        Route("/wav", wav, methods=["POST"]),
    ]
    # A page elsewhere whose name is made to point here must not reach the service.
    hosts = ["localhost", "127.0.0.1", "[::1]"] if local else ["*"]
    return Starlette(
        routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    )


async def _with_upload(request: Request, service: Service, work: Callable) -> Response:
    """The response that `work(path, name)` makes of the body, run in a thread; errors in words."""
    name = pathlib.PurePath(request.query_params.get("name", "")).name[:200] or "recording"
    try:
        with _temporary() as path:
            await _receive(request, path, name, service.limits)
            return await run_in_threadpool(work, path, name)
    except RefusedError as error:
        content = {"error": str(error), "kind": error.kind}
        return JSONResponse(content, error.status, headers=_HEADERS)
    except ClientDisconnect:
        return Response(status_code=400)


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
