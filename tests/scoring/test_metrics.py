"""Metrics against scikit-learn and against plain loops."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from psl_jax.runtime.errors import UserError
from psl_jax.scoring import metrics


def random_case(seed, clips=60, classes=7, levels=12, density=0.25, dtype=np.float32):
    """Scores on few levels (many ties); the first class has no positive, the last no negative."""
    rng = np.random.default_rng(seed)
    truth = rng.random((clips, classes)) < density
    truth[:, 0], truth[:, -1] = False, True
    scores = (rng.integers(0, levels, (clips, classes)) / levels).astype(dtype)
    return truth, scores


def reference_ap(truth, scores):
    return np.array(
        [
            sklearn_metrics.average_precision_score(t, s) if t.any() else np.nan
            for t, s in zip(truth.T, scores.T, strict=True)
        ]
    )


def reference_auc(truth, scores):
    return np.array(
        [
            sklearn_metrics.roc_auc_score(t, s) if t.any() and not t.all() else np.nan
            for t, s in zip(truth.T, scores.T, strict=True)
        ]
    )


def roc_auc(truth, scores):
    rows = metrics.tabulate_classes(truth, scores, range(np.shape(truth)[1]))
    return np.array([auc for _, _, auc, _ in rows], float)


def test_unknown_labels_are_left_out_class_by_class():
    rng = np.random.default_rng(0)
    truth, scores = rng.random((60, 7)) < 0.4, rng.integers(0, 12, (60, 7)) / 12
    truth[:, -1] = True
    labels = np.where(rng.random(truth.shape) < 0.4, -1, truth.astype(int))
    known = [labels[:, c] >= 0 for c in range(labels.shape[1])]
    columns = [(truth[k][:, [c]], scores[k][:, [c]]) for c, k in enumerate(known)]
    expected = np.array(
        [np.nan if t.all() else reference_ap(t, s)[0] for t, s in columns]
    )  # the last class has no negative
    np.testing.assert_allclose(metrics.average_precision(labels, scores), expected, atol=1e-6)
    expected_auc = [reference_auc(t, s)[0] for t, s in columns]
    np.testing.assert_allclose(roc_auc(labels, scores), expected_auc, atol=1e-6)
    summary = metrics.summarize(labels, scores, range(len(labels)))
    assert summary["mAP"] == pytest.approx(np.nanmean(expected))
    assert summary["num_unknown_labels"] == (labels < 0).sum()
    # A class that is unknown in a clip can be anywhere in its ranking.
    hidden = np.where(labels < 0, scores.min() - 1, scores)
    assert metrics.lwlrap(labels, scores) == pytest.approx(metrics.lwlrap(labels > 0, hidden))


def test_half_precision_is_exact():
    truth, scores = random_case(3, levels=8)  # eighths are exact in float16
    found = metrics.average_precision(truth, scores.astype(np.float16))
    np.testing.assert_allclose(found, reference_ap(truth, scores), atol=1e-12)


cases = st.tuples(st.integers(1, 25), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(bool, shape), hnp.arrays(np.int8, shape, elements=st.integers(-3, 3))
    )
)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_any_case_is_scikit_learns(case):
    truth, scores = case[0], case[1].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of the very cases we test
        expected = reference_ap(truth, scores), reference_auc(truth, scores)
    np.testing.assert_allclose(metrics.average_precision(truth, scores), expected[0], atol=1e-6)
    np.testing.assert_allclose(roc_auc(truth, scores), expected[1], atol=1e-6)


@pytest.mark.parametrize("levels", [2, 10**6])
def test_lwlrap(levels, monkeypatch):
    monkeypatch.setattr(metrics, "_PAIRS_AT_ONCE", 7)
    truth, scores = random_case(0, clips=25, levels=levels, dtype=np.float64)
    truth[:5, -1] = False
    got = metrics.lwlrap(truth, scores)
    labelled = truth.any(axis=1)
    sklearn_form = sklearn_metrics.label_ranking_average_precision_score(
        truth[labelled], scores[labelled], sample_weight=truth[labelled].sum(axis=1)
    )
    assert got == pytest.approx(sklearn_form, abs=1e-12)


@pytest.mark.parametrize("levels", [3, 10**6])
def test_map_at_3_is_the_ranking_precision_of_scikit_learn_down_to_rank_3(levels):
    """Of one label a clip the label-ranking average precision is 1/rank, ties ranked above."""
    rng = np.random.default_rng(levels)
    truth, scores = np.eye(7)[rng.integers(0, 7, 40)], rng.integers(0, levels, (40, 7))
    one_by_one = [
        sklearn_metrics.label_ranking_average_precision_score(truth[i : i + 1], scores[i : i + 1])
        for i in range(len(truth))
    ]
    expected = np.mean([value if value > 0.3 else 0 for value in one_by_one])  # 1/3, and not 1/4
    assert metrics.map_at_3(truth, scores) == pytest.approx(expected)


def test_map_at_3_refuses_several_labels():
    truth = np.eye(4)
    truth[2, 0] = 1
    with pytest.raises(UserError, match=r"exactly one label.*number 2"):
        metrics.map_at_3(truth, np.zeros((4, 4)))


def test_d_prime():
    expected = {0.5: 0, 0.973: 2.7249, 0: -7.3527, 1: 7.3527}
    assert {auc: metrics.d_prime(auc) for auc in expected} == pytest.approx(expected, abs=1e-3)
    assert metrics.d_prime(0.2) == pytest.approx(-metrics.d_prime(0.8))


def test_summary():
    truth, scores = random_case(1)
    ids = [f"-clip{i}" for i in range(len(truth))]
    summary = metrics.summarize(truth.astype(np.float32), scores, ids)
    assert summary["mAP"] == pytest.approx(np.nanmean(reference_ap(truth, scores)), abs=1e-6)
    assert summary["AUC"] == pytest.approx(np.nanmean(reference_auc(truth, scores)), abs=1e-6)
    assert summary["d_prime"] == metrics.d_prime(summary["AUC"])
    assert summary["lwlrap"] == metrics.lwlrap(truth, scores)
    assert (summary["num_clips"], summary["num_classes_scored"]) == (60, 6)
    assert summary["num_classes_without_positives"] == 1


def test_single_clip():
    summary = metrics.summarize([[1, 0, 1]], [[0.9, 0.5, 0.1]], ["only"])
    assert (summary["mAP"], summary["AUC"], summary["d_prime"]) == (1.0, None, None)
    assert summary["lwlrap"] == pytest.approx((1 + 2 / 3) / 2)
    assert (summary["num_classes_scored"], summary["num_classes_without_positives"]) == (2, 1)


def test_what_cannot_be_scored_is_an_error():
    with pytest.raises(UserError, match="None of the 3 classes"):
        metrics.summarize(np.zeros((2, 3)), np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(UserError, match="None of the 3 classes"):
        metrics.summarize(np.zeros((0, 3)), np.zeros((0, 3)), [])
    with pytest.raises(UserError, match="no clip has any"):
        metrics.lwlrap(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_name_the_clip(bad):
    truth, scores = random_case(1)
    scores[[7, 9], 2] = bad
    ids = [f"clip{i}" for i in range(60)]
    for call in (metrics.summarize, lambda t, s, i: metrics.tabulate_classes(t, s, "abcdefg", i)):
        with pytest.raises(UserError, match=r"'clip7'.* 1 other"):
            call(truth, scores, ids)
    with pytest.raises(UserError, match="number 7"):
        metrics.average_precision(truth, scores)


def test_wrong_shapes_and_soft_truth():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        metrics.average_precision(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="0 or 1"):
        metrics.average_precision(np.full((2, 3), 0.5), np.zeros((2, 3)))


def test_per_class_rows():
    truth = np.array([[1, 0, 1], [0, 0, 1]])
    rows = metrics.tabulate_classes(
        truth, np.array([[0.9, 0.1, 0.4], [0.2, 0.3, 0.4]]), ["a", 'b,"', "c"]
    )
    assert rows == [("a", 1.0, 1.0, 1), ('b,"', None, None, 0), ("c", 1.0, None, 2)]
    assert len(rows[0]) == len(metrics.PER_CLASS_HEADER)


def test_label_statistics():
    soft = np.zeros((4, 3, 5), np.float16)
    soft[0, 0, 0] = soft[0, 2, 1] = 0.9  # two labels, in different segments
    soft[1, 1, 2] = 0.5  # not above the threshold
    soft[2, 1, 3] = 0.8  # past the end of the clip
    soft[3, 0, 4] = soft[3, 1, 4] = 0.7  # one label, twice
    weak = np.zeros((4, 5), np.float32)
    weak[0, [0, 2]] = weak[1, 2] = weak[3, 4] = 1
    result = metrics.summarize_labels(metrics.count_labels(soft, np.array([3, 3, 1, 2]), weak))
    assert result["labels_per_clip"] == {"soft": [2, 1, 1], "weak": [1, 2, 1]}
    assert result["share_without_labels"] == {"soft": 0.5, "weak": 0.25}
    assert result["mean_labels"] == {"soft": 0.75, "weak": 1.0}
    assert result["num_clips"] == 4
    assert result["coverage"]["clips"] == [1, 0, 1, 0, 0, 1]  # 0, one half, 1
    assert result["coverage"]["num_clips"] == 3
    assert result["coverage"]["mean"] == pytest.approx(0.5)
    with pytest.raises(UserError, match="no clips"):
        metrics.summarize_labels(np.zeros((3, 0), int))
