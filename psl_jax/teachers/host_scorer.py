"""Scores waveforms with teachers that run on the host's cores, in threads."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from psl_jax.audio.segments import flatten
from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import parallel
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.scoring.scorer import CPU_BATCH

# Waveforms float32 [n, samples] in [-1, 1] of one length, at the teacher's rate, to probabilities
# [n, classes]; called by several threads at once.
Run = Callable[[np.ndarray], np.ndarray]


class HostScorer:
    """See `SegmentScorer`."""

    def __init__(
        self,
        run: Run,
        rate: int,
        takes_batches: bool,
        count_padding: bool = False,
        batches_at_once: int = 1,
    ):
        """Makes a scorer.

        takes_batches: passes rows of the same length to `run` at once; else each in a thread.
        """
        self._run, self._rate, self._takes_batches = run, rate, takes_batches
        self._count_padding, self._batches_at_once = count_padding, batches_at_once
        self._threads = os.cpu_count() or 1

    @property
    def where(self) -> str:
        return f"{self._threads} thread{'s' * (self._threads > 1)}"

    def fitting(self, batch_size: int, seconds: float) -> int:
        return batch_size or CPU_BATCH

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        with ThreadPoolExecutor(self._threads) as pool:

            def score(batch: Batch) -> tuple[Batch, np.ndarray]:
                lengths = batch["num_samples"]
                if self._count_padding:
                    lengths = np.full_like(lengths, batch["audio"].shape[1])
                rows = list(
                    pool.map(self._make_waveform, batch["audio"], batch["num_samples"], lengths)
                )
                return batch, self._compute_scores(rows, pool)

            real_batches = parallel.prefetch(batches, _select_real_rows)
            yield from ordered_map(score, real_batches, self._batches_at_once, ahead=1)

    def _make_waveform(self, audio: np.ndarray, num_valid: int, num_samples: int) -> np.ndarray:
        """Makes the waveform of a row at the teacher's rate: its valid samples, and zeros."""
        padded = np.zeros((num_samples, *audio.shape[1:]), np.float32)
        padded[:num_valid] = audio[:num_valid] / np.float32(32_768)
        waveform, rate = flatten(padded)
        if self._rate == rate:
            return waveform
        import soxr

        return np.asarray(soxr.resample(waveform, rate, self._rate, quality="HQ"))

    def _compute_scores(self, rows: list[np.ndarray], pool: ThreadPoolExecutor) -> np.ndarray:
        if not self._takes_batches:
            return np.concatenate(list(pool.map(lambda row: self._run(row[None]), rows)))
        scores_of_rows: list[np.ndarray] = [np.empty(0)] * len(rows)
        for length in {len(row) for row in rows}:
            numbers = [number for number, row in enumerate(rows) if len(row) == length]
            scores_of_length = self._run(np.stack([rows[number] for number in numbers]))
            for number, row_scores in zip(numbers, scores_of_length, strict=True):
                scores_of_rows[number] = row_scores
        return np.stack(scores_of_rows)


def _select_real_rows(batch: Batch) -> Batch:
    is_real = batch["weight"] > 0
    return {name: values[is_real] for name, values in batch.items()}


def cut_windows(
    values: np.ndarray, window_size: int, *, hop: int, fill_value: float = 0.0
) -> np.ndarray:
    """Cuts windows of the second axis, one every `hop`: [n, steps, ...] -> [n, windows, size, ...].

    Values shorter than a window are padded with `fill_value`. Where more than half a hop remains at
    the end, a last window ends there.
    """
    num_steps = values.shape[1]
    if num_steps < window_size:
        padding = [(0, 0)] * values.ndim
        padding[1] = (0, window_size - num_steps)
        values, num_steps = np.pad(values, padding, constant_values=fill_value), window_size
    starts = list(range(0, num_steps - window_size + 1, hop))
    if num_steps - window_size - starts[-1] > hop / 2:
        starts.append(num_steps - window_size)
    return np.stack([values[:, start : start + window_size] for start in starts], axis=1)
