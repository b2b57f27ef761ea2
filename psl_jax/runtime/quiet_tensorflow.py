"""TensorFlow, imported late, quietly and without accelerators."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from psl_jax.runtime.errors import UserError


@functools.cache
def tensorflow_quietly() -> Any:
    """TensorFlow, imported on first use, without messages and without accelerators.

    It only reads and writes files here; a GPU that it claims is lost to JAX. Raises UserError.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _stderr_silenced():  # it logs before it has read the level; exceptions still come through
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise UserError(
                f"this needs the package {error.name}, which is not installed. TensorFlow prepares "
                "data and writes TFLite files, and has no build for Python 3.14: use Python 3.11 "
                "to 3.13. Everything else, such as training on prepared data, runs without it"
            ) from error

        for error_type in ("GPU", "TPU"):
            with contextlib.suppress(RuntimeError):  # already running: nothing left to hide
                tf.config.set_visible_devices([], error_type)
    return tf


@contextlib.contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Discards what native code writes to file descriptor 2."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
