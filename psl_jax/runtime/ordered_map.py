"""A parallel map that keeps the order and holds only a few results at a time."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], num_workers: int | None = None, ahead: int = 8
) -> Generator[R, None, None]:
    """Yields `function(item)` in the order of `items`, computed by `num_workers` threads.

    Threads, because decoding, resampling and NumPy release the interpreter lock. At most
    `ahead * num_workers` results and one more are held: one slow item does not stop the others.
    num_workers: default one a core.
    """
    num_workers = num_workers or os.cpu_count() or 1
    if num_workers == 1:
        yield from map(function, items)
        return
    pool = concurrent.futures.ThreadPoolExecutor(num_workers, thread_name_prefix="ordered_map")
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also when the consumer stops early or fails
        pool.shutdown(wait=True, cancel_futures=True)
