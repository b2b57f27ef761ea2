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
            audio = np.zeros((len(window.clips), self.index.clip_samples), np.int16)
            for row, clip in zip(audio, window.clips, strict=True):
                row[: len(self.audio[clip])] = self.audio[clip]
            yield LoadedWindow(window, audio)
