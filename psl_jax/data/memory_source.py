"""A split whose audio is held in memory."""

from collections.abc import Iterable, Iterator

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.sampling import Window
from psl_jax.data.sources import LoadedWindow


class MemorySource:
    """A split whose audio is held in memory: [clips] arrays of int16 [samples]."""

    def __init__(self, index: ClipIndex, audio: list[np.ndarray]):
        self.index, self.audio = index, audio

    def read(self, windows: Iterable[Window]) -> Iterator[LoadedWindow]:
        """See `Source.read`."""
        for window in windows:
            loaded = LoadedWindow(window, np.zeros(int(window.offsets[-1]), np.int16))
            for row, clip, start in zip(loaded.rows, window.clips, window.starts, strict=True):
                samples = self.audio[clip][start : start + len(row)]
                row[: len(samples)] = samples
            yield loaded
