"""Batches of segments: what is in them, of which segments they are, and that they go on."""

import dataclasses
import functools
import hashlib
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import (
    MemorySource,
    indices,
    make_index,
    make_probabilities,
    segmentations,
    write_shards,
    write_soft_labels,
)

from psl_jax.audio.segments import REFLECTED_SAMPLES, Segmentation
from psl_jax.data.batches import (
    TimeShift,
    eval_batches,
    process_clips,
    read_verified,
    roll_rows,
    train_batches,
)
from psl_jax.data.clip_index import ragged
from psl_jax.data.label_manifest import WEAK
from psl_jax.data.segment_loader import Segments, reflect_end
from psl_jax.data.source import ClipStream, Source
from psl_jax.data.training_order import SAMPLINGS, TrainingOrder
from psl_jax.networks import frontend
from psl_jax.runtime.errors import UserError

SECOND = Segmentation(1.0)


def check_batch(batch, size, source, segmentation):
    """Form, and each row's audio against the clip itself."""
    shapes = {
        "audio": (np.int16, (size, segmentation.segment_samples)),
        "num_samples": (np.int32, (size,)),
        "labels": (np.float32, (size, source.index.num_classes)),
        "weight": (np.float32, (size,)),
        "clip": (np.int32, (size,)),
        "segment": (np.int32, (size,)),
    }
    assert {k: (v.dtype.type, v.shape) for k, v in batch.items()} == shapes
    for row in np.flatnonzero(batch["weight"]):
        clip = source.audio[batch["clip"][row]]
        start = batch["segment"][row] * segmentation.hop_samples
        samples = clip[start : start + segmentation.segment_samples]
        assert batch["num_samples"][row] == len(samples)
        np.testing.assert_array_equal(batch["audio"][row, : len(samples)], samples)
        # Then its reflection, as far as the front end's frames reach, and zeros.
        length = min(256, segmentation.segment_samples - len(samples), len(samples) - 2)
        reflected = np.pad(samples, (0, max(length, 0)), mode="reflect")[len(samples) :]
        rest = batch["audio"][row, len(samples) :]
        np.testing.assert_array_equal(rest[: len(reflected)], reflected)
        assert not rest[len(reflected) :].any()


def places(batches):
    """(clip, segment) of all rows."""
    return [
        pair
        for batch in batches
        for pair in zip(batch["clip"].tolist(), batch["segment"].tolist(), strict=True)
    ]


@given(indices(), segmentations, st.integers(1, 9), st.sampled_from(SAMPLINGS))
def test_train_batches_hold_the_clips_audio_and_weak_labels(index, segmentation, size, sampling):
    source = MemorySource(index)
    weak = index.weak_labels()
    order = TrainingOrder(size, 0, sampling)
    feed = train_batches(Segments(source, segmentation), order)
    for batch in itertools.islice(feed, 6):
        check_batch(batch, size, source, segmentation)
        np.testing.assert_array_equal(batch["labels"], weak[batch["clip"]])
        assert (batch["weight"] == 1).all()


@given(indices(), segmentations, st.integers(1, 7), st.integers(0, 40), st.integers(1, 3))
def test_a_resumed_run_sees_what_an_undisturbed_one_sees(
    index, segmentation, size, start, processes
):
    segments = Segments(MemorySource(index), segmentation)
    order = TrainingOrder(size, 7, "balanced", False, processes - 1, processes)
    shift = TimeShift(0.5, 0.5, seed=7)
    whole = itertools.islice(train_batches(segments, order, shift=shift), start, start + 4)
    resumed = train_batches(segments, order, start_step=start, shift=shift)
    for ours, theirs in zip(whole, resumed, strict=False):
        assert_same(ours, theirs)


def test_soft_labels_stand_for_unknown_weak_ones(tmp_path):
    index, segmentation = make_index([3], 100), Segmentation(0.01)
    offsets, values = ragged([[0], [], [0, 1, 2]])
    index = dataclasses.replace(index, unknown_offsets=offsets, unknown_values=values)
    soft = write_soft_labels(tmp_path, index, segmentation, make_probabilities(index, segmentation))
    numbers = np.arange(3)
    weak, mixed, own = (
        Segments(MemorySource(index), segmentation, *more)
        for more in ((), (soft, 0.5), (soft, 1.0))
    )
    assert weak.has_unknown and not mixed.has_unknown and not own.has_unknown
    labels, teacher = index.weak_labels(), own.describe(numbers)["labels"]
    np.testing.assert_array_equal(weak.describe(numbers)["labels"], labels)
    expected = np.where(labels < 0, teacher, (teacher + labels) / 2)
    np.testing.assert_allclose(mixed.describe(numbers)["labels"], expected, rtol=1e-6)


