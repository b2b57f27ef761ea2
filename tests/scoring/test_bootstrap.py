import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psl_jax import UserError
from psl_jax.scoring import bootstrap, metrics


def random_case(seed, clips=40, classes=5, ties=False):
    rng = np.random.default_rng(seed)
    truth = rng.random((clips, classes)) < 0.3
    truth[0] = True
    scores = rng.normal(size=(clips, classes)) + truth
    return truth, scores.round(1) if ties else scores


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
)
def test_a_resample_is_the_map_of_its_clips_repeated(seed, clips, classes, ties, unknown):
    truth, scores = random_case(seed, clips, classes, ties)
    truth = truth.astype(np.int8)
    truth[np.random.default_rng(seed + 1).random(truth.shape) < unknown] = -1
    drawn = bootstrap.draw_counts(clips, 6, seed)
    assert (drawn.sum(axis=1) == clips).all()
    found = bootstrap.compute_resampled_maps(truth, scores, drawn)
    for value, counts in zip(found, drawn, strict=True):
        chosen = np.repeat(np.arange(clips), counts)
        if np.isnan(value):
            with pytest.raises(UserError):
                metrics.mean_average_precision(truth[chosen], scores[chosen])
            continue
        expected = metrics.mean_average_precision(truth[chosen], scores[chosen])
        assert value == pytest.approx(expected, abs=1e-12)


def test_what_is_the_same_is_not_told_apart():
    truth, scores = random_case(3)
    assert bootstrap.compute_difference([(truth, [scores], [scores])]) == (0.0, 0.0, 0.0)
    far = bootstrap.compute_difference([(truth, [truth * 1.0], [-scores])])
    assert far.low > 0


def test_other_clips_are_refused():
    truth, scores = random_case(0)
    with pytest.raises(UserError, match="not of the same clips"):
        bootstrap.compute_resampled_maps(truth, scores[:-1], bootstrap.draw_counts(40, 2, 0))


def test_clips_and_seeds_are_drawn_together():
    """Against resamples one by one, of rows repeated, with numbers drawn by another generator."""
    truth, base = random_case(0, clips=50)
    noise = np.random.default_rng(1)
    names = {"ours": 1.0, "weak": 2.0}
    scores = {
        n: [base + s * noise.normal(size=base.shape) for _ in range(3)] for n, s in names.items()
    }

    def gains(rows):
        means = [
            [metrics.mean_average_precision(truth[rows], s[rows]) for s in scores[name]]
            for name in names
        ]
        return np.subtract(*means)

    rng = np.random.RandomState(5)
    resampled = []
    for _ in range(1000):
        each = gains(rng.randint(0, 50, 50))
        drawn = each[rng.randint(0, 3, 3)].mean()
        resampled.append(each.mean() + np.sqrt(3 / 2) * (drawn - each.mean()))
    difference = gains(np.arange(50)).mean()
    low, high = np.percentile(resampled, [2.5, 97.5]) + difference - np.mean(resampled)
    found = bootstrap.compute_difference([(truth, *scores.values())])
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def test_seeds_that_vary_widen_the_interval():
    """With all clips alike only the seeds are left: their spread is that of their mean."""
    truth, scores = random_case(2, clips=30)
    rng = np.random.default_rng(3)
    other = [scores + rng.normal(size=scores.shape) for _ in range(4)]
    alike = bootstrap.compute_difference([(truth, [scores] * 4, [-scores] * 4)])
    assert alike == bootstrap.compute_difference([(truth, [scores], [-scores])])
    varied = bootstrap.compute_difference([(truth, other, [-scores] * 4)])
    assert varied.high - varied.low > alike.high - alike.low
    drawn = bootstrap._resample_seeds(np.tile([[0.0], [1.0], [5.0]], 100_000))
    assert drawn.std() == pytest.approx(np.std([0, 1, 5], ddof=1) / np.sqrt(3), rel=0.01)
