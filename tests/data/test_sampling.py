import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import indices, make_index, segmentations

from psl_jax.audio.segments import Segmentation
from psl_jax.data import sampling
from psl_jax.data.sampling import epoch_size, epoch_windows, sequential_windows
from psl_jax.runtime.errors import UserError

SECOND = Segmentation(1.0)
samplings = st.sampled_from(sampling.SAMPLINGS)


def pairs(windows) -> list[tuple[int, int]]:
    """(clip, segment) of all entries, in order."""
    return [
        (int(window.clips[position]), int(segment))
        for window in windows
        for position, segment in window.entries
    ]


def all_pairs(index, segmentation) -> list[tuple[int, int]]:
    counts = segmentation.counts(index.num_samples)
    return [(clip, segment) for clip, count in enumerate(counts) for segment in range(count)]


def queue_of_classes(index, draws: int, rng) -> np.ndarray:
    """The class queue as PANNs describe it, one draw at a time: draws of each clip."""
    label_clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    clips = {c: label_clip[index.label_values == c] for c in set(index.label_values.tolist())}

    def endless(items):
        while True:
            yield from rng.permutation(items)

    classes = endless(sorted(clips))
    queues = {c: endless(members) for c, members in clips.items()}
    drawn = [next(queues[c]) for c in itertools.islice(classes, draws)]
    return np.bincount(drawn, minlength=len(index))


@given(indices(), segmentations, st.integers(0, 9), st.integers(1, 40))
def test_uniform_epoch_holds_every_segment_once(index, segmentation, seed, window_clips):
    windows = epoch_windows(index, segmentation, seed=seed, epoch=0, window_clips=window_clips)
    assert sorted(pairs(windows)) == all_pairs(index, segmentation)
    assert epoch_size(index, segmentation) == len(pairs(windows))


@given(indices(), segmentations, samplings, st.integers(1, 5), st.integers(1, 12))
def test_windows_are_bounded_and_consistent(index, segmentation, name, processes, window_clips):
    counts = segmentation.counts(index.num_samples)
    for process in range(processes):
        windows = epoch_windows(
            index,
            segmentation,
            seed=1,
            epoch=2,
            sampling=name,
            window_clips=window_clips,
            process_index=process,
            process_count=processes,
        )
        assert sum(len(w.entries) for w in windows) == epoch_size(index, segmentation, processes)
        for window in windows:
            assert 0 < len(window.clips) <= window_clips
            assert len(set(window.clips.tolist())) == len(window.clips)
            assert set(window.entries[:, 0].tolist()) == set(range(len(window.clips)))
            assert (window.entries[:, 1] < counts[window.clips[window.entries[:, 0]]]).all()
            shards = np.searchsorted(index.shard_offsets, window.clips, side="right") - 1
            assert [k for k, _ in itertools.groupby(shards)] == window.shards.tolist()


@given(indices(), segmentations, st.integers(1, 6))
def test_processes_are_complete_and_disjoint_but_for_filling(index, segmentation, processes):
    seen = [
        pairs(
            epoch_windows(
                index,
                segmentation,
                seed=5,
                epoch=1,
                process_index=process,
                process_count=processes,
            )
        )
        for process in range(processes)
    ]
    size = epoch_size(index, segmentation, processes)
    assert [len(s) for s in seen] == [size] * processes
    wanted = all_pairs(index, segmentation)
    assert set(itertools.chain(*seen)) == set(wanted)
    assert processes * size - len(wanted) < processes


@given(indices(), segmentations, samplings)
def test_order_depends_on_seed_and_epoch_alone(index, segmentation, name):
    def order(seed, epoch):
        return pairs(epoch_windows(index, segmentation, seed=seed, epoch=epoch, sampling=name))

    assert order(3, 4) == order(3, 4)
    if len(all_pairs(index, segmentation)) > 12:
        assert len({tuple(order(s, e)) for s, e in [(0, 0), (0, 1), (1, 0), (1, 1)]}) > 1


def test_other_seeds_and_epochs_give_other_orders():
    index = make_index([10] * 5, 48_000)
    orders = {
        tuple(pairs(epoch_windows(index, SECOND, seed=s, epoch=e, window_clips=20)))
        for s in range(3)
        for e in range(3)
    }
    assert len(orders) == 9


def test_a_window_mixes_its_shards_and_shards_are_not_cut_without_need():
    index = make_index([10] * 8, 16_000)
    windows = epoch_windows(index, SECOND, seed=0, epoch=0, window_clips=40)
    assert [len(w.shards) for w in windows] == [4, 4]
    first_half = windows[0].entries[:20, 0] // 10
    assert len(set(first_half.tolist())) == 4


def test_large_shards_are_cut_and_windows_of_long_clips_are_smaller(monkeypatch):
    index = make_index([100], 16_000)
    windows = epoch_windows(index, SECOND, seed=0, epoch=0, window_clips=30)
    assert [len(w.clips) for w in windows] == [25] * 4
    monkeypatch.setattr(sampling, "MAX_WINDOW_BYTES", 10 * 32_000)
    windows = epoch_windows(index, SECOND, seed=0, epoch=0, window_clips=30)
    assert [len(w.clips) for w in windows] == [10] * 10


