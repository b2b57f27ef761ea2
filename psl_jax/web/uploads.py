"""Uploads: received into a file, worked on in turn, and given up when their sender has gone."""

import asyncio
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import anyio
import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from psl_jax.audio.decoding import MIN_SAMPLES
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.tagging_cli import read_thresholds
from psl_jax.web.forms import Form, read_form
from psl_jax.web.service import ELSEWHERE, CancelledError, Job, Limits, RefusedError, Service

MAX_WAITING = 16  # uploads at a time, the one that is worked on among them
_LOOK_EVERY = 0.2  # seconds: whether somebody still waits
_MEGABYTE = 1_000_000
_DRAINED_BYTES = 2_000 * _MEGABYTE  # of a body that is refused; then the connection is cut
_FORM_BYTES = _MEGABYTE  # of a multipart body beside its file


class Uploads:
    """The uploads that are being received, wait or are worked on."""

    def __init__(self, service: Service):
        self._service = service
        self._waiting: dict[object, Job] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def progress(self, ticket: str) -> dict[str, Any]:
        """How far the upload is that came with `ticket`: "waiting", "tagging" or "unknown"."""
        tickets = list(self._waiting)
        if ticket not in self._waiting:
            return {"state": "unknown", "ahead": 0, "seconds": 0.0}
        job = self._waiting[ticket]
        state = "tagging" if job.begun else "waiting"
        return {"state": state, "ahead": tickets.index(ticket), "seconds": round(job.seconds, 2)}

    async def answer(
        self,
        request: Request,
        form: type[Form],
        work: Callable[[str, str, Form, Job], Response],
    ) -> Response:
        """The response that `work` makes of a request's file. Raises RefusedError.

        work(path, name, settings, job), where settings are those of the query and of the form,
        runs in the service's worker.
        """
        ticket: object = request.query_params.get("ticket") or object()
        if ticket in self._waiting:
            raise RefusedError(422, "This ticket belongs to another upload.", "setting")
        if len(self._waiting) >= MAX_WAITING:
            await _drain(request)
            raise RefusedError(
                429,
                f"{len(self._waiting)} files are waiting already. Try again in a while.",
                "busy",
            )
        job = self._waiting[ticket] = Job()
        try:
            with _temporary() as path:
                file_name, fields = await _receive(request, path, self._service.limits)
                settings = read_form(form, [*request.query_params.multi_items(), *fields])
                name = _base_name(settings.name) or _base_name(file_name) or "recording"
                if not os.path.getsize(path):
                    raise RefusedError(415, f"{name} is empty.", "empty")
                return await _worked(
                    request, self._service, job, lambda: work(path, name, settings, job)
                )
        finally:
            del self._waiting[ticket]


async def _worked(
    request: Request, service: Service, job: Job, work: Callable[[], Response]
) -> Response:
    """What the worker makes of an upload. Raises CancelledError where its sender has gone."""
    future = service.worker.submit(work)
    task = asyncio.wrap_future(future)
    while True:
        done, _ = await asyncio.wait({task}, timeout=_LOOK_EVERY)
        if done:
            return task.result()
        if await request.is_disconnected():
            job.gone.set()
            if not future.cancel():  # it has begun, and its file is in use until it has ended
                await asyncio.wait({task})
                task.exception()
            raise CancelledError


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    handle, path = tempfile.mkstemp(prefix="psl_jax-")
    os.close(handle)
    try:
        yield path
    finally:
        os.unlink(path)


# --- Receiving --------------------------------------------------------------------------------


async def _receive(
    request: Request, path: str, limits: Limits
) -> tuple[str, list[tuple[str, str]]]:
    """Writes the file of a request, its body or a part of it, to `path`.

    Returns the name and the other fields that a multipart body has. Raises RefusedError.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form_file(request, path, limits)
    if kind in ("application/json", "text/html"):  # curl's own kind of a body is let through
        await _drain(request)
        raise RefusedError(
            415, f"a body of {kind}; expected the audio file itself, or multipart/form-data", "kind"
        )
    with open(path, "wb") as file:
        async for chunk in _bounded(request, limits.megabytes, limits):
            file.write(chunk)
    return "", []


async def received_samples(request: Request, seconds: float) -> np.ndarray:
    """The body as int16 [samples] at 16 kHz. Raises RefusedError where it is none, or longer."""
    body, limit = bytearray(), round(seconds * SAMPLE_RATE) * 2
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            await _drain(request)
            raise RefusedError(413, f"more than {seconds:g} s of sound at once", "too long")
    if len(body) % 2 or len(body) < 2 * MIN_SAMPLES:
        raise RefusedError(422, "expected 16-bit samples at 16 kHz, 0.1 s at least", "form")
    return np.frombuffer(bytes(body), "<i2").astype(np.int16)


async def received_thresholds(request: Request, name: str, service: Service) -> dict[str, float]:
    """{class: threshold} of the table in the body, which `name` is called. Raises RefusedError."""
    with _temporary() as path:
        await _receive(request, path, service.limits)
        try:
            values = await anyio.to_thread.run_sync(
                read_thresholds, path, service.tagger.model_labels
            )
        except UserError as error:
            message = str(error).replace(path, _base_name(name) or "the file")
            raise RefusedError(422, message, "table") from error
    return {label: values[label] for label in service.tagger.labels if label in values}


def _base_name(text: str) -> str:
    """The last part of a path: what a file is called."""
    return pathlib.PurePath(text.replace("\0", "")).name[:200]


async def _form_file(
    request: Request, path: str, limits: Limits
) -> tuple[str, list[tuple[str, str]]]:
    stream = _bounded(request, limits.megabytes + _FORM_BYTES / _MEGABYTE, limits)
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=20).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        await _drain(request)
        raise RefusedError(422, f"the multipart body cannot be read: {error}", "form") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RefusedError(
                422, "the multipart body has no file; expected one in the field 'file'", "form"
            )
        if (file.size or 0) > limits.megabytes * _MEGABYTE:
            raise _too_large(request, limits, file.filename or "")

        def copy() -> None:
            with open(path, "wb") as target:
                shutil.copyfileobj(file.file, target)

        await anyio.to_thread.run_sync(copy)
        fields = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
        return file.filename or "", fields
    finally:
        await form.close()


async def _bounded(
    request: Request, megabytes: float, limits: Limits
) -> AsyncGenerator[bytes, None]:
    """The body. Raises RefusedError where it is too large.

    What is refused is read to its end all the same: else browsers would tell of a lost connection
    and not show the message.
    """
    limit, received = megabytes * _MEGABYTE, 0
    announced = request.headers.get("content-length", "")
    fits = not (announced.isdigit() and int(announced) > limit)
    async for chunk in request.stream():
        received += len(chunk)
        fits = fits and received <= limit
        if fits:
            yield chunk
        elif received > limit + _DRAINED_BYTES:
            break
    if not fits:
        raise _too_large(request, limits)


def _too_large(request: Request, limits: Limits, file_name: str = "") -> RefusedError:
    name = _base_name(request.query_params.get("name", "")) or _base_name(file_name) or "recording"
    return RefusedError(
        413,
        f"{name} is too large. Files of up to {limits.megabytes:g} MB are tagged here; {ELSEWHERE}",
        "too large",
    )


async def _drain(request: Request) -> None:
    """Reads what is left of a body and forgets it, up to a limit."""
    received = 0
    with contextlib.suppress(RuntimeError):  # it has been read to its end
        async for chunk in request.stream():
            received += len(chunk)
            if received > _DRAINED_BYTES:
                break
