import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from psl_jax import UserError
from psl_jax.scoring.metrics import compute_reliability


def test_reliability_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    scores = rng.random((200, 7)).astype(np.float32) ** 3
    scores[0, :2] = 0.0, 1.0
    truth = rng.random(scores.shape) < scores**2
    found = compute_reliability(truth, scores)
    shares, means = calibration_curve(truth.ravel(), scores.ravel(), n_bins=10)
    np.testing.assert_allclose(found.shares, shares, atol=1e-12)
    np.testing.assert_allclose(found.scores, means, atol=1e-7)
    edges = np.arange(11) / 10
    np.testing.assert_array_equal(found.counts, np.histogram(scores.astype(float), edges)[0])
    weights = found.counts / found.counts.sum()
    assert found.error == pytest.approx((weights * np.abs(shares - means)).sum(), abs=1e-7)


def test_an_empty_bin_counts_for_nothing():
    found = compute_reliability([[1, 0]], [[0.95, 0.05]])
    assert found.counts.tolist() == [1, *[0] * 8, 1]
    assert np.isnan(found.shares[1:-1]).all() and np.isnan(found.scores[1:-1]).all()
    assert found.error == pytest.approx(0.05)


@pytest.mark.parametrize("scores", [[[1.5]], [[-0.1]], [[np.nan]], [[]]])
def test_what_is_no_probability_is_refused(scores):
    with pytest.raises(UserError, match=r"probabilities|no calibration"):
        compute_reliability(np.zeros(np.shape(scores)), scores)