@given(indices(), st.integers(1, 60), st.integers(0, 3))
def test_class_queue_draws_are_those_of_the_queue(index, draws, seed):
    """One label a clip: then the queue fixes each clip's draws to within one and one round."""
    single = make_index(
        index.shard_sizes,
        index.num_samples,
        [index.label_values[a:b][:1].tolist() for a, b in itertools.pairwise(index.label_offsets)],
        index.num_classes,
    )
    counts = sampling.class_queue_draws(single, draws, np.random.default_rng(seed))
    assert counts.sum() == draws
    labels = single.weak_labels().astype(bool)
    assert not counts[~labels.any(axis=1)].any()
    per_class = [counts[labels[:, c]] for c in range(single.num_classes) if labels[:, c].any()]
    totals = [c.sum() for c in per_class]
    assert max(totals) - min(totals) <= 1
    assert all(c.max() - c.min() <= 1 for c in per_class)


def test_class_queue_draws_have_the_queues_distribution():
    """Several labels a clip: means and spreads over many epochs against the queue itself."""
    rng = np.random.default_rng(0)
    labels = [sorted(set(rng.integers(0, 4, 2).tolist())) if i % 5 else [] for i in range(23)]
    labels[3] = [4]  # a rare class
    index = make_index([23], 16_000, labels, num_classes=6)  # and one without clips
    trials = 600
    ours = np.array([sampling.class_queue_draws(index, 57, rng) for _ in range(trials)])
    theirs = np.array([queue_of_classes(index, 57, rng) for _ in range(trials)])
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / trials) + 1e-9
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / error).max() < 4.5
    assert np.abs(ours.std(axis=0) - theirs.std(axis=0)).max() < 0.1
    assert ours[:, 3].min() >= 11  # 57 draws, five classes


@given(indices(), segmentations, st.sampled_from(["balanced", "weighted"]), st.integers(1, 4))
def test_processes_share_the_draws(index, segmentation, name, processes):
    def drawn(count):
        clips = [
            clip
            for process in range(count)
            for clip, _ in pairs(
                epoch_windows(
                    index,
                    segmentation,
                    seed=1,
                    epoch=0,
                    sampling=name,
                    process_index=process,
                    process_count=count,
                )
            )
        ]
        return np.bincount(clips, minlength=len(index))

    extra = drawn(processes) - drawn(1)
    assert (extra >= 0).all()
    assert extra.sum() < processes
    assert not drawn(1)[np.diff(index.label_offsets) == 0].any()


def test_weighted_draws_follow_the_weights():
    labels = [[0]] * 300 + [[0, 1]] * 20 + [[]] * 5
    index = make_index([325], 16_000, labels, num_classes=2)
    weights = sampling.clip_weights(index)
    np.testing.assert_allclose(weights[0], 1000 / 420)
    np.testing.assert_allclose(weights[310], 1000 / 420 + 1000 / 120)
    assert weights[320] == 0
    clips = [
        clip
        for epoch in range(40)
        for clip, _ in pairs(epoch_windows(index, SECOND, seed=0, epoch=epoch, sampling="weighted"))
    ]
    share = np.mean([300 <= clip < 320 for clip in clips])
    expected = weights[300:320].sum() / weights.sum()
    assert abs(share - expected) < 4.5 * np.sqrt(expected / len(clips))


def test_segments_of_drawn_clips_are_uniform():
    index = make_index([4], 16_000 * 5)
    segments = [
        segment
        for epoch in range(200)
        for _, segment in pairs(
            epoch_windows(index, SECOND, seed=0, epoch=epoch, sampling="balanced")
        )
    ]
    counts = np.bincount(segments, minlength=5)
    assert np.abs(counts - 800).max() < 4.5 * np.sqrt(800)


@given(indices(), segmentations, st.integers(1, 12), st.data())
def test_sequential_windows_keep_index_order(index, segmentation, window_clips, data):
    windows = sequential_windows(index, segmentation, window_clips=window_clips)
    assert pairs(windows) == all_pairs(index, segmentation)
    assert all(len(w.clips) <= window_clips for w in windows)
    count = len(index.shard_sizes)
    shards = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    some = sequential_windows(index, segmentation, window_clips=window_clips, shards=shards)
    owner = np.searchsorted(index.shard_offsets, np.arange(len(index)), side="right") - 1
    kept = [pair for pair in all_pairs(index, segmentation) if owner[pair[0]] in shards]
    assert pairs(some) == kept


def test_what_cannot_be_drawn_is_a_plain_error():
    unlabelled = make_index([3], 16_000, [[], [], []])
    for name in ("balanced", "weighted"):
        with pytest.raises(UserError, match="no labels"):
            epoch_windows(unlabelled, SECOND, seed=0, epoch=0, sampling=name)
    with pytest.raises(UserError, match="'balenced', expected one of uniform, balanced, weighted"):
        epoch_windows(unlabelled, SECOND, seed=0, epoch=0, sampling="balenced")
    with pytest.raises(UserError, match="no clips"):
        epoch_windows(make_index([0], 16_000), SECOND, seed=0, epoch=0)


def test_a_process_plans_only_its_share_of_many_clips():
    index = make_index([1000] * 200, 160_000)
    windows = epoch_windows(
        index, Segmentation(2.0), seed=0, epoch=0, process_index=3, process_count=8
    )
    assert sum(len(w.entries) for w in windows) == 125_000
    assert sum(len(w.shards) for w in windows) <= 25 + 1
