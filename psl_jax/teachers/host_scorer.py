"""Scores waveforms with teachers that run on the host's cores, in threads."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from psl_jax.audio.segments import flatten
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.scoring.scorer import CPU_BATCH

# Waveforms float32 [n, samples] in [-1, 1] of one length, at the teacher's rate, to probabilities
# [n, classes]; called by several threads at once.
Run = Callable[[np.ndarray], np.ndarray]


class HostScorer:
    """See `SegmentScorer`."""

    where = f"{os.cpu_count() or 1} threads"

    def __init__(
        self,
        run: Run,
        rate: int,
        rule: LabelRule,
        *,
        takes_batches: bool = True,
        batches_at_once: int = 1,
    ):
        """takes_batches: passes rows of the same length to `run` at once; else each in a thread."""
        self._run, self._rate, self._takes_batches = run, rate, takes_batches
        self._count_padding, self._batches_at_once = rule.count_padding, batches_at_once

    def fitting(self, batch_size: int, seconds: float) -> int:
        return batch_size or CPU_BATCH

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def score(batch: Batch) -> tuple[Batch, np.ndarray]:
                waveforms = list(
                    pool.map(self._make_waveform, batch["audio"], batch["num_samples"])
                )
                return batch, self._compute_scores(waveforms, pool)

            real_batches = parallel.prefetch(batches, _select_real_rows)
            yield from ordered_map(score, real_batches, self._batches_at_once, ahead=1)

    def _make_waveform(self, audio: np.ndarray, num_valid: int) -> np.ndarray:
        """Makes the waveform of a row at the teacher's rate: its valid samples, or zeros after."""
        samples = np.zeros(audio.shape, np.float32)
        samples[:num_valid] = audio[:num_valid] / np.float32(32_768)
        waveform, rate = flatten(samples if self._count_padding else samples[:num_valid])
        if self._rate == rate:
            return waveform
        import soxr

        return np.asarray(soxr.resample(waveform, rate, self._rate, quality="HQ"))

    def _compute_scores(self, waveforms: list[np.ndarray], pool: ThreadPoolExecutor) -> np.ndarray:
        if not self._takes_batches:
            return np.concatenate(list(pool.map(lambda row: self._run(row[None]), waveforms)))
        lengths = np.array([len(waveform) for waveform in waveforms])
        scores: dict[int, np.ndarray] = {}  # by the number of the row
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length).tolist()
            values = self._run(np.stack([waveforms[row] for row in rows]))
            scores |= zip(rows, values, strict=True)
        return np.stack([scores[row] for row in range(len(waveforms))])


def make_opener(
    run: Run, rate: int, name: str, *, takes_batches: bool = True
) -> Callable[[LabelRule], HostScorer]:
    """Makes a function that opens the scorer of a teacher which computes in float32 alone.

    The function raises UserError for another data type.
    """

    def open_scorer(rule: LabelRule) -> HostScorer:
        if rule.dtype != "float32":
            raise UserError(
                f"{name} computes in float32 alone, not in {rule.dtype}: leave out --dtype, in an "
                "experiment config.relabel.dtype"
            )
        return HostScorer(run, rate, rule, takes_batches=takes_batches)

    return open_scorer


def _select_real_rows(batch: Batch) -> Batch:
    is_real = batch["weight"] > 0
    return {name: values[is_real] for name, values in batch.items()}


def cut_windows(values: np.ndarray, window_size: int, *, hop: int) -> np.ndarray:
    """Cuts windows, one every `hop`: [n, samples] -> [n, windows, size].

    Values shorter than a window are padded with zeros. Where more than half a hop remains at the
    end, a last window ends there.
    """
    values = np.pad(values, ((0, 0), (0, max(window_size - values.shape[1], 0))))
    last = values.shape[1] - window_size
    starts = list(range(0, last + 1, hop))
    if last - starts[-1] > hop / 2:
        starts.append(last)
    return np.stack([values[:, start : start + window_size] for start in starts], axis=1)
