"""Views: copies of a split's segments, each augmented in a way that can be made again.

A teacher labels each view and a student hears the same one with its labels ("consistent teaching":
Beyer et al., CVPR 2022; for audio taggers CED, ICASSP 2024). What is done to a segment follows from
the view's seed and number and the places of clip and segment alone, so no audio is stored.
"""

import dataclasses
from typing import Any

import numpy as np

from psl_jax.data.time_shift import reflect_end

_LOUDEST = 32767


@dataclasses.dataclass(frozen=True)
class View:
    """One augmented view of a split; number 0, the segments as they are, is `None` everywhere.

    Each segment is rolled inside itself by up to `shift_fraction` of its length, made louder or
    softer by a gain in dB, though never so loud that it clips, and turned over, each with its
    probability.
    """

    number: int
    seed: int
    gain_probability: float
    gain_db: tuple[float, float]
    polarity_probability: float
    shift_probability: float
    shift_fraction: float

    def entries(self) -> dict[str, Any]:
        """What the manifest of its labels says of it: what has no effect is left out."""
        return dataclasses.asdict(self) | {
            "gain_db": list(self.gain_db) if self.gain_probability else None,
            "shift_fraction": self.shift_fraction if self.shift_probability else None,
        }

    def apply(
        self, audio: np.ndarray, num_samples: np.ndarray, clip: np.ndarray, segment: np.ndarray
    ) -> None:
        """Augments rows of audio, int16 [n, samples], of which num_samples [n] lie in the clip.

        clip, segment: int [n], numbers in the index and in the clip. In place.
        """
        chances = self.shift_probability, self.gain_probability, self.polarity_probability
        lengths, clips, segments = num_samples.tolist(), clip.tolist(), segment.tolist()
        for row, length, c, s in zip(audio, lengths, clips, segments, strict=True):
            rng = np.random.default_rng((self.seed, self.number, c, s))
            does_shift, does_gain, does_turn = rng.random(3) < chances
            inside = row[:length]
            if does_shift:
                reach = int(self.shift_fraction * length)
                inside[:] = np.roll(inside, rng.integers(-reach, reach + 1))
            factor = 1.0
            if does_gain:
                peak = max(int(inside.max(initial=0)), -int(inside.min(initial=0)), 1)
                factor = min(10 ** (rng.uniform(*self.gain_db) / 20), _LOUDEST / peak)
            if does_turn:
                factor = -factor
            if factor != 1:
                scaled = np.rint(inside * np.float32(factor))
                inside[:] = np.clip(scaled, -_LOUDEST, _LOUDEST)
            reflect_end(row, length)
