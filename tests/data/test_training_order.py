"""Which segments training takes, and when: complete, spread as they should be, and the same."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import MemorySource, indices, make_index, segmentations

from psl_jax.audio.segments import Segmentation
from psl_jax.data.clip_index import ragged
from psl_jax.data.segment_loader import Segments
from psl_jax.data.source import SHARDS_AT_ONCE
from psl_jax.data.training_order import SAMPLINGS, ClassQueue, TrainingOrder, clip_weights
from psl_jax.runtime.errors import UserError

SECOND = Segmentation(1.0)
orders = st.sampled_from(
    [("uniform", False), ("uniform", True), ("balanced", False), ("weighted", False)]
)


def taken(order, segments, count, start=0):
    """Numbers of the first segments that an order takes: int64 [count]."""
    batches = order.batches(segments, start)
    size = order.batch_size
    return np.concatenate(list(itertools.islice(batches, -(-count // size))))[:count]


def segments_of(index, segmentation=SECOND):
    return Segments(MemorySource(index, []), segmentation)


@given(indices(), segmentations, orders, st.integers(1, 4), st.integers(1, 7), st.integers(0, 30))
def test_an_order_goes_on_from_any_step(index, segmentation, kind, processes, size, start):
    segments = segments_of(index, segmentation)
    order = TrainingOrder(size, 3, *kind, processes - 1, processes)
    whole = taken(order, segments, size * (start + 5))[size * start :]
    np.testing.assert_array_equal(taken(order, segments, size * 5, start), whole)


@given(indices(), segmentations, st.booleans(), st.integers(1, 9), st.integers(1, 6))
def test_processes_share_each_uniform_epoch_and_only_fill_it_up(
    index, segmentation, streamed, size, count
):
    segments = segments_of(index, segmentation)
    orders = [TrainingOrder(size, 5, "uniform", streamed, number, count) for number in range(count)]
    length = orders[0].epoch_size(segments)
    shares = np.stack([taken(order, segments, 3 * length) for order in orders], axis=1)
    for epoch in shares.reshape(3, length * count):
        assert set(epoch.tolist()) == set(range(len(segments)))
    assert 0 <= count * length - len(segments) < count


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_batch_of_all_processes_is_one_of_a_single_process(sampling):
    """Dealt one by one; in the last batches of a uniform epoch processes may share a segment."""
    segments = segments_of(large_index(clips=1000))
    alone = taken(TrainingOrder(32, 1, sampling), segments, 960)
    shares = [
        taken(TrainingOrder(8, 1, sampling, False, process, 4), segments, 240)
        for process in range(4)
    ]
    np.testing.assert_array_equal(np.stack(shares, axis=1).ravel(), alone)


def test_other_seeds_and_epochs_give_other_orders():
    segments = segments_of(make_index([10] * 5, 48_000))
    for kind in (("uniform", False), ("uniform", True), ("balanced",), ("weighted",)):
        epochs = [
            tuple(epoch)
            for seed in range(3)
            for epoch in taken(TrainingOrder(5, seed, *kind), segments, 450).reshape(3, 150)
        ]
        assert len(set(epochs)) == 9


def test_a_streamed_epoch_takes_shards_about_one_after_the_other():
    """No more clips wait than two groups of shards have, and a batch has segments of many."""
    index = make_index([20] * (6 * SHARDS_AT_ONCE), 80_000)
    segments = segments_of(index)
    numbers = taken(TrainingOrder(1, 0, streamed=True), segments, len(segments))
    clips, _ = segments.places(numbers)
    first, last = (
        np.array([np.flatnonzero(clips == clip)[edge] for clip in range(len(index))])
        for edge in (0, -1)
    )
    waiting = [((first <= place) & (place <= last)).sum() for place in range(0, len(numbers), 50)]
    assert max(waiting) < 2 * 20 * SHARDS_AT_ONCE
    batch = index.shard_of(clips[1000:1064])
    assert len(set(batch.tolist())) >= SHARDS_AT_ONCE / 2


@given(indices(), st.integers(1, 60), st.integers(0, 3))
def test_class_queue_draws_are_those_of_the_queue(index, count, seed):
    """One label a clip: then the queue fixes each clip's draws to within one and one round."""
    single = make_index(
        index.shard_sizes,
        index.num_samples,
        [index.label_values[a:b][:1].tolist() for a, b in itertools.pairwise(index.label_offsets)],
        index.num_classes,
    )
    drawn = ClassQueue(single, seed).clips(np.arange(count))
    counts = np.bincount(drawn, minlength=len(single))
    labels = single.weak_labels().astype(bool)
    labels = np.concatenate([labels, ~labels.any(axis=1, keepdims=True)], axis=1)
    per_class = [counts[column] for column in labels.T if column.any()]
    totals = [c.sum() for c in per_class]
    assert max(totals) - min(totals) <= 1
    assert all(c.max() - c.min() <= 1 for c in per_class)
    # A round holds each class once.
    of_clip = labels.argmax(axis=1)
    classes = len(totals)
    for first in range(0, count - classes + 1, classes):
        assert len(set(of_clip[drawn[first : first + classes]].tolist())) == classes
    some = np.random.default_rng(seed).integers(0, count, 20)  # in any order
    np.testing.assert_array_equal(ClassQueue(single, seed).clips(some), drawn[some])