def test_weak_labels_of_now_stand_for_those_that_were_unknown_in_soft_labels(tmp_path):
    index, segmentation = make_index([5], 100), Segmentation(0.01)
    stored = write_soft_labels(tmp_path, index, segmentation, [np.full((1, 3), -1.0)] * 5)
    stored.manifest[WEAK] = "labels of then"
    labels = Segments(MemorySource(index), segmentation, stored).describe(np.arange(5))["labels"]
    np.testing.assert_array_equal(labels, index.weak_labels())


@given(indices(labelled=False), segmentations, st.integers(1, 9), st.integers(1, 5))
def test_whole_passes_cover_every_clip_once_over_processes(index, segmentation, size, processes):
    source, seen = MemorySource(index), []
    for clips in process_clips(segmentation.count_segments(index.num_samples), processes):
        batches = list(eval_batches(source, segmentation, batch_size=size, clips=clips))
        for batch in batches:
            check_batch(batch, size, source, segmentation)
            empty = batch["weight"] == 0
            assert (batch["clip"][empty] == -1).all()
            assert (batch["num_samples"][empty] == segmentation.segment_samples).all()
            assert not batch["audio"][empty].any()
        seen += [pair for pair in places(batches) if pair[0] >= 0]
    counts = segmentation.count_segments(index.num_samples)
    assert seen == [(clip, s) for clip, n in enumerate(counts) for s in range(n)]


# SHA-256 of what the code before segments were read by number (commit de85886) put into batches.
STORED = {
    None: "6ebc87392939492834fff99c46efa3d99343dcfe4c250d36be213258de857097",
    1.0: "d9f0272a74511acc727dc974f999e3c63bf1c36193f443d55055a5d70a001a13",
    0.5: "1faa889cefb2dae7d89af558b8c3c19d9953ea60ab2c1d8a375709037872abea",
}


@pytest.mark.parametrize("alpha", STORED)
def test_segments_are_bit_for_bit_what_they_always_were(tmp_path, alpha):
    """Loaded in parts, from whole records, and from shards that are streamed."""
    lengths = 100 + np.arange(30) * 977 % 800
    index = make_index([4, 0, 11, 15], lengths, num_classes=4)
    audio = [
        (np.arange(n) * 7919 * (i + 1) % 65536 - 32768).astype(np.int16)
        for i, n in enumerate(lengths)
    ]
    segmentation = Segmentation(0.02, 0.01)
    counts = segmentation.count_segments(lengths)
    labels = [(np.arange(4 * n).reshape(n, 4) * 37 % 101 / 100).astype(np.float16) for n in counts]
    write_shards(tmp_path, index, audio)
    source = Source.open(tmp_path, "train")
    soft = (
        None
        if alpha is None
        else write_soft_labels(tmp_path / "labels", source.index, segmentation, labels)
    )
    segments = Segments(source, segmentation, soft, alpha or 0.0)
    numbers = np.arange(len(segments))
    digests = set()
    stream = ClipStream(source, [segments.places(numbers)[0]])
    for read in (None, functools.partial(read_verified, source), stream.read):
        batch = segments.load(numbers, len(segments) + 3, read)
        digest = hashlib.sha256()
        for name in sorted(batch):
            digest.update(batch[name].tobytes())
        digests.add(digest.hexdigest())
    assert digests == {STORED[alpha]}


def test_an_error_in_loading_reaches_the_reader_and_threads_end(monkeypatch):
    monkeypatch.setattr("psl_jax.data.batches.LOCAL_LOADERS", 4)

    class Broken(MemorySource):
        def read(self, clips, starts, counts, rows):
            if 5 in clips:
                raise OSError("gone")
            super().read(clips, starts, counts, rows)

    def loaders():
        return [thread for thread in threading.enumerate() if thread.name.startswith("ordered_map")]

    index = make_index([24], 16_000)
    with pytest.raises(OSError, match="gone"):
        list(train_batches(Segments(Broken(index), SECOND), TrainingOrder(2, 0)))
    assert not loaders()
    feed = train_batches(Segments(MemorySource(index), SECOND), TrainingOrder(2, 0))
    next(feed)
    assert loaders()
    feed.close()
    assert not loaders()


