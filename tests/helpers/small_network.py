"""A network of 4 blocks instead of 17: much less to compile. The tests' default (conftest.py)."""

import contextlib
from collections.abc import Iterator

from psl_jax.networks import mobilenetv2

SHALLOW = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 8))
PAPER = mobilenetv2.INVERTED_RESIDUALS


@contextlib.contextmanager
def blocks(which: tuple) -> Iterator[None]:
    """Networks that are created or compiled inside have these blocks."""
    before = mobilenetv2.INVERTED_RESIDUALS
    mobilenetv2.INVERTED_RESIDUALS = which
    try:
        yield
    finally:
        mobilenetv2.INVERTED_RESIDUALS = before