def test_each_class_takes_each_of_its_clips_once_before_any_again():
    """Several labels a clip, or none, which is a class, too; counts after whole queues of all."""
    labels = [[0, 1], [0], [1, 2], [2], [0, 2], [], [], [0], [3, 1]]
    index = make_index([9], 16_000, labels, num_classes=5)  # of one class there is no clip
    members = [[clip for clip, of_clip in enumerate(labels) if c in of_clip] for c in range(4)]
    members.append([5, 6])
    rounds = math.lcm(*map(len, members))
    for seed in range(3):
        drawn = ClassQueue(index, seed).clips(np.arange(rounds * len(members)))
        expected = [sum(rounds // len(of) for of in members if c in of) for c in range(9)]
        assert np.bincount(drawn).tolist() == expected


def test_a_class_goes_on_with_its_clips_in_the_next_epoch():
    """1,000 clips of a class with 118 draws an epoch: 3 or 4 draws of each in 30 epochs."""
    classes, rare = 10, 1000
    labels = [[0]] * rare + [[1 + i % (classes - 1)] for i in range(180)]
    index = make_index([1180], 16_000, labels, num_classes=classes)
    segments = segments_of(index)
    clips, _ = segments.places(taken(TrainingOrder(59, 2, "balanced"), segments, 30 * 1180))
    counts = np.bincount(clips, minlength=1180)[:rare]
    assert counts.sum() == 30 * 118
    assert set(counts.tolist()) == {3, 4}


def test_clips_of_which_nothing_is_known_are_not_drawn():
    labels = [[0], [1], [], []]
    index = make_index([4], 16_000, labels, num_classes=2)
    offsets, values = ragged([[], [0], [0, 1], [1]])  # nothing of clip 2; no class 0 in clip 3
    index = dataclasses.replace(index, unknown_offsets=offsets, unknown_values=values)
    drawn = ClassQueue(index, 0).clips(np.arange(30))
    np.testing.assert_array_equal(np.bincount(drawn), [10, 10, 0, 10])
    assert (clip_weights(index) > 0).tolist() == [True, True, False, True]


def test_weighted_draws_follow_the_weights():
    labels = [[0]] * 300 + [[0, 1]] * 20 + [[]] * 5
    index = make_index([325], 16_000, labels, num_classes=2)
    weights = clip_weights(index)
    np.testing.assert_allclose(weights[0], 1000 / 420)
    np.testing.assert_allclose(weights[310], 1000 / 420 + 1000 / 120)
    np.testing.assert_allclose(weights[320], 1000 / 105)
    clips = taken(TrainingOrder(25, 0, "weighted"), segments_of(index), 40 * 325)
    share = np.mean((clips >= 300) & (clips < 320))
    expected = weights[300:320].sum() / weights.sum()
    assert abs(share - expected) < 4.5 * np.sqrt(expected / len(clips))


@pytest.mark.parametrize("sampling", ["balanced", "weighted"])
def test_segments_of_drawn_clips_are_uniform(sampling):
    segments = segments_of(make_index([4], 16_000 * 5))
    _, numbers = segments.places(taken(TrainingOrder(10, 0, sampling), segments, 4000))
    assert np.abs(np.bincount(numbers, minlength=5) - 800).max() < 4.5 * np.sqrt(800)


def test_what_cannot_be_drawn_is_a_plain_error():
    unlabelled = segments_of(make_index([3], 16_000, [[], [], []]))
    for name in ("balanced", "weighted"):
        with pytest.raises(UserError, match="no labels"):
            next(TrainingOrder(2, 0, name).batches(unlabelled))
    with pytest.raises(UserError, match="no clips"):
        next(TrainingOrder(2, 0).batches(segments_of(make_index([0], 16_000))))


def large_index(classes: int = 60, clips: int = 40_000):
    """As AudioSet's labels are: few classes with many clips, many with few; the rarest 12."""
    rng = np.random.default_rng(0)
    frequency = np.maximum(0.4 * np.arange(1, classes + 1) ** -1.2, 12 / clips)
    labels = [np.flatnonzero(rng.random(classes) < frequency).tolist() or [0] for _ in range(clips)]
    return make_index([250] * (clips // 250), 160_000, labels, num_classes=classes)
