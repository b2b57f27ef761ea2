import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import make_index, with_events

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import UNKNOWN, ClipIndex, joined, ragged
from psl_jax.runtime.errors import UserError

# [segment, hop] in seconds: end to end, overlapping, with gaps; long and short.
CUTS = [(2, None), (10, None), (2, 1), (2, 0.3), (0.3, None), (0.3, 0.1), (1, 3), (0.2, 0.7)]


def segments_by_hand(num_samples, segment, hop):
    """Adds segments as long as each brings half a second that those before it did not hold."""
    shortest = min(SAMPLE_RATE // 2, segment, hop)
    count, end = 1, segment
    while num_samples - max(count * hop, end) >= shortest:
        end = count * hop + segment
        count += 1
    return count


@pytest.mark.parametrize(("seconds", "hop"), CUTS)
@given(num_samples=st.integers(1, 25 * SAMPLE_RATE))
def test_segments_cover_the_clip_but_for_a_short_remainder(seconds, hop, num_samples):
    cut = Segmentation(seconds, hop)
    count = int(cut.count_segments(num_samples))
    assert count == segments_by_hand(num_samples, cut.segment_samples, cut.hop_samples)
    valid = cut.count_valid_samples(num_samples, np.arange(count))
    assert valid.dtype == np.int32 and (valid > 0).all()
    starts = np.arange(count) * cut.hop_samples
    np.testing.assert_array_equal(
        valid, np.minimum(starts + cut.segment_samples, num_samples) - starts
    )


def test_times_follow_the_hop():
    onset, offset = Segmentation(2.0, 0.5).compute_times(np.array([0, 3]))
    np.testing.assert_allclose(onset, [0, 1.5])
    np.testing.assert_allclose(offset, [2, 3.5])


@pytest.mark.parametrize(("seconds", "hop"), [(0, None), (-1, None), (1, 0), (1, -2)])
def test_lengths_must_be_positive(seconds, hop):
    with pytest.raises(ValueError, match="positive"):
        Segmentation(seconds, hop)


def index_with_events():
    """Two clips of 4 s and 1 s; events as (onset, offset, class)."""
    events = [[(0.5, 1.5, 0), (1.0, 2.5, 2), (2.0, 2.0, 1)], [(0.2, 5.0, 1)]]
    return with_events(make_index([1, 1], [64_000, 16_000], [[0, 2], [1]]), events)


def index_with_unknown():
    """Of clip 1 class 2 is unknown, and of clip 2 everything."""
    offsets, values = ragged([[], [2], [0, 1, 2]])
    index = make_index([2, 1], 100, [[0, 2], [], []])
    return dataclasses.replace(index, unknown_offsets=offsets, unknown_values=values)


def test_segment_labels_say_what_sounds_in_each_segment():
    truth = index_with_events().segment_labels(Segmentation(1.0))
    expected = np.zeros((2, 4, 3), bool)
    expected[0, 0, 0] = expected[0, 1, 0] = True  # 0.5 to 1.5 s
    expected[0, 1, 2] = expected[0, 2, 2] = True  # 1.0 to 2.5 s, not in the segment that ends at 1
    expected[1, 0, 1] = True  # an event that goes on past the end of its clip
    np.testing.assert_array_equal(truth, expected)  # the event without duration is nowhere
    with pytest.raises(ValueError, match="no events"):
        make_index([2], 100).segment_labels(Segmentation(1.0))


SAVED = [make_index([2, 0, 3], 500), index_with_events(), index_with_unknown()]


@pytest.mark.parametrize("index", SAVED)
def test_an_index_is_read_back_as_it_was_saved(tmp_path, index):
    path = tmp_path / "folder" / "index.npz"
    index.save(path)
    loaded = ClipIndex.load(path)
    for field in dataclasses.fields(ClipIndex):
        saved, read = getattr(index, field.name), getattr(loaded, field.name)
        if isinstance(saved, np.ndarray):
            assert read.dtype == saved.dtype, field.name
            np.testing.assert_array_equal(read, saved, err_msg=field.name)
        else:
            assert read == saved, field.name


def test_weak_labels_and_counts():
    index = make_index([2, 1], 100, [[0, 2], [], [2]])
    np.testing.assert_array_equal(index.weak_labels(), [[1, 0, 1], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(index.weak_labels(np.array([2, 0])), [[0, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(index.class_counts(), [1, 0, 2])
    assert (len(index), index.num_classes, index.clip_samples) == (3, 3, 100)
    np.testing.assert_array_equal(index.shard_offsets, [0, 2, 3])
    large = make_index([20_000], 160_000)  # which does not overflow
    assert large.hours == pytest.approx(20_000 * 10 / 3600)


def test_unknown_labels_are_neither_0_nor_1():
    index = index_with_unknown()
    expected = [[1, 0, 1], [0, 0, UNKNOWN], [UNKNOWN] * 3]
    np.testing.assert_array_equal(index.weak_labels(), expected)
    np.testing.assert_array_equal(index.weak_labels(np.array([2, 0])), [expected[2], expected[0]])
    assert index.holds_nothing.tolist() == [False, True, False]
    known = make_index([2, 1], 100, [[0, 2], [], []])
    assert index.labels_sha256 != known.labels_sha256
    more = make_index([1], 100, [[1]], first=3)
    both = joined([more, index])
    np.testing.assert_array_equal(both.weak_labels(), [[0, 1, 0], *expected])


def test_clips_without_classes_take_any_and_know_none():
    none = make_index([1, 1], 100, [[], []], num_classes=0)
    assert not none.is_labelled and not none.holds_nothing.any()
    index = none.with_classes(["dog", "siren"])
    np.testing.assert_array_equal(index.weak_labels(), np.full((2, 2), UNKNOWN))
    assert index.classes == ("dog", "siren") and not index.is_labelled


def test_the_hash_of_ids_knows_the_clips_and_not_their_order():
    index = make_index([3], 100)
    turned = dataclasses.replace(index, ids=index.ids[::-1])
    other = dataclasses.replace(index, ids=np.array(["a", "b", "c"]))
    assert index.ids_sha256 == turned.ids_sha256 != other.ids_sha256


def test_the_shard_of_a_clip_is_never_an_empty_one():
    index = make_index([0, 2, 0, 0, 3, 1, 0], 100)
    assert index.shard_of(np.arange(6)).tolist() == [1, 1, 4, 4, 4, 5]
    assert index.shard_of(np.array([5, 0, 2])).tolist() == [5, 1, 4]
    assert int(index.shard_of(3)) == 4


def test_shards_must_hold_all_clips():
    index = make_index([3], 100)
    with pytest.raises(ValueError, match="shards hold 2 clips"):
        dataclasses.replace(index, shard_sizes=np.array([2]))


def test_joined_splits_are_their_clips_one_after_the_other():
    first = make_index([2, 1], [800, 900, 1000], [[0], [1, 2], []], split="a")
    second = make_index([1, 0, 2], 700, split="b", first=3)
    whole = joined([first, second])
    assert whole.split == "a+b" and whole.classes == first.classes
    assert whole.ids.tolist() == [*first.ids, *second.ids]
    assert whole.num_samples.tolist() == [800, 900, 1000, 700, 700, 700]
    assert whole.shard_sizes.tolist() == [2, 1, 1, 0, 2]
    expected = np.concatenate([first.weak_labels(), second.weak_labels()])
    np.testing.assert_array_equal(whole.weak_labels(), expected)
    assert not whole.has_events and whole.record_bytes is None


def test_events_are_joined_where_all_have_them():
    events = [[(0.0, 0.01, 0)], [(0.0, 0.02, 1), (0.01, 0.02, 2)]]
    parts = [
        with_events(make_index([2], 800, split="a"), events),
        with_events(make_index([2], 800, split="b", first=2), events[::-1]),
    ]
    segmentation = Segmentation(0.01)
    expected = np.concatenate([part.segment_labels(segmentation) for part in parts])
    np.testing.assert_array_equal(joined(parts).segment_labels(segmentation), expected)
    assert not joined([parts[0], make_index([1], 800, split="c", first=9)]).has_events


def test_splits_that_do_not_belong_together_are_refused():
    one = make_index([1], 800, split="a")
    with pytest.raises(UserError, match="more than one of the splits"):
        joined([one, make_index([1], 800, split="b")])
    other = make_index([1], 800, split="b", first=1)
    object.__setattr__(other, "classes", ("x", "y", "z"))
    with pytest.raises(UserError, match="'a' and 'b' have different classes"):
        joined([one, other])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"name": "own_data", "version": ', r"dataset_info\.json"),
        ('{"name": "own_data", "vursion": "1.0.0"}', r"dataset_info\.json"),
        ("", r"dataset_info\.json"),
        ('{"name": "x", "fileFormat": "array_record"}', "array_record files, expected tfrecord"),
    ],
)
def test_metadata_of_tfds_that_cannot_be_read_are_named(tmp_path, content, match):
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match=match):
        split_index_files.splits(tmp_path)
