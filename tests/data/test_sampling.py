import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_data import indices, make_index, segmentations

from psl_jax.audio.segments import Segmentation
from psl_jax.data import draws, sampling
from psl_jax.data.sampling import epoch_size, epoch_windows, sequential_windows
from psl_jax.runtime.errors import UserError

SECOND = Segmentation(1.0)


@pytest.fixture(params=[True, False], ids=["permuted", "streamed"])
def either(request, monkeypatch):
    """Splits fit in memory and are permuted as a whole, or do not and are streamed."""
    if not request.param:
        monkeypatch.setattr(sampling, "PERMUTED_BYTES", 0)
    return request.param


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr(sampling, "PERMUTED_BYTES", 0)


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


def queue_of_classes(index, count: int, rng) -> list[int]:
    """The class queue as PANNs describe it, one draw at a time."""
    label_clip = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    clips = {c: label_clip[index.label_values == c] for c in set(index.label_values.tolist())}

    def endless(items):
        while True:
            yield from rng.permutation(items)

    classes = endless(sorted(clips))
    queues = {c: endless(members) for c, members in clips.items()}
    return [next(queues[c]) for c in itertools.islice(classes, count)]


anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(indices(), segmentations, st.integers(0, 9), st.integers(1, 40))
def test_uniform_epoch_holds_every_segment_once(either, index, segmentation, seed, window_clips):
    windows = epoch_windows(index, segmentation, seed=seed, epoch=0, window_clips=window_clips)
    assert sorted(pairs(windows)) == all_pairs(index, segmentation)
    assert epoch_size(index, segmentation) == len(pairs(windows))


@anything
@given(indices(), segmentations, samplings, st.integers(1, 5), st.integers(1, 12))
def test_windows_are_bounded_and_consistent(
    either, index, segmentation, name, processes, window_clips
):
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
            drawn = name != "uniform" or sampling.is_permuted(index, window_clips)
            assert 0 < len(window.clips) <= (sampling.DRAWN_WINDOW if drawn else window_clips)
            position, segment = window.entries.T
            assert set(position.tolist()) == set(range(len(window.clips)))
            assert (segment < counts[window.clips[position]]).all()
            if drawn:  # they are read in the order in which they lie
                assert (np.diff(window.clips) >= 0).all()
            else:  # shards are read one after the other
                assert len(set(window.clips.tolist())) == len(window.clips)
                shards = [k for k, _ in itertools.groupby(index.shard_of(window.clips))]
                assert len(shards) == len(set(shards))
            # What an entry needs is in its row.
            first = segment * segmentation.hop_samples - window.starts[position]
            valid = segmentation.valid_samples(index.num_samples[window.clips[position]], segment)
            assert (first >= 0).all() and (first + valid <= window.capacity[position]).all()


