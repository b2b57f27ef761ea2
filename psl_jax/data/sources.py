"""What a source of clips is: the part that the streamed and the packed data share."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import Window

if TYPE_CHECKING:
    from psl_jax.data.soft_labels import SoftLabels


@dataclasses.dataclass(frozen=True)
class LoadedWindow:
    """A window with its audio and, where asked for, its soft labels."""

    window: Window
    audio: np.ndarray  # int16 [n, clip_samples], zeros after a clip's end
    soft: np.ndarray | None = None  # float16 [n, segments, classes], zeros after the last segment


class Source(Protocol):
    """A split that can be read window by window."""

    @property
    def index(self) -> ClipIndex: ...

    def read(
        self, windows: Iterable[Window], soft_labels: "SoftLabels | None" = None
    ) -> Iterator[LoadedWindow]:
        """Loads `windows` in order; the next one is read while the last one is used.

        Two windows are in memory at a time if the caller keeps none:
        2 x window_clips x clip_samples x 2 bytes (1.3 GB for 2048 clips of 10 s), and the soft
        labels, 2 x window_clips x segments x classes x 2 bytes (22 MB for 2 s and 527 classes).
        """
        ...


def read_ahead(
    load: Callable[[Window, "Buffers"], LoadedWindow], windows: Iterable[Window]
) -> Iterator[LoadedWindow]:
    """Yields `load(window, buffers)` in order; the next is loaded in a thread meanwhile."""
    buffers = Buffers()
    pool = ThreadPoolExecutor(1, thread_name_prefix="read_ahead")
    pending: Future[LoadedWindow] | None = None
    try:
        for window in windows:
            following = pool.submit(load, window, buffers)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
    finally:
        pool.shutdown(cancel_futures=True)


class Buffers:
    """Memory for windows, used again when nobody refers to it any longer.

    Fresh memory is paged in as it is first written, which costs more than reading the audio.
    """

    _PATIENCE_SECONDS = 0.05

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def empty(self, rows: int, columns: int) -> np.ndarray:
        """An uninitialised int16 [rows, columns]."""
        size = rows * columns
        # The window before the last is let go only when its reader gets the next one: wait for it
        # a moment rather than take a third piece of memory.
        deadline = time.monotonic() + self._PATIENCE_SECONDS
        while len(self._arrays) >= 2 and time.monotonic() < deadline:
            if any(map(self._free, range(len(self._arrays)))):
                break
            time.sleep(0.001)
        free = [i for i in range(len(self._arrays)) if self._free(i)]
        for i in free:
            if len(self._arrays[i]) >= size:
                return self._arrays[i][:size].reshape(rows, columns)
        for i in reversed(free):  # too small
            del self._arrays[i]
        if len(self._arrays) >= 2:  # somebody keeps them: they are theirs now
            self._arrays = []
        self._arrays.append(np.empty(size, np.int16))
        return self._arrays[-1].reshape(rows, columns)

    def _free(self, i: int) -> bool:
        """Whether only this list refers to array `i`: its views count as references to it."""
        return sys.getrefcount(self._arrays[i]) == 2  # the list's and the argument's
