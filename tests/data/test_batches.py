import itertools
import queue
import threading
import tracemalloc

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
    write_soft_labels,
)

from psl_jax.audio.segments import REFLECTED_SAMPLES, Segmentation
from psl_jax.data.batches import (
    eval_batch_count,
    eval_batches,
    read_labelled,
    steps_per_epoch,
    train_batches,
)
from psl_jax.data.sampling import SAMPLINGS, epoch_size, sequential_windows
from psl_jax.data.sources import BufferRing, read_ahead
from psl_jax.data.time_shift import TimeShift
from psl_jax.model import frontend

SECOND = Segmentation(1.0)


class CountingSource(MemorySource):
    """Notes which clips were read."""

    def __init__(self, index):
        super().__init__(index)
        self.clips_read = []

    def read(self, windows):
        for loaded in super().read(windows):
            self.clips_read.append(loaded.window.clips)
            yield loaded


def check_audio(batch, source, segmentation):
    """Each row against the clip itself."""
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


def check_equal(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def check_form(batch, size, segmentation, index):
    shapes = {
        "audio": (np.int16, (size, segmentation.segment_samples)),
        "num_samples": (np.int32, (size,)),
        "labels": (np.float32, (size, index.num_classes)),
        "weight": (np.float32, (size,)),
        "clip": (np.int32, (size,)),
        "segment": (np.int32, (size,)),
    }
    assert {k: (v.dtype.type, v.shape) for k, v in batch.items()} == shapes


@given(indices(), segmentations, st.integers(1, 9), st.sampled_from(SAMPLINGS))
def test_train_batches_hold_the_clips_audio_and_weak_labels(index, segmentation, size, sampling):
    source = MemorySource(index)
    batches = train_batches(
        source, segmentation, batch_size=size, seed=0, sampling=sampling, window_clips=5
    )
    weak = index.weak_labels()
    for batch in itertools.islice(batches, 6):
        check_form(batch, size, segmentation, index)
        check_audio(batch, source, segmentation)
        np.testing.assert_array_equal(batch["labels"], weak[batch["clip"]])
        assert (batch["weight"] == 1).all()


@given(indices(), segmentations, st.integers(1, 9))
def test_batches_straddle_epochs_and_each_epoch_is_complete(index, segmentation, size):
    per_epoch = epoch_size(index, segmentation)
    assert steps_per_epoch(index, segmentation, size) * size == pytest.approx(per_epoch)
    batches = train_batches(MemorySource(index), segmentation, batch_size=size, seed=1)
    taken = list(itertools.islice(batches, -(-3 * per_epoch // size)))
    seen = list(
        zip(
            np.concatenate([b["clip"] for b in taken]).tolist(),
            np.concatenate([b["segment"] for b in taken]).tolist(),
            strict=True,
        )
    )
    epochs = [sorted(seen[i * per_epoch : (i + 1) * per_epoch]) for i in range(3)]
    assert len(set(epochs[0])) == per_epoch
    assert epochs[0] == epochs[1] == epochs[2]


@given(
    indices(),
    segmentations,
    st.integers(1, 7),
    st.integers(0, 40),
    st.sampled_from(SAMPLINGS),
    st.integers(1, 3),
)
def test_a_resumed_run_sees_what_an_undisturbed_one_sees(
    index, segmentation, size, start, sampling, processes
):
    def batches(start_step):
        return train_batches(
            MemorySource(index),
            segmentation,
            batch_size=size,
            seed=7,
            sampling=sampling,
            start_step=start_step,
            window_clips=4,
            shift=TimeShift(0.5, 0.5, seed=7),
            process_index=processes - 1,
            process_count=processes,
        )

    for whole, resumed in zip(
        itertools.islice(batches(0), start, start + 4), batches(start), strict=False
    ):
        check_equal(whole, resumed)


def test_skipped_windows_are_not_read():
    index = make_index([10] * 6, 32_000)
    source = CountingSource(index)
    next(train_batches(source, SECOND, batch_size=5, seed=0, start_step=21, window_clips=10))
    assert len(source.clips_read) == 1  # 105 of the epoch's 120 segments lie before it
    source = CountingSource(index)
    next(train_batches(source, SECOND, batch_size=5, seed=0, start_step=24_000, window_clips=10))
    assert len(source.clips_read) == 1


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_soft_labels_are_mixed_with_the_weak_ones(tmp_path, alpha):
    index = make_index([3, 4], [300, 500, 160, 900, 410, 640, 100])
    segmentation = Segmentation(0.01)
    probabilities = make_probabilities(index, segmentation)
    soft = write_soft_labels(tmp_path, index, segmentation, probabilities)
    options = {"batch_size": 4, "soft_labels": soft, "alpha": alpha}
    source = MemorySource(index)
    weak = index.weak_labels()
    training = itertools.islice(train_batches(source, segmentation, seed=0, **options), 8)
    for batch in itertools.chain(training, eval_batches(source, segmentation, **options)):
        for row in np.flatnonzero(batch["weight"]):
            clip, segment = batch["clip"][row], batch["segment"][row]
            expected = alpha * probabilities[clip][segment].astype(np.float32)
            expected = expected + (1 - alpha) * weak[clip]
            np.testing.assert_allclose(batch["labels"][row], expected, rtol=1e-6)


@given(indices(labelled=False), segmentations, st.integers(1, 9), st.integers(1, 5))
def test_eval_batches_cover_every_clip_once_over_processes(index, segmentation, size, processes):
    source = MemorySource(index)
    count = eval_batch_count(index, segmentation, size, processes)
    seen = []
    for process in range(processes):
        batches = list(
            eval_batches(
                source,
                segmentation,
                batch_size=size,
                window_clips=4,
                process_index=process,
                process_count=processes,
            )
        )
        assert len(batches) == count
        for batch in batches:
            check_form(batch, size, segmentation, index)
            check_audio(batch, source, segmentation)
            empty = batch["weight"] == 0
            assert (batch["clip"][empty] == -1).all()
            assert (batch["num_samples"][empty] == segmentation.segment_samples).all()
            assert not batch["audio"][empty].any()
            seen += zip(
                batch["clip"][~empty].tolist(), batch["segment"][~empty].tolist(), strict=True
            )
    counts = segmentation.counts(index.num_samples)
    assert seen == [(clip, s) for clip, n in enumerate(counts) for s in range(n)]


def test_every_process_makes_the_same_number_of_steps_per_epoch():
    index = make_index([7, 1, 4], np.arange(12) * 9000 + 8000)
    for process in range(5):
        batches = train_batches(
            MemorySource(index),
            SECOND,
            batch_size=1,
            seed=0,
            process_index=process,
            process_count=5,
        )
        size = epoch_size(index, SECOND, 5)
        entries = [
            (int(b["clip"][0]), int(b["segment"][0])) for b in itertools.islice(batches, size)
        ]
        assert len(set(entries)) == size


def test_read_ahead_keeps_two_windows_in_memory_and_goes_on_after_the_reader_left():
    """The bound that `Source.read` states."""
    index = make_index([64], 16_000)
    windows = sequential_windows(index, SECOND, window_clips=4) * 4
    window_bytes = 4 * 16_000 * 2
    loads = []

    def fill(window, rows):
        for row in rows:
            row[:] = len(loads)
        loads.append(window)

    tracemalloc.start()
    numbers = []
    for loaded in read_ahead(fill, windows):
        assert loaded.audio.min() == loaded.audio.max()
        numbers.append(int(loaded.audio[0]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers == list(range(64))
    assert peak < 2.2 * window_bytes

    loads.clear()
    reading = read_ahead(fill, windows)
    next(reading)
    reading.close()
    assert len(loads) <= 2
    assert not [t for t in threading.enumerate() if t.name.startswith("read_ahead")]


def test_a_window_is_whole_until_the_next_is_asked_for_however_slow_its_reader():
    """The next one is written meanwhile, and the one after it not begun."""
    index = make_index([5, 4, 1, 6, 3], 1000)
    windows = sequential_windows(index, SECOND, window_clips=6)
    assert len({len(window.clips) for window in windows}) > 1  # the memory grows in between
    written = queue.Queue()

    def fill(window, rows):
        for row, clip in zip(rows, window.clips, strict=True):
            row[:] = clip
        written.put(window)

    for number, loaded in enumerate(read_ahead(fill, windows)):
        ahead = windows[number + (number > 0) : number + 2]
        assert [written.get(timeout=10) for _ in ahead] == ahead
        with pytest.raises(queue.Empty):
            written.get(timeout=0.05)
        for row, clip in zip(loaded.rows, loaded.window.clips, strict=True):
            assert (row == clip).all()


def test_the_memory_of_a_window_is_used_again_and_a_copy_is_the_readers():
    index = make_index([24], 1000)
    windows = sequential_windows(index, SECOND, window_clips=4)

    def fill(window, rows):
        for row in rows:
            row[:] = window.clips[0]

    kept, copies = [], []
    for loaded in read_ahead(fill, windows):
        kept.append(loaded.audio)
        copies.append(loaded.audio[:1].copy())
    assert [int(samples[0]) for samples in copies] == [0, 4, 8, 12, 16, 20]
    assert [int(samples[0]) for samples in kept] == [16, 20] * 3


def test_a_ring_of_buffers_has_two_that_grow():
    ring = BufferRing()
    first, second, third = ring.next(30), ring.next(20), ring.next(10)
    assert (first.shape, second.shape, third.shape) == ((30,), (20,), (10,))
    assert first.dtype == np.int16
    assert np.shares_memory(first, third) and not np.shares_memory(first, second)
    larger = ring.next(40)
    assert not np.shares_memory(larger, second)
    assert np.shares_memory(ring.next(30), first)
    assert np.shares_memory(ring.next(40), larger)


def test_an_error_while_reading_ahead_reaches_the_reader():
    def fill(window, audio):
        raise OSError("gone")

    windows = sequential_windows(make_index([2], 100), SECOND)
    with pytest.raises(OSError, match="gone"):
        list(read_ahead(fill, windows))


class SlowLabels:
    """Soft labels that note the threads they are read in, and may fail."""

    num_segments, view = 1, None

    def of_epoch(self, epoch):
        return self

    def __init__(self, fails_at=None):
        self.fails_at, self.threads, self.first_clips = fails_at, [], []

    def gather(self, clips):
        self.threads.append(threading.current_thread().name)
        self.first_clips.append(int(clips[0]))
        if self.fails_at == clips[0]:
            raise OSError("no labels")
        return np.broadcast_to(np.float16(clips)[:, None, None], (len(clips), 1, 3))


def test_soft_labels_are_read_ahead_and_belong_to_their_window():
    index = make_index([24], 16_000)
    windows, labels = sequential_windows(index, SECOND, window_clips=4), SlowLabels()
    for loaded, soft in read_labelled(MemorySource(index), iter(windows), labels):
        np.testing.assert_array_equal(soft[:, 0, 0], loaded.window.clips)
    assert labels.first_clips == [0, 4, 8, 12, 16, 20]
    assert all(name.startswith("read_ahead") for name in labels.threads)

    reading = read_labelled(MemorySource(index), windows, labels)
    next(reading)
    reading.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read_ahead")]
    with pytest.raises(OSError, match="no labels"):
        list(read_labelled(MemorySource(index), windows, SlowLabels(fails_at=8)))
    assert not [t for t in threading.enumerate() if t.name.startswith("read_ahead")]


def test_a_short_clip_in_a_batch_has_the_features_of_the_clip_alone():
    """Up to its last frame, which reaches past its end."""
    assert REFLECTED_SAMPLES == frontend.WINDOW // 2
    index = make_index([3], [16_000, 7_777, 12_345])
    source = MemorySource(index)
    (batch,) = eval_batches(source, SECOND, batch_size=3)
    for row, samples in zip(batch["audio"], source.audio, strict=True):
        length = np.array([len(samples)])
        alone = frontend.LogMel()(samples[None])
        padded = frontend.LogMel()(row[None], length)[:, : alone.shape[1]]
        np.testing.assert_allclose(padded, alone, atol=1e-3)
