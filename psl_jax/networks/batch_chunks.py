"""A batch computed in parts where its intermediate arrays would outgrow the cache."""

from collections.abc import Callable
from typing import Any

import jax

# Measured on two cores with 1 MB of L2 cache each and 36 MB of L3 cache: between 2 and 8 MB
# it makes no difference.
PART_BYTES = 6_000_000


def in_parts(
    function: Callable, arrays: Any, bytes_per_row: int, platform: str | None = None
) -> Any:
    """function(arrays), on a CPU for a few rows of the batch at a time.

    A CPU that writes an intermediate array of 40 MB and reads it again waits for its memory; one
    of 5 MB stays in its cache. The result is the same. Accelerators get the whole batch at once.

    Args:
      function: maps a pytree of arrays [rows, ...] to another one, each row by itself.
      arrays: pytree of arrays [batch, ...].
      bytes_per_row: size of the largest intermediate array of `function`, for each row.
      platform: that the program is for, default this machine's.
    """
    batch = jax.tree.leaves(arrays)[0].shape[0]
    known = isinstance(batch, int) and isinstance(bytes_per_row, int)  # not so in an export
    rows = _rows(batch, bytes_per_row) if known else batch
    if not known or rows == batch or (platform or jax.default_backend()) != "cpu":
        return function(arrays)
    split = jax.tree.map(lambda x: x.reshape(batch // rows, rows, *x.shape[1:]), arrays)
    parts = jax.lax.map(function, split)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), parts)


def _rows(batch: int, bytes_per_row: int) -> int:
    """The most rows that divide the batch and stay under PART_BYTES, at least one."""
    most = max(1, PART_BYTES // bytes_per_row)
    return max(rows for rows in range(1, batch + 1) if batch % rows == 0 and rows <= most)
