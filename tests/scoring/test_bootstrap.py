import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psl_jax import UserError
from psl_jax.scoring import bootstrap, metrics


def random_case(seed, clips=40, classes=5, ties=False):
    rng = np.random.default_rng(seed)
    truth = rng.random((clips, classes)) < 0.3
    truth[0] = True
    scores = rng.normal(size=(clips, classes)) + truth
    return truth, scores.round(1) if ties else scores


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 4), st.booleans())
def test_a_resample_is_the_map_of_its_clips_repeated(seed, clips, classes, ties):
    truth, scores = random_case(seed, clips, classes, ties)
    drawn = bootstrap.draws(clips, 6, seed)
    assert (drawn.sum(axis=1) == clips).all()
    found = bootstrap.mean_average_precisions(truth, scores, drawn)
    for value, counts in zip(found, drawn, strict=True):
        chosen = np.repeat(np.arange(clips), counts)
        if not truth[chosen].any():
            assert np.isnan(value)
            continue
        expected = metrics.mean_average_precision(truth[chosen], scores[chosen])
        assert value == pytest.approx(expected, abs=1e-12)


def test_intervals_are_those_of_scipy():
    truth, better = random_case(0, clips=60)
    worse = better + np.random.default_rng(1).normal(size=better.shape)

    def difference(rows):
        rows = rows.astype(int)
        means = (metrics.mean_average_precision(truth[rows], s[rows]) for s in (better, worse))
        return next(means) - next(means)

    expected = stats.bootstrap(
        (np.arange(60),), difference, n_resamples=2000, method="percentile", vectorized=False,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    centre = difference(np.arange(60)) - expected.bootstrap_distribution.mean()
    low, high = (value + centre for value in expected.confidence_interval)
    found = bootstrap.differences(truth, {"ours": better, "weak": worse}, "weak")
    assert found.keys() == {"ours"}
    assert found["ours"].low == pytest.approx(low, abs=0.1 * (high - low))
    assert found["ours"].high == pytest.approx(high, abs=0.1 * (high - low))
    assert found["ours"].difference == pytest.approx(difference(np.arange(60)), abs=1e-12)


def test_what_is_the_same_is_not_told_apart():
    truth, scores = random_case(3)
    found = bootstrap.differences(truth, {"a": scores, "weak": scores}, "weak")["a"]
    assert found == (0.0, 0.0, 0.0) and not found.is_told_apart
    far = bootstrap.differences(truth, {"a": truth * 1.0, "weak": -scores}, "weak")["a"]
    assert far.is_told_apart and far.low > 0


def test_other_clips_are_refused():
    truth, scores = random_case(0)
    with pytest.raises(UserError, match="not of the same clips"):
        bootstrap.mean_average_precisions(truth, scores[:-1], bootstrap.draws(40, 2, 0))
