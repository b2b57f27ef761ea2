"""Shifts of a teacher's logits."""

import numpy as np
import pytest

from psl_jax.scoring import label_rates


def test_a_shift_moves_logits():
    p = np.array([[0.1, 0.5, 0.9]], np.float32)
    odds = p / (1 - p) * [1, 1, 3]
    found = label_rates.shifted(p, np.array([0.0, 0.0, np.log(3)]))
    np.testing.assert_allclose(found, odds / (1 + odds), rtol=1e-5)
    ends = label_rates.shifted(np.array([[0, 1]], np.float32), np.zeros(2))
    assert np.isfinite(ends).all() and ends[0, 0] < 1e-3 and ends[0, 1] > 0.999


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
def test_a_shift_makes_the_mean_the_rate(rate):
    rng = np.random.default_rng(0)
    logits = rng.normal(-4, 2, (500, 3))
    weights = rng.integers(1, 4, 500).astype(float)
    shift = label_rates.fit_shift(logits, weights, np.full(3, rate))
    found = weights @ (1 / (1 + np.exp(-(logits + shift)))) / weights.sum()
    half = 0.5 / weights.sum()
    np.testing.assert_allclose(found, np.clip(rate, half, 1 - half), rtol=1e-6)


def test_quantiles_stand_for_many_rows():
    rng = np.random.default_rng(0)
    logits = rng.normal(-3, 2, (5000, 2))
    rate = np.array([0.05, 0.3])
    exact = label_rates.fit_shift(logits, np.ones(5000), rate)
    np.testing.assert_allclose(
        label_rates.fit_shift(*label_rates.counted(logits), rate), exact, atol=2e-3
    )
