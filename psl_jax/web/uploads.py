"""Receives uploads into files, works on them in turn, and drops those whose sender has gone."""

import asyncio
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from psl_jax.web.forms import Form, read_form
from psl_jax.web.service import ELSEWHERE, CancelledError, Job, Limits, RefusedError, Service

MAX_WAITING = 16  # uploads at a time, including the one that is being tagged
_POLL_SECONDS = 0.2  # so often we check that the sender is still there
_MEGABYTE = 1_000_000
_MAX_DRAINED_BYTES = 2_000 * _MEGABYTE  # of a refused body; then the connection ends
_MAX_FORM_BYTES = _MEGABYTE  # size of a multipart body without its file


class Uploads:
    """All uploads that are being received, wait, or are being tagged."""

    def __init__(self, service: Service):
        self._service = service
        self._waiting: dict[object, Job] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def progress(self, ticket: str) -> dict[str, Any]:
        """Returns the progress of the upload of a ticket: "waiting", "tagging" or "unknown"."""
        tickets = list(self._waiting)
        if ticket not in self._waiting:
            return {"state": "unknown"}
        job = self._waiting[ticket]
        return {
            "state": "tagging" if job.has_begun else "waiting",
            "ahead": tickets.index(ticket),
            "seconds": round(job.seconds, 2),
            "length": job.length,
        }

    async def answer(
        self, request: Request, form: type[Form], work: Callable[[Job, Form], Response]
    ) -> Response:
        """Answers a request by `work` on its file. Raises RefusedError.

        work(job, settings) runs in the service's worker, with the settings of the query and of the
        form.
        """
        ticket: object = request.query_params.get("ticket") or object()
        if ticket in self._waiting:
            raise RefusedError(422, "This ticket belongs to another upload.", "setting")
        if len(self._waiting) >= MAX_WAITING:
            words = f"{len(self._waiting)} files are waiting already. Try again in a while."
            raise RefusedError(429, words, "busy")
        job = self._waiting[ticket] = Job()
        try:
            with tempfile.NamedTemporaryFile(prefix="psl_jax-") as file:
                job.path = file.name
                file_name, fields = await _receive(request, job.path, self._service.limits)
                settings = read_form(form, [*request.query_params.multi_items(), *fields])
                job.name = _get_base_name(settings.name, file_name)
                if not os.path.getsize(job.path):
                    raise RefusedError(415, f"{job.name} is empty.", "empty")
                return await _run_in_worker(
                    request, self._service, job, lambda: work(job, settings)
                )
        finally:
            del self._waiting[ticket]


async def _run_in_worker(
    request: Request, service: Service, job: Job, work: Callable[[], Response]
) -> Response:
    """Works on an upload in the worker. Raises CancelledError where its sender has gone."""
    future = service.worker.submit(work)
    task = asyncio.wrap_future(future)
    while True:
        done, _ = await asyncio.wait({task}, timeout=_POLL_SECONDS)
        if done:
            return task.result()
        if await request.is_disconnected():
            job.has_gone.set()
            if not future.cancel():  # the work has begun, and uses the file until it ends
                await asyncio.wait({task})
                task.exception()
            raise CancelledError


# --- Receiving --------------------------------------------------------------------------------


async def _receive(
    request: Request, path: str, limits: Limits
) -> tuple[str, list[tuple[str, str]]]:
    """Writes the file of a request, its body or a part of it, to `path`.

    Returns the name and the other fields that a multipart body has. Raises RefusedError.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _receive_form(request, path, limits)
    # The default type of curl, a form, is accepted.
    if content_type in ("application/json", "text/html"):
        raise RefusedError(
            415,
            f"a body of {content_type}; expected the audio file itself, or multipart/form-data",
            "kind",
        )
    with open(path, "wb") as file:
        async for chunk in _read_bounded(request, limits.megabytes, limits):
            file.write(chunk)
    return "", []


def _get_base_name(*names: str) -> str:
    """Returns the first name that is given, without its folders."""
    base_names = (pathlib.PurePath(name.replace("\0", "")).name[:200] for name in names)
    return next(filter(None, base_names), "recording")


async def _receive_form(
    request: Request, path: str, limits: Limits
) -> tuple[str, list[tuple[str, str]]]:
    stream = _read_bounded(request, limits.megabytes + _MAX_FORM_BYTES / _MEGABYTE, limits)
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=20).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise RefusedError(422, f"the multipart body cannot be read: {error}", "form") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RefusedError(
                422, "the multipart body has no file; expected one in the field 'file'", "form"
            )
        if (file.size or 0) > limits.megabytes * _MEGABYTE:
            raise _make_too_large_error(request, limits, file.filename or "")

        def copy() -> None:
            with open(path, "wb") as target:
                shutil.copyfileobj(file.file, target)

        await anyio.to_thread.run_sync(copy)
        fields = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
        return file.filename or "", fields
    finally:
        await form.close()


async def _read_bounded(
    request: Request, megabytes: float, limits: Limits
) -> AsyncGenerator[bytes, None]:
    """Reads the body. Raises RefusedError where it is too large."""
    max_bytes, num_bytes = megabytes * _MEGABYTE, 0
    announced = request.headers.get("content-length", "")
    announced_bytes = int(announced) if announced.isdigit() else 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if max(num_bytes, announced_bytes) > max_bytes:
            raise _make_too_large_error(request, limits)
        yield chunk


def _make_too_large_error(request: Request, limits: Limits, file_name: str = "") -> RefusedError:
    name = _get_base_name(request.query_params.get("name", ""), file_name)
    return RefusedError(
        413,
        f"{name} is too large. Files of up to {limits.megabytes:g} MB are tagged here; {ELSEWHERE}",
        "too large",
    )


async def drain(request: Request) -> None:
    """Reads the rest of a refused body and drops it, up to a limit.

    Otherwise browsers would report a lost connection, and not show why it is refused.
    """
    num_bytes = 0
    with contextlib.suppress(RuntimeError):  # it has been read to its end
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > _MAX_DRAINED_BYTES:
                break
