"""What a source of clips is: the part that the streamed and the packed data share."""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import Window


@dataclasses.dataclass(frozen=True)
class LoadedWindow:
    """A window with its audio."""

    window: Window
    audio: np.ndarray  # int16, the window's rows end to end; zeros after a clip's end

    @property
    def rows(self) -> list[np.ndarray]:
        """The row of each clip of the window: int16 [its capacity]."""
        return np.split(self.audio, self.window.offsets[1:-1])


class Source(Protocol):
    """A split that can be read window by window."""

    @property
    def index(self) -> ClipIndex: ...

    def read(self, windows: Iterable[Window]) -> Iterator[LoadedWindow]:
        """Loads `windows` in order; the next one is read while the last one is used.

        The audio is the reader's until it asks for the next window; its memory is then written
        anew, so that a reader copies what it is to keep. Two windows are in memory at a time: at
        most 2 x MAX_WINDOW_BYTES, for 2048 clips of 10 s 1.3 GB.
        """
        ...


def read_ahead(
    fill: Callable[[Window, list[np.ndarray]], None], windows: Iterable[Window]
) -> Generator[LoadedWindow, None, None]:
    """`Source.read` in terms of `fill(window, rows)`, which runs in a thread.

    rows: int16 [capacity] each, with anything in it; all of it is to be written.
    """
    ring = BufferRing()

    def load(window: Window) -> LoadedWindow:
        loaded = LoadedWindow(window, ring.next(int(window.offsets[-1])))
        fill(window, loaded.rows)
        return loaded

    return made_ahead(load, windows)


def made_ahead(function: Callable[[Any], Any], items: Iterable) -> Generator[Any, None, None]:
    """Yields `function(item)` in order; the next one is made in a thread while one is used.

    The one after it is not begun before the next one is asked for. Items are taken from `items`
    in the caller's thread. Closing the generator waits for what was begun.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="read_ahead")
    pending: Future | None = None
    try:
        for item in items:
            following = pool.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
    finally:
        pool.shutdown(cancel_futures=True)


class BufferRing:
    """Two pieces of memory for windows, used in turns: one is read while the other is written.

    Fresh memory is paged in as it is first written, which costs more than reading the audio.
    """

    def __init__(self) -> None:
        self._arrays = [np.empty(0, np.int16) for _ in range(2)]
        self._turn = 0

    def next(self, size: int) -> np.ndarray:
        """An uninitialised int16 [size]; the memory of the one before the last."""
        turn = self._turn
        self._turn = (turn + 1) % len(self._arrays)
        if len(self._arrays[turn]) < size:
            self._arrays[turn] = np.empty(0, np.int16)  # let go of before there is more
            self._arrays[turn] = np.empty(size, np.int16)
        return self._arrays[turn][:size]
