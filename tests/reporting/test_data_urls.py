"""Spectrograms that go into a page, and the times below them."""

import io

import matplotlib.image
import numpy as np
import pytest

from psl_jax.reporting import audio_examples


def test_a_tone_stands_in_its_time_in_the_picture():
    """Silence, then a tone of 1 kHz: the picture is dark up to its middle."""
    audio = np.zeros(32_000, np.int16)
    audio[16_000:] = 8000 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    decibel, column_seconds = audio_examples.spectrogram_of(audio)
    picture = io.BytesIO(audio_examples.png(decibel, column_seconds))
    pixels = matplotlib.image.imread(picture, format="png")[..., :3].sum(axis=2)
    assert pixels.shape[1] == len(decibel)
    column = pixels.max(axis=0)
    middle = len(column) // 2
    assert column[: middle - 3].max() < 1 < 2 < column[middle + 3 :].min()
    rows = pixels[:, middle + 10 :].argmax(axis=0)
    assert np.ptp(rows) <= 2  # one frequency


@pytest.mark.parametrize(
    ("seconds", "last"), [(0.4, 0.4), (1.0, 1.0), (10.0, 10), (29.9, 25), (1800.0, 1800)]
)
def test_ticks_are_few_and_inside(seconds, last):
    ticks = audio_examples.ticks(seconds)
    assert ticks[0] == 0 and ticks[-1] == pytest.approx(last) and len(ticks) <= 7
