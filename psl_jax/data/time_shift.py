"""Time shift with rollover inside the clip, an augmentation of the waveform.

It is made where batches are put together: there it is a copy of each row, while a device would
gather every sample from a place of its own, which a TPU does one row after the other.
"""

import dataclasses

import numpy as np

from psl_jax.audio.segments import REFLECTED_SAMPLES


@dataclasses.dataclass(frozen=True)
class TimeShift:
    """Shifts by up to `fraction` of the clip, either way, each example with `probability`."""

    probability: float
    fraction: float
    seed: int

    def draw(self, step: int, process_index: int, num_samples: np.ndarray) -> np.ndarray:
        """int32 [batch]: by how many samples to shift clips of num_samples [batch] in a step."""
        rng = np.random.default_rng((self.seed, step, process_index))
        shifted = rng.random(len(num_samples)) < self.probability
        reach = np.floor(self.fraction * num_samples).astype(np.int64)
        return np.where(shifted, rng.integers(-reach, reach + 1), 0).astype(np.int32)


def roll_rows(audio: np.ndarray, num_samples: np.ndarray, shifts: np.ndarray) -> None:
    """Rolls the first num_samples[i] of each row of audio [batch, samples] by shifts[i], in place.

    What follows them is written anew by `reflect_end`.
    """
    for i in np.flatnonzero(shifts):
        row, length = audio[i], int(num_samples[i])
        row[:length] = np.roll(row[:length], shifts[i])
        reflect_end(row, length)


def reflect_end(row: np.ndarray, samples: int) -> None:
    """Writes after the first `samples` of `row` their reflection, as far as a frame reaches.

    So the last frames before a clip's end are those of the clip alone, whose end the front end
    reflects; zeros there would be a click.
    """
    length = min(REFLECTED_SAMPLES, len(row) - samples, samples - 2)
    if length > 0:
        row[samples : samples + length] = row[samples - 2 : samples - 2 - length : -1]
