"""Disks that are full or not ours, said in plain words: the one place for all that is written."""

import contextlib
import errno
import logging
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator

from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (errno.EACCES, errno.EROFS, errno.EPERM)


@contextlib.contextmanager
def plain_disk_errors(path: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """Turns a full disk, or a place where we may not write, into a UserError about `path`.

    advice: what is kept, and what to do once there is room. Other errors pass through. Tracebacks
    that Orbax would log are not shown.
    """
    logger = logging.getLogger("absl")
    logger.addFilter(_is_not_of_orbax)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _errno(error)
        if number in _FULL:
            disk = "the disk of temporary files" if is_remote(path) else "the disk"
            remedy = f"{disk} is full: {os.strerror(number)}. Free some space"
        elif number in _NOT_OURS:
            remedy = f"no permission to write: {os.strerror(number)}. Mend that"
        elif number is not None and not isinstance(error, OSError):  # of TensorStore, in long words
            remedy = f"cannot be written: {os.strerror(number)}. Mend that"
        else:
            raise
        raise UserError(f"{path}: {remedy}. {advice}") from error
    finally:
        logger.removeFilter(_is_not_of_orbax)


def is_full(error: Exception) -> bool:
    """Whether an error of any library says that a disk is full."""
    return _errno(error) in _FULL


def write_output(text: str) -> None:
    """Writes to standard output at once. Raises UserError (a full disk) or BrokenPipeError."""
    try:
        if text:  # even nothing cannot be written to /dev/full
            sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise UserError(f"cannot write to standard output: {error.strerror}") from error


def can_print() -> bool:
    """Whether standard output takes a line end."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def drop_output() -> None:
    """Sends what is still to be printed nowhere: else Python complains of it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(folder: str | os.PathLike[str], option: str) -> None:
    """Makes a folder; raises UserError, naming the option, where nothing can be written into it."""
    place = path_of(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if is_remote(place):
            probe = place / f".psl_jax-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        else:
            tempfile.TemporaryFile(dir=place).close()  # has no name that a kill would leave
    except UserError as error:  # of a bucket
        raise UserError(f"cannot write into {folder}, {option}: {error}") from error
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}. Choose another {option}"
        ) from error


def _errno(error: Exception) -> int | None:
    """The operating system's number of an error, however it was wrapped; None for other errors."""
    if isinstance(error, OSError):
        return error.errno
    # TensorStore raises ValueErrors that name the operating system's error in their text.
    if named := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(named[1])
    if tensorflow := sys.modules.get("tensorflow"):
        errors = tensorflow.errors
        if isinstance(error, errors.ResourceExhaustedError):
            return errno.ENOSPC
        if isinstance(error, errors.PermissionDeniedError):
            return errno.EACCES
    return None


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
