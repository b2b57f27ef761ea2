"""Soft labels made otherwise than in the paper, against plain computations."""

import itertools

import numpy as np
import pytest
from synthetic_data import MemorySource, make_audio, make_index

from psl_jax.audio.segments import Segmentation
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import label_windows, relabeling
from psl_jax.scoring.relabeling import TaughtBy

LENGTHS = [48_000, 16_000, 17_000, 30_500, 7_000, 40_001]  # samples


@pytest.fixture
def index():
    return make_index([4, 2], LENGTHS, [[0], [1, 2], [], [2], [0, 3], [1]], num_classes=4)


class FakeScorer:
    """Gives each window of each clip, or each of its frames, random probabilities.

    And remembers what it heard.
    """

    def __init__(self, windows: int, seconds: float, frames: tuple[int, ...] = ()):
        shape = len(LENGTHS), windows, *frames, 4
        self.scores = np.random.default_rng(0).random(shape, np.float32)
        self.heard: dict[tuple[int, int], np.ndarray] = {}
        self.seconds = seconds

    def fitting(self, batch_size, seconds):
        assert seconds == self.seconds
        return batch_size

    def __call__(self, feed):
        for batch in feed:
            real = batch["weight"] > 0
            rows = {name: value[real] for name, value in batch.items()}
            for clip, window, audio in zip(
                *map(rows.get, ("clip", "segment", "audio")), strict=True
            ):
                self.heard[int(clip), int(window)] = audio.copy()
            yield rows, self.scores[rows["clip"], rows["segment"]]