@pytest.mark.parametrize("start", [0, 7])
def test_streamed_batches_are_those_that_are_read_by_number(tmp_path, start):
    """The same order and the same bits, from any step on; and the same whole passes."""
    index = make_index([5, 0, 9, 4, 6, 8, 3, 7, 5, 2, 6, 4], 300 + np.arange(59) * 97 % 900)
    write_shards(tmp_path, index)
    source = Source.open(tmp_path, "train", is_streamed=True)
    segments = Segments(source, Segmentation(0.02, 0.01))
    for process in range(2):
        order = TrainingOrder(16, 3, "uniform", True, process, 2)
        streamed = train_batches(segments, order, start_step=start)
        numbers = order.batches(segments, start)
        for batch, wanted in zip(itertools.islice(streamed, 60), numbers, strict=False):
            assert_same(batch, segments.load(wanted))
    plain = Source.open(tmp_path, "train")
    for batches in zip(
        *(eval_batches(one, segments.segmentation, batch_size=7) for one in (source, plain)),
        strict=True,
    ):
        assert_same(*batches)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_damage_of_a_streamed_shard_is_named(tmp_path):
    index = make_index([3, 4], 400)
    paths = write_shards(tmp_path, index)
    source = Source.open(tmp_path, "train", is_streamed=True)
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 0x10
    paths[1].write_bytes(data)
    with pytest.raises(UserError, match=paths[1].name):
        list(eval_batches(source, SECOND, batch_size=2))


def test_a_short_clip_in_a_batch_has_the_features_of_the_clip_alone():
    """Up to its last frame, which reaches past its end, and perhaps past the array's."""
    assert REFLECTED_SAMPLES == frontend.WINDOW // 2
    lengths = [16_000, 7_777, 12_345, 15_999, 15_963, 15_841, 15_800]
    index = make_index([7], lengths)
    source = MemorySource(index)
    (batch,) = eval_batches(source, SECOND, batch_size=7)
    for row, samples in zip(batch["audio"], source.audio, strict=True):
        length = np.array([len(samples)])
        alone = frontend.LogMel()(samples[None])
        padded = frontend.LogMel()(row[None], length)[:, : alone.shape[1]]
        np.testing.assert_allclose(padded, alone, atol=1e-3)


def test_shifts_reach_the_fraction_of_each_clip_either_way():
    lengths = np.repeat([40, 24, 3], 2000).astype(np.int32)
    shifts = TimeShift(1.0, 0.5, seed=0).draw(5, 0, lengths)
    assert shifts.dtype == np.int32
    for length, reach in ((40, 20), (24, 12), (3, 1)):
        assert set(shifts[lengths == length]) == set(range(-reach, reach + 1))


def test_a_share_of_the_clips_is_shifted():
    shifts = TimeShift(0.25, 0.5, seed=0).draw(0, 0, np.full(4000, 16_000))
    assert abs((shifts != 0).mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_shifts_are_a_function_of_seed_step_and_process():
    lengths = np.full(16, 16_000)

    def draw(seed, step, process):
        return TimeShift(1.0, 0.5, seed).draw(step, process, lengths).tolist()

    drawn = [draw(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert drawn[0] == draw(0, 0, 0)
    assert len(set(map(tuple, drawn))) == 4


@given(st.integers(1, 1200), st.integers(0, 700), st.integers(-600, 600), st.integers(0, 2**32 - 1))
def test_a_clip_is_rolled_as_if_its_end_had_been_reflected_after(length, padding, shift, seed):
    shift = int(np.fmod(shift, length))
    clip = np.random.default_rng(seed).integers(-9, 9, length).astype(np.int16)

    def in_a_row(samples):
        row = np.concatenate([samples, np.zeros(padding, np.int16)])
        reflect_end(row, length)
        return row

    audio = np.stack([in_a_row(clip), in_a_row(clip)])
    roll_rows(audio, np.array([length] * 2), np.array([shift, 0]))
    rolled = np.array([clip[(i - shift) % length] for i in range(length)], np.int16)
    np.testing.assert_array_equal(audio[0], in_a_row(rolled))
    np.testing.assert_array_equal(audio[1], in_a_row(clip))
