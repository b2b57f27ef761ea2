"""What soft labels are worth, taken shard by shard."""

import tracemalloc
import types

import numpy as np
import pytest
import synthetic_data
from sklearn.metrics import average_precision_score
from synthetic_data import make_index

from psl_jax.audio.segments import Segmentation
from psl_jax.scoring import metrics, relabeling

SECOND = Segmentation(1.0)


def with_random_events(index, known, seed=0):
    """Some events for the clips of which `known` is true."""
    rng = np.random.default_rng(seed)
    events = [
        [
            (start, start + rng.uniform(0.2, 1.5), rng.integers(index.num_classes))
            for start in rng.uniform(0, index.num_samples[clip] / 16_000, 3 * known[clip])
        ]
        for clip in range(len(index))
    ]
    return synthetic_data.with_events(index, events)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_segments_are_scored_against_what_truly_sounds(share, tmp_path):
    lengths = np.random.default_rng(0).integers(8_000, 64_000, 40)
    index = make_index([7, 0, 20, 13], lengths, num_classes=5)
    known = np.random.default_rng(2).random(40) < share
    known[:7] = share == 1.0  # a shard without any
    index = with_random_events(index, known)
    labels = synthetic_data.write_soft_labels(tmp_path, index, SECOND)
    values, counts = labels.gather(np.arange(40)), SECOND.count_segments(lengths)
    found = relabeling.measure_label_quality(labels, index, SECOND)
    truth, soft, weak = [], [], []
    for clip in np.flatnonzero(np.diff(index.event_offsets) > 0):
        events = slice(*index.event_offsets[clip : clip + 2])
        for segment in range(counts[clip]):
            sounds = np.zeros(5, bool)
            for (on, off), label in zip(
                index.event_times[events], index.event_values[events], strict=True
            ):
                sounds[label] |= on < segment + 1 and off > segment
            truth.append(sounds)
            soft.append(values[clip, segment])
            weak.append(index.weak_labels(np.array([clip]))[0])
    truth = np.array(truth)
    for name, scores in (("soft", soft), ("weak", weak)):
        columns = zip(truth.T, np.array(scores, float).T, strict=True)
        expected = np.mean([average_precision_score(t, s) for t, s in columns if t.any()])
        assert found["segment_mAP"][name] == pytest.approx(expected, abs=1e-9)
    assert found["num_segments"] == counts.sum()
    label_counts = metrics.count_labels(values, counts, index.weak_labels())
    assert found["statistics"] == metrics.summarize_labels(label_counts)


def test_without_events_nothing_is_scored(tmp_path):
    index = make_index([4], 32_000)
    labels = synthetic_data.write_soft_labels(tmp_path, index, SECOND)
    for given in (index, with_random_events(index, np.zeros(4, int))):
        assert "segment_mAP" not in relabeling.measure_label_quality(labels, given, SECOND)


def test_memory_is_that_of_a_shard():
    index = make_index([50] * 40, 160_000, num_classes=100)
    rows = np.random.default_rng(0).random((50, 10, 100)).astype(np.float16)
    counts = np.full(50, 10, np.int32)
    labels = types.SimpleNamespace(read_shard=lambda shard: (None, rows, counts))
    tracemalloc.start()
    relabeling.measure_label_quality(labels, index, SECOND)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * rows.nbytes  # of 40 shards
