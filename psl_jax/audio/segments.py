"""Cuts clips into segments, and owns the sample rates.

Time is counted in ticks of 1/16,000 s, whatever the rate of the audio. Audio at 16 kHz has a sample
for each tick, [ticks]; at 32 kHz it has two, [ticks, 2]. So lengths, segments and indices are the
same at both rates.
"""

import dataclasses

import numpy as np

from psl_jax.runtime.errors import UserError

SAMPLE_RATE = 16_000  # ticks a second
RATES = (SAMPLE_RATE, 2 * SAMPLE_RATE)  # of audio

# A remainder shorter than this at the end of a clip makes no segment: a few hundredths of a second
# of audio followed by padding say nothing.
MIN_SEGMENT_SECONDS = 0.5

# A frame of the front end reaches so far past the end of the audio: half its window.
REFLECTED_SAMPLES = 256

MIN_HOP_SECONDS = 0.05  # a smaller hop is a mistake: it makes hundreds of segments of a clip


def tick_shape(rate: int) -> tuple[int, ...]:
    """The shape of a tick's samples: () at 16 kHz, (2,) at 32 kHz."""
    return () if rate == SAMPLE_RATE else (rate // SAMPLE_RATE,)


def by_ticks(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples [n] at one of RATES as audio, without those of an incomplete tick."""
    if rate == SAMPLE_RATE:
        return samples
    per_tick = rate // SAMPLE_RATE
    return samples[: len(samples) // per_tick * per_tick].reshape(-1, per_tick)


def flatten(audio: np.ndarray) -> tuple[np.ndarray, int]:
    """The samples [n] of audio, and their rate in Hz."""
    return audio.reshape(-1), SAMPLE_RATE * (1 if audio.ndim == 1 else audio.shape[1])


def reverse(audio: np.ndarray) -> np.ndarray:
    return audio[::-1] if audio.ndim == 1 else audio[::-1, ::-1]


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Cuts clips into segments of `seconds`, one every `hop_seconds` (default: end to end).

    shortest_seconds: length from which a remainder at a clip's end is a segment; 0: one sample.
    """

    seconds: float
    hop_seconds: float | None = None
    shortest_seconds: float = MIN_SEGMENT_SECONDS

    def __post_init__(self) -> None:
        if self.seconds <= 0 or (self.hop_seconds is not None and self.hop_seconds <= 0):
            raise ValueError(f"segment and hop must be positive, got {self}")

    @property
    def segment_samples(self) -> int:
        return round(self.seconds * SAMPLE_RATE)

    @property
    def hop_samples(self) -> int:
        return round((self.hop_seconds or self.seconds) * SAMPLE_RATE)

    def count_segments(self, num_samples: np.ndarray | int) -> np.ndarray:
        """Counts the segments of clips of `num_samples` [...]: int32 [...], at least 1 each."""
        segment_samples, hop_samples = self.segment_samples, self.hop_samples
        min_samples = min(
            max(round(self.shortest_seconds * SAMPLE_RATE), 1), segment_samples, hop_samples
        )
        # A segment covers new audio from `overlap_samples` after its start.
        overlap_samples = max(segment_samples - hop_samples, 0)
        num_more = (np.asarray(num_samples) - overlap_samples - min_samples) // hop_samples
        return np.asarray(np.maximum(1 + num_more, 1), np.int32)

    def number_segments(self, num_samples: np.ndarray) -> np.ndarray:
        """Numbers the first segment of each clip, then all of them: int64 [clips + 1]."""
        counts = self.count_segments(num_samples)
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def count_valid_samples(self, num_samples: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """Counts the samples of a segment that lie inside a clip of `num_samples`: int32."""
        num_left = np.asarray(num_samples) - np.asarray(segment) * self.hop_samples
        return np.asarray(np.clip(num_left, 0, self.segment_samples), np.int32)

    def compute_times(self, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the onsets and offsets of segments in seconds from the start of the clip."""
        onset = np.asarray(segment) * (self.hop_samples / SAMPLE_RATE)
        return onset, onset + self.segment_samples / SAMPLE_RATE


def check_hop(segmentation: Segmentation, setting: str) -> None:
    """Raises UserError, naming the setting, for a hop that is too short or leaves gaps."""
    hop, seconds = segmentation.hop_seconds, segmentation.seconds
    if hop is not None and not min(MIN_HOP_SECONDS, seconds) <= hop <= seconds:
        raise UserError(
            f"{setting} is {hop:g}: expected {MIN_HOP_SECONDS:g} to {seconds:g} s, the length of a "
            "segment, or 0 for segments end to end; in gaps nothing would be scored"
        )