@anything
@given(indices(), segmentations, st.integers(1, 6), st.sampled_from([1, 2048]))
def test_processes_are_complete_and_disjoint_but_for_filling(
    either, index, segmentation, processes, window_clips
):
    seen = [
        pairs(
            epoch_windows(
                index,
                segmentation,
                seed=5,
                epoch=1,
                window_clips=window_clips,
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


def test_other_seeds_and_epochs_give_other_orders(either):
    index = make_index([10] * 5, 48_000)
    orders = {
        tuple(pairs(epoch_windows(index, SECOND, seed=s, epoch=e, window_clips=20)))
        for s in range(3)
        for e in range(3)
    }
    assert len(orders) == 9


def test_a_window_mixes_its_shards_and_shards_are_not_cut_without_need(streamed):
    index = make_index([10] * 8, 16_000)
    windows = epoch_windows(index, SECOND, seed=0, epoch=0, window_clips=40)
    assert [len(set(index.shard_of(w.clips).tolist())) for w in windows] == [4, 4]
    first_half = windows[0].entries[:20, 0] // 10
    assert len(set(first_half.tolist())) == 4


def test_large_shards_are_cut_and_windows_of_long_clips_are_smaller(streamed, monkeypatch):
    index = make_index([100], 16_000)
    windows = epoch_windows(index, SECOND, seed=0, epoch=0, window_clips=30)
    assert [len(w.clips) for w in windows] == [25] * 4
    monkeypatch.setattr(sampling, "MAX_WINDOW_BYTES", 10 * 32_000)
    windows = epoch_windows(index, SECOND, seed=0, epoch=0, window_clips=30)
    assert [len(w.clips) for w in windows] == [10] * 10


def test_one_long_clip_does_not_make_the_windows_of_others_smaller(streamed):
    """A clip of 10 minutes among 20,000 of 5 s: windows are bounded by what they hold."""
    lengths = np.full(20_000, 80_000)
    lengths[7_777] = 9_600_000
    index = make_index([250] * 80, lengths)
    windows = epoch_windows(index, Segmentation(5.0), seed=0, epoch=0)
    assert min(len(window.clips) for window in windows) > 1_500
    held = [2 * int(window.offsets[-1]) for window in windows]
    assert max(held) < sampling.MAX_WINDOW_BYTES
    sequential = sequential_windows(index, Segmentation(5.0))
    assert len(sequential) == 80


@given(indices(), st.integers(1, 60), st.integers(0, 3))
def test_class_queue_draws_are_those_of_the_queue(index, count, seed):
    """One label a clip: then the queue fixes each clip's draws to within one and one round."""
    single = make_index(
        index.shard_sizes,
        index.num_samples,
        [index.label_values[a:b][:1].tolist() for a, b in itertools.pairwise(index.label_offsets)],
        index.num_classes,
    )
    drawn = draws.class_queue(single, count, np.random.default_rng(seed))
    counts = np.bincount(drawn, minlength=len(single))
    assert len(drawn) == count
    labels = single.weak_labels().astype(bool)
    assert not counts[~labels.any(axis=1)].any()
    per_class = [counts[labels[:, c]] for c in range(single.num_classes) if labels[:, c].any()]
    totals = [c.sum() for c in per_class]
    assert max(totals) - min(totals) <= 1
    assert all(c.max() - c.min() <= 1 for c in per_class)
    # A round holds each class once.
    of_clip = labels.argmax(axis=1)
    classes = len(totals)
    for first in range(0, count - classes + 1, classes):
        assert len(set(of_clip[drawn[first : first + classes]].tolist())) == classes


def test_class_queue_draws_have_the_queues_distribution():
    """Several labels a clip: means and spreads over many epochs against the queue itself."""
    rng = np.random.default_rng(0)
    labels = [sorted(set(rng.integers(0, 4, 2).tolist())) if i % 5 else [] for i in range(23)]
    labels[3] = [4]  # a rare class
    index = make_index([23], 16_000, labels, num_classes=6)  # and one without clips
    trials = 600

    def counted(draw):
        return np.array(
            [np.bincount(draw(index, 57, rng), minlength=len(index)) for _ in range(trials)]
        )

    ours, theirs = counted(draws.class_queue), counted(queue_of_classes)
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
    weights = draws.clip_weights(index)
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


def test_a_process_plans_only_its_share_of_many_clips(streamed):
    index = make_index([1000] * 200, 160_000)
    windows = epoch_windows(
        index, Segmentation(2.0), seed=0, epoch=0, process_index=3, process_count=8
    )
    assert sum(len(w.entries) for w in windows) == 125_000
    assert sum(len(set(index.shard_of(w.clips).tolist())) for w in windows) <= 25 + 1


def large_index(classes: int = 60, clips: int = 40_000):
    """As AudioSet's labels are: few classes with many clips, many with few; the rarest 12."""
    rng = np.random.default_rng(0)
    frequency = np.maximum(0.4 * np.arange(1, classes + 1) ** -1.2, 12 / clips)
    labels = [np.flatnonzero(rng.random(classes) < frequency).tolist() or [0] for _ in range(clips)]
    return make_index([250] * (clips // 250), 160_000, labels, num_classes=classes)


def test_draws_of_a_class_are_spread_over_the_epoch():
    """In 20 rounds' draws every class has within half and twice its share."""
    index = large_index()
    windows = epoch_windows(index, Segmentation(10.0), seed=0, epoch=3, sampling="balanced")
    clips = np.array([clip for clip, _ in pairs(windows)])
    classes = index.num_classes
    labels = index.weak_labels().astype(bool)
    share = labels[clips].mean(axis=0)
    assert share.min() >= 1 / classes
    length = 20 * classes
    for first in range(0, len(clips) - length + 1, length):
        here = labels[clips[first : first + length]].mean(axis=0)
        assert (here > 0.5 * share).all() and (here < 2 * share).all()


def test_hardly_a_batch_holds_a_clip_twice():
    index = large_index(classes=300)
    windows = epoch_windows(index, Segmentation(10.0), seed=0, epoch=3, sampling="balanced")
    clips = np.array([clip for clip, _ in pairs(windows)])
    batches = clips[: len(clips) // 32 * 32].reshape(-1, 32)
    twice = np.mean([len(set(batch.tolist())) < 32 for batch in batches])
    assert twice < 0.01


def test_no_more_is_read_than_is_used():
    index = large_index(clips=4_000)
    for name, seconds in (("balanced", 10.0), ("uniform", 2.0)):
        segmentation = Segmentation(seconds)
        windows = epoch_windows(
            index, segmentation, seed=0, epoch=0, sampling=name, window_clips=1000
        )
        read = sum(int(window.capacity.sum()) for window in windows)
        assert read == epoch_size(index, segmentation) * segmentation.segment_samples


def test_a_global_batch_is_what_is_together_in_the_order():
    """Processes are dealt the draws one by one: each batch of all is one of a single process."""
    index = large_index(clips=1_000)
    order = {"seed": 0, "epoch": 1, "sampling": "balanced"}
    alone = pairs(epoch_windows(index, SECOND, **order))
    shares = [
        pairs(epoch_windows(index, SECOND, process_index=p, process_count=4, **order))
        for p in range(4)
    ]
    assert [share[i] for i in range(len(alone) // 4) for share in shares] == alone
