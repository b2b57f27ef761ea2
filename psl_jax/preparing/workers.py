"""A parallel map that keeps the order and holds only a few results at a time."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Results waiting for their turn, per worker: enough that one slow item does not stop the others.
_AHEAD = 8


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], num_workers: int | None = None
) -> Iterator[R]:
    """Yields `function(item)` in the order of `items`, computed by `num_workers` threads.

    Threads, because decoding, resampling and NumPy release the interpreter lock: they measure as
    fast as processes, need no copy of the audio between processes, and are safe beside
    TensorFlow's and JAX's own threads. Memory: at most `8 * num_workers` results.

    Args:
      num_workers: default one a core; 1 runs in the calling thread.
    """
    num_workers = num_workers or os.cpu_count() or 1
    if num_workers == 1:
        yield from map(function, items)
        return
    pool = concurrent.futures.ThreadPoolExecutor(num_workers, thread_name_prefix="prepare")
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _AHEAD * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also when the consumer stops early or fails
        pool.shutdown(wait=True, cancel_futures=True)
