"""Of each segment only the likeliest classes are kept: what is read, and what it takes."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic_data import make_index, make_probabilities

from psl_jax.audio.segments import Segmentation
from psl_jax.data import label_shards
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(0.01)
CLASSES = 9
FORMATS = pytest.mark.parametrize("format", label_shards.FORMATS)


@pytest.fixture
def index():
    lengths = [300, 500, 160, 900, 410, 640, 100]
    return make_index([3, 0, 4], lengths, num_classes=CLASSES)


def written(folder, index, probabilities, format, **rule):
    rule = LabelRule(**rule)
    writer = SoftLabelWriter(
        folder, index, SEGMENTATION, teacher_digest="t", format=format, rule=rule
    )
    for shard in writer.missing:
        low, high = index.shard_offsets[shard : shard + 2]
        writer.write_shard(shard, probabilities[low:high])
    return SoftLabels.open(folder, index, SEGMENTATION, "t", rule)


def largest_only(row, top_k):
    """By plain Python: the first of equals."""
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))[:top_k]
    return [value if c in order else 0 for c, value in enumerate(row)]


@FORMATS
@pytest.mark.parametrize("top_k", [1, 3, 5, 9, 20])
def test_the_largest_are_read_and_zeros_elsewhere(tmp_path, index, format, top_k):
    """3 is stored as values and classes, 5 of 9 as they are."""
    probabilities = make_probabilities(index, SEGMENTATION)
    probabilities[3][:] = np.round(probabilities[3] * 3) / 3  # many equals
    probabilities[4][:] = 0
    labels = written(tmp_path, index, probabilities, format, top_k=top_k)
    for shard, clips in enumerate([range(3), range(0), range(3, 7)]):
        _, found, counts = labels.read_shard(shard)
        for row, clip, count in zip(found, clips, counts, strict=True):
            expected = [largest_only(p, top_k) for p in probabilities[clip].tolist()]
            np.testing.assert_array_equal(row[:count], np.float16(expected))
            assert not row[count:].any()
    assert labels.manifest["top_k"] == top_k


@FORMATS
def test_fewer_classes_take_less_disk(tmp_path, format):
    index = make_index([200], 16_000, num_classes=527)
    probabilities = make_probabilities(index, Segmentation(0.5), seed=0)
    sizes = {}
    for top_k in (0, 1, 20, 300):
        rule = LabelRule(top_k=top_k)
        folder = tmp_path / str(top_k)
        writer = SoftLabelWriter(
            folder, index, Segmentation(0.5), teacher_digest="t", format=format, rule=rule
        )
        writer.write_shard(0, probabilities)
        labels = SoftLabels.open(folder, index, Segmentation(0.5), rule=rule)
        sizes[top_k] = labels.num_bytes
        values = 400 * label_shards.bytes_per_segment(527, top_k)
        assert values < labels.num_bytes < values + 200 * 150 + 2000  # ids and names
    assert sizes[1] < sizes[20] < sizes[300] == sizes[0]
    assert label_shards.bytes_per_segment(527) == 2 * 527
    assert label_shards.bytes_per_segment(527, 20) == 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_k": 3}, r"number of classes that are kept \(top_k\) differs: expected 3, found 2"),
        ({"overlap": 0.5}, r"overlap of the windows .*: expected 0\.5, found 0\.0"),
        ({"prior": 1.0}, r"how far weak labels are believed"),
        ({"count_padding": True}, "whether padding counts"),
    ],
)
def test_labels_made_otherwise_are_refused(tmp_path, index, change, words):
    written(tmp_path, index, make_probabilities(index, SEGMENTATION), "npz", top_k=2)
    rule = LabelRule(**{"top_k": 2} | change)
    with pytest.raises(UserError, match=words):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "t", rule)
    with pytest.raises(UserError, match=words):
        SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format="npz", rule=rule)
    with pytest.raises(UserError, match="least seconds of a segment"):
        SoftLabels.open(tmp_path, index, Segmentation(0.01, shortest_seconds=0.0))


def test_a_recall_without_a_prior_changes_nothing(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    written(tmp_path, index, probabilities, "npz", prior_recall=0.2)
    SoftLabels.open(tmp_path, index, SEGMENTATION, "t", LabelRule(prior_recall=0.6))
    written(tmp_path / "believed", index, probabilities, "npz", prior=1.0, prior_recall=0.2)
    rule = LabelRule(prior=1.0, prior_recall=0.6)
    with pytest.raises(UserError, match="prior_recall"):
        SoftLabels.open(tmp_path / "believed", index, SEGMENTATION, "t", rule)


def test_labels_that_hang_on_weak_labels_are_of_these(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    values = index.label_values.copy()
    values[0] = (values[0] + 1) % CLASSES
    other = dataclasses.replace(index, label_values=values)
    written(tmp_path / "plain", index, probabilities, "npz")
    SoftLabels.open(tmp_path / "plain", other, SEGMENTATION, "t", LabelRule())
    for changes in ({"prior": 1.0}, {"calibrate": "rate"}):
        folder = tmp_path / str(*changes)
        written(folder, index, probabilities, "npz", **changes)
        with pytest.raises(UserError, match="weak labels of the clips"):
            SoftLabels.open(folder, other, SEGMENTATION, "t", LabelRule(**changes))
        with pytest.raises(UserError, match="weak labels of the clips"):  # half of them others
            written(folder, other, probabilities, "npz", **changes)


def test_manifests_of_earlier_versions_told_nothing_of_it(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    labels = written(tmp_path, index, probabilities, "npz")
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("shortest_seconds", *LabelRule().entries()):
        del manifest[name]
    path.write_text(json.dumps(manifest))
    again = SoftLabels.open(tmp_path, index, SEGMENTATION, "t", LabelRule())
    np.testing.assert_array_equal(again.read_shard(0)[1], labels.read_shard(0)[1])
    with pytest.raises(UserError, match="top_k"):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "t", LabelRule(top_k=1))


def test_a_class_that_there_is_not_is_damage(tmp_path, index):
    labels = written(tmp_path, index, make_probabilities(index, SEGMENTATION), "npz", top_k=1)
    path = tmp_path / "labels-00000-of-00003.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["classes"][0] = CLASSES
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"damaged soft-label shard \(class number 9 of 9\)"):
        labels.read_shard(0)