def relabeled(index, folder, seconds=1.0, shortest=0.5, hop=None, **rule):
    rule, segmentation = LabelRule(**rule), Segmentation(seconds, hop, shortest)
    frames = (int(rule.heard * 16_000 // 5120 + 1),) if rule.heard else ()
    scorer, source = FakeScorer(40, rule.heard or seconds, frames), MemorySource(index)
    relabeling.relabel(
        scorer,
        source,
        segmentation,
        folder,
        teacher=TaughtBy("t"),
        batch_size=5,
        file_format="npz",
        rule=rule,
    )
    labels = SoftLabels.open(folder, index, segmentation, "t", rule)
    return labels.gather(np.arange(len(index))), scorer


@pytest.mark.parametrize("overlap", [0.5, 0.75, 0.3])
def test_overlapping_windows_are_averaged_by_what_they_share(index, tmp_path, overlap):
    found, scorer = relabeled(index, tmp_path, overlap=overlap)
    clips = make_audio(index)
    hop = round((1 - overlap) * 16_000)
    for clip, length in enumerate(LENGTHS):
        starts = [start for c, w in scorer.heard if c == clip for start in [w * hop]]
        for window, start in enumerate(starts):  # what was scored is that part of the clip
            audio = clips[clip][start : start + 16_000]
            np.testing.assert_array_equal(scorer.heard[clip, window][: len(audio)], audio)
        covered = np.zeros(length, int)
        for start in starts:
            covered[start : start + 16_000] += 1
        assert covered[: length - 8_000].all()  # all but a remainder under half a second
        for segment, begin in enumerate(range(0, max(length - 8_000, 0) + 1, 16_000)):
            samples = set(range(begin, min(begin + 16_000, length)))
            total, weight = np.zeros(4), 0
            for window, start in enumerate(starts):
                shared = len(samples & set(range(start, min(start + 16_000, length))))
                total += shared * scorer.scores[clip, window].astype(float)
                weight += shared
            np.testing.assert_allclose(found[clip, segment], total / weight, atol=5e-4)  # float16
        assert not found[clip, segment + 1 :].any()


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("heard", [1.0, 1.44])
@pytest.mark.parametrize(
    ("seconds", "shortest", "step"),
    [(1.0, 0.5, 1.0), (1.0, 0.0, None), (1.0, 0.5, 0.5), (0.32, 0.5, None), (0.1, 0.5, None)],
)
def test_frames_are_averaged_by_what_they_share(
    index, tmp_path, overlap, heard, seconds, shortest, step
):
    """Sample by sample: the frame whose middle is nearest, of each window that hears it."""
    cut = seconds, shortest, step
    found, scorer = relabeled(index, tmp_path, *cut, overlap=overlap, heard=heard)
    size, hop = round(heard * 16_000), round((1 - overlap) * heard * 16_000)
    counts = Segmentation(seconds, step, shortest).counts(index.num_samples)
    for clip, length in enumerate(LENGTHS):
        total, times = np.zeros((length, 4)), np.zeros(length)
        for window in (w for c, w in scorer.heard if c == clip):
            here = np.arange(window * hop, min(window * hop + size, length))
            frames = (here - here[0] + 2560) // 5120  # of several hundred samples at the end none
            frames = np.minimum(frames, (len(here) - len(here) % 160) // 5120)
            total[here] += scorer.scores[clip, window, frames]
            times[here] += 1
        long, apart = round(seconds * 16_000), round((step or seconds) * 16_000)
        for segment in range(counts[clip]):
            part = slice(segment * apart, min(segment * apart + long, length))
            assert times[part].sum() > 0
            expected = total[part].sum(axis=0) / times[part].sum()
            np.testing.assert_allclose(found[clip, segment], expected, atol=5e-4)  # float16
        assert not found[clip, counts[clip] :].any()


def test_windows_are_averaged_where_segments_overlap_as_they_do(index, tmp_path):
    """Segments half a second apart, and windows as far: a label is the mean of three."""
    found, scorer = relabeled(index, tmp_path, hop=0.5, overlap=0.5)
    rows = scorer.scores[0, :5].astype(float)  # of a clip of 3 s
    weights = np.eye(5) + 0.5 * (np.eye(5, k=1) + np.eye(5, k=-1))
    expected = weights @ rows / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[0, :5], expected, atol=5e-4)


def test_no_more_than_the_longest_clip_is_heard():
    rule = LabelRule(heard=60.0, overlap=0.5)
    assert label_windows.windows_of(Segmentation(2.0), rule, 10.0) == Segmentation(10.0, 5.0, 0.5)
    assert label_windows.windows_of(Segmentation(2.0), rule, 0.5) == Segmentation(2.0, 1.0, 0.5)
    assert label_windows.windows_of(Segmentation(2.0), LabelRule(), 10.0) == Segmentation(2.0)


def test_frames_of_padding_cannot_count():
    with pytest.raises(UserError, match=r"heard is 2 and relabel\.count_padding is true"):
        label_windows.check(Segmentation(2.0), LabelRule(heard=2.0, count_padding=True))


def test_what_is_heard_is_no_less_than_a_segment():
    with pytest.raises(UserError, match="heard is 1 s, less than a segment of 2 s"):
        label_windows.check(Segmentation(2.0), LabelRule(heard=1.0))
    label_windows.check(Segmentation(2.0), LabelRule(heard=2.0))


def test_without_overlap_labels_are_the_scores(index, tmp_path):
    found, scorer = relabeled(index, tmp_path)
    counts = Segmentation(1.0).counts(index.num_samples)
    for clip, count in enumerate(counts):
        np.testing.assert_array_equal(found[clip, :count], np.float16(scorer.scores[clip, :count]))


# --- weak labels as a prior ----------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "recall"), [(0.5, 0.7), (2.0, 0.7), (4.0, 0.2)])
def test_the_prior_is_bayes_rule(strength, recall):
    """Counting a large number of imagined segments, some of which sound and are labelled."""
    for p, labelled in itertools.product([0.02, 0.3, 0.9], [1, 0]):
        false = recall * np.exp(-strength)
        share = {1: (recall, false), 0: (1 - recall, 1 - false)}[labelled]
        sounds, silent = 1e6 * p * share[0], 1e6 * (1 - p) * share[1]
        weak = np.array([labelled, 1])  # another class is labelled
        found = relabeling.with_prior(np.array([p, 0.5]), weak, strength, recall)[0]
        assert found == pytest.approx(sounds / (sounds + silent), rel=1e-9)
        assert found > p if labelled else found < p


def test_what_the_prior_leaves_alone():
    rng = np.random.default_rng(0)
    p, weak = rng.random((5, 3, 4), np.float32), rng.integers(0, 2, (5, 1, 4))
    np.testing.assert_allclose(relabeling.with_prior(p, weak, 0.0, 0.7), p, rtol=1e-6)
    weak[2] = 0  # a clip that nobody labelled
    found = relabeling.with_prior(p, weak, 3.0, 0.7)
    assert found.dtype == np.float32 and found.shape == p.shape
    np.testing.assert_allclose(found[2], p[2], rtol=1e-6)
    assert not np.allclose(found[:2], p[:2], atol=0.01)
    sure = np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    np.testing.assert_array_equal(
        relabeling.with_prior(sure, np.array([1, 0, 0, 1]), 20.0, 0.7), sure
    )


def test_a_missing_label_never_counts_for_more_than_labels_are_complete():
    odds = relabeling.with_prior(np.array([0.5, 0.5]), np.array([0, 1]), 20.0, 0.7)[0]
    assert odds / (1 - odds) == pytest.approx(0.3, rel=1e-6)
