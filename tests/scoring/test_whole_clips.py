"""Whole clips of any length, in one pass each: the same scores, in few programs."""

import contextlib

import jax
import numpy as np
import pytest
import small_experiments
import synthetic_data
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import make_index

from psl_jax.data import batches
from psl_jax.data.batches import RATIO, WholeClips, whole_clip_batches
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import create, fold
from psl_jax.scoring import evaluation
from psl_jax.scoring.scorer import Scorer

SECOND = 16_000


def test_clips_of_one_length_are_not_padded():
    whole = WholeClips.of(make_index([7], 5 * SECOND), least_spared_seconds=0)
    assert whole == WholeClips((5 * SECOND,), frozenset())


@given(st.lists(st.integers(100, 30 * SECOND), min_size=1, max_size=50), st.floats(0, 50))
def test_each_clip_gets_the_next_length(lengths, spared):
    index = make_index([len(lengths)], lengths)
    whole = WholeClips.of(index, spared)
    found = np.asarray(whole.lengths)[whole.number_of(index.num_samples)]
    assert (found >= lengths).all()
    assert set(found) == set(whole.lengths)  # none that no clip needs
    assert set(found[found > lengths]) == whole.padded
    assert whole.lengths[-1] - max([*lengths, SECOND // 2]) in (0, 256)
    assert not ((found - lengths > 0) & (found - lengths < 256)).any()  # room for the reflection
    everything = sum(whole.lengths[-1] - found) / SECOND
    assert everything == 0 or everything > spared
    if spared == 0:
        limits = np.ceil(RATIO * (np.asarray(lengths) + 256) + 1)
        assert (found <= np.maximum(limits, SECOND)).all()


@given(synthetic_data.indices(), st.integers(1, 5), st.data())
def test_every_clip_is_once_in_a_batch_with_its_audio(index, size, data):
    clips = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(index))))
    clips = clips[clips < len(index)]
    source = synthetic_data.MemorySource(index)
    whole = WholeClips((600, 800, 1200), frozenset((600, 800, 1200)))
    seen = []
    for batch in whole_clip_batches(source, whole, clips, lambda seconds, count: size):
        assert len(batch["audio"]) == size and batch["audio"].shape[1] in whole.lengths
        for row in np.flatnonzero(batch["weight"]):
            clip, length = batch["clip"][row], batch["num_samples"][row]
            assert length == index.num_samples[clip]
            np.testing.assert_array_equal(batch["audio"][row, :length], source.audio[clip])
            seen.append(int(clip))
    assert sorted(seen) == clips.tolist()


def test_no_clip_waits_for_the_end(monkeypatch):
    monkeypatch.setattr(batches, "CLIPS_BETWEEN", 4)
    index = make_index([2] * 6, [400, 400, 400, 800, *[400] * 8])
    source, whole = synthetic_data.MemorySource(index), WholeClips((400, 800), frozenset())
    found = whole_clip_batches(source, whole, np.arange(12), lambda *_: 3)
    order = [batch["clip"][batch["weight"] > 0].tolist() for batch in found]
    assert order == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9, 10], [11]]


@pytest.fixture
def scorer():
    network, variables = create(3, 0.1)
    return Scorer(fold(small_experiments.able(network, variables)), LogMel())


@pytest.fixture
def source():
    lengths = [9_000, 24_000, 31_999, 12_345, 32_000, 16_000, 8_100, 24_000, 10_000, 31_000]
    index = make_index([4, 6], lengths)
    return synthetic_data.MemorySource(index, small_experiments.sounds(lengths))


@contextlib.contextmanager
def compilations():
    """What is compiled inside: a growing list."""
    found = []

    def note(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_scores_are_those_of_one_clip_at_a_time_and_programs_are_few(scorer, source):
    cut = WholeClips.of(source.index, 0.0)
    assert len(cut.lengths) == 4
    with compilations() as first:
        found = evaluation.score_clips(scorer, source, cut, 3)
    assert len(first) == len(cut.lengths)
    with compilations() as later:  # as at the next validation
        again = evaluation.score_clips(scorer, source, cut, 3)
    assert not later
    np.testing.assert_array_equal(found, again)
    alone = []
    for audio in source.audio[:4]:  # each of another length, and compiled for it
        batch = {
            "audio": audio[None],
            "num_samples": np.array([len(audio)], np.int32),
            "weight": np.ones(1, np.float32),
        }
        ((_, probabilities),) = scorer([batch])
        alone.append(probabilities[0])
    assert np.std(alone, axis=0).min() > 1e-3  # they differ by what is heard
    np.testing.assert_allclose(found[:4], alone, atol=1e-5)


def test_with_padding_counted_all_are_padded_to_the_longest(source):
    cut = evaluation.segmentation_for(source.index, None, count_padding=True)
    assert cut.segment_samples == 32_000 and not isinstance(cut, WholeClips)
    assert isinstance(evaluation.segmentation_for(source.index, None), WholeClips)
