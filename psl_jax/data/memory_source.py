"""A split whose audio is held in memory."""

from collections.abc import Iterator

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.source import Source


class MemorySource(Source):
    """A split whose audio is held in memory: [clips] arrays of int16 [samples]."""

    def __init__(self, index: ClipIndex, audio: list[np.ndarray]):
        self.index, self.audio = index, audio

    def read(
        self, clips: np.ndarray, starts: np.ndarray, counts: np.ndarray, rows: np.ndarray
    ) -> None:
        """See `Source.read`."""
        for row, clip, start, count in zip(rows, clips, starts, counts, strict=True):
            row[:count] = self.audio[clip][start : start + count]

    def read_whole(self, clips: np.ndarray) -> Iterator[np.ndarray]:
        """See `Source.read_whole`."""
        yield from (self.audio[clip] for clip in clips)
