"""Labels that were made in another way than they are used are refused."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic_data import make_index, make_probabilities

from psl_jax.audio.segments import Segmentation
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(0.01)
CLASSES = 9


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count_padding": True}, "whether padding counts"),
    ],
)
def test_labels_made_otherwise_are_refused(tmp_path, index, change, words):
    written(tmp_path, index, make_probabilities(index, SEGMENTATION), "npz")
    rule = LabelRule(**change)
    with pytest.raises(UserError, match=words):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "t", rule)
    with pytest.raises(UserError, match=words):
        SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format="npz", rule=rule)
    with pytest.raises(UserError, match="least seconds of a segment"):
        SoftLabels.open(tmp_path, index, Segmentation(0.01, shortest_seconds=0.0))


def test_labels_that_hang_on_weak_labels_are_of_these(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    values = index.label_values.copy()
    values[0] = (values[0] + 1) % CLASSES
    other = dataclasses.replace(index, label_values=values)
    written(tmp_path / "plain", index, probabilities, "npz")
    SoftLabels.open(tmp_path / "plain", other, SEGMENTATION, "t", LabelRule())

    def write(of):
        SoftLabelWriter(
            tmp_path / "weak",
            of,
            SEGMENTATION,
            teacher_digest="t",
            format="npz",
            uses_weak_labels=True,
        )

    write(index)
    with pytest.raises(UserError, match="weak labels of the clips"):
        SoftLabels.open(tmp_path / "weak", other, SEGMENTATION, "t", LabelRule())
    with pytest.raises(UserError, match="weak labels of the clips"):  # half of them others
        write(other)


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
    with pytest.raises(UserError, match="count_padding"):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "t", LabelRule(count_padding=True))
