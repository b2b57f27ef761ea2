"""Spectrograms as pictures."""

import io

import matplotlib.image
import numpy as np

from psl_jax.tagging import spectrogram


def test_a_tone_stands_in_its_time_in_the_picture():
    """Silence, then a tone of 1 kHz: the picture is dark up to its middle."""
    audio = np.zeros(32_000, np.int16)
    audio[16_000:] = 8000 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    picture = io.BytesIO(spectrogram.draw_png(audio))
    pixels = matplotlib.image.imread(picture, format="png")[..., :3].sum(axis=2)
    column = pixels.max(axis=0)
    middle = len(column) // 2
    assert column[: middle - 3].max() < 1 < 2 < column[middle + 3 :].min()
    rows = pixels[:, middle + 10 :].argmax(axis=0)
    assert np.ptp(rows) <= 2  # one frequency
