"""Teachers that run on the host's cores: windows of waveforms to scores, in threads."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import parallel
from psl_jax.scoring.scorer import CPU_BATCH

# Waveforms float32 [n, samples] in [-1, 1] of one length, at the teacher's rate, to probabilities
# [n, classes]; called by several threads at once.
Run = Callable[[np.ndarray], np.ndarray]


class HostScorer:
    """See `SegmentScorer`."""

    def __init__(self, run: Run, rate: int, together: bool, count_padding: bool = False):
        """together: rows of one length go to `run` at once; else each by itself, in threads."""
        self._run, self._rate, self._together = run, rate, together
        self._count_padding = count_padding
        self._threads = os.cpu_count() or 1

    @property
    def where(self) -> str:
        return f"{self._threads} thread{'s' * (self._threads > 1)}"

    def fitting(self, batch_size: int, seconds: float) -> int:
        return batch_size or CPU_BATCH

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        with ThreadPoolExecutor(self._threads) as pool:
            for batch in parallel.prefetch(batches, _real_rows):
                lengths = batch["num_samples"]
                if self._count_padding:
                    lengths = np.full_like(lengths, batch["audio"].shape[1])
                rows = list(pool.map(self._waveform, batch["audio"], batch["num_samples"], lengths))
                yield batch, self._scores(rows, pool)

    def _waveform(self, audio: np.ndarray, valid: int, length: int) -> np.ndarray:
        """Of int16 [samples] the first `valid`, and zeros up to `length`, at the teacher's rate."""
        wave = np.zeros(length, np.float32)
        wave[:valid] = audio[:valid] / np.float32(32_768)
        if self._rate == SAMPLE_RATE:
            return wave
        import soxr

        return soxr.resample(wave, SAMPLE_RATE, self._rate, quality="HQ")

    def _scores(self, rows: list[np.ndarray], pool: ThreadPoolExecutor) -> np.ndarray:
        if not self._together:
            return np.concatenate(list(pool.map(lambda row: self._run(row[None]), rows)))
        out: list[np.ndarray] = [np.empty(0)] * len(rows)
        for length in {len(row) for row in rows}:
            alike = [number for number, row in enumerate(rows) if len(row) == length]
            found = self._run(np.stack([rows[number] for number in alike]))
            for number, scores in zip(alike, found, strict=True):
                out[number] = scores
        return np.stack(out)


def _real_rows(batch: Batch) -> Batch:
    real = batch["weight"] > 0
    return {name: values[real] for name, values in batch.items()}


def windows_of(values: np.ndarray, size: int, hop: int, silence: float = 0.0) -> np.ndarray:
    """Windows of `size` of the second axis, one every `hop`: [n, length, ...] -> [n, w, size, ...].

    What is shorter is filled up with `silence`. Where more than half a hop is left over at the end,
    the last window ends there.
    """
    length = values.shape[1]
    if length < size:
        filling = [(0, 0)] * values.ndim
        filling[1] = (0, size - length)
        values, length = np.pad(values, filling, constant_values=silence), size
    starts = list(range(0, length - size + 1, hop))
    if length - size - starts[-1] > hop / 2:
        starts.append(length - size)
    return np.stack([values[:, start : start + size] for start in starts], axis=1)
