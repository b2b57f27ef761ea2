import dataclasses
import hashlib
import json
import os
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import indices, make_index, make_probabilities, segmentations, write_soft_labels

from psl_jax.audio.segments import Segmentation
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter, missing_shards
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import evaluation, relabeling

SEGMENTATION = Segmentation(0.01)


@pytest.fixture
def index():
    return make_index([3, 0, 4], [300, 500, 160, 900, 410, 640, 100])


def test_what_was_written_is_read(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    labels = write_soft_labels(tmp_path, index, SEGMENTATION, probabilities)
    expected = np.zeros((7, 5, 3), np.float16)
    for row, values in zip(expected, probabilities, strict=True):
        row[: len(values)] = values
    for shard, rows in enumerate([slice(0, 3), slice(3, 3), slice(3, 7)]):
        ids, values, counts = labels.read_shard(shard)
        assert ids.tolist() == index.ids[rows].tolist()
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, expected[rows])
        np.testing.assert_array_equal(counts, [len(p) for p in probabilities[rows]])
    clips = np.array([5, 3, 2, 0, 3])
    np.testing.assert_array_equal(labels.gather(clips), expected[clips])
    segments = np.array([3, 4, 0, 0, 2])
    np.testing.assert_array_equal(labels.of_segments(clips, segments), expected[clips, segments])
    assert labels.manifest["teacher_digest"] == "teacher"
    # Any program that reads NumPy's files reads a shard.
    stored = np.load(tmp_path / "labels-00002-of-00003.npy")
    np.testing.assert_array_equal(stored, np.concatenate(probabilities[3:]))
    assert len(list(tmp_path.iterdir())) == 3


@given(indices(), segmentations, st.integers(1, 7))
def test_batches_of_segments_become_whole_shards(index, segmentation, size):
    probabilities = np.concatenate(make_probabilities(index, segmentation))
    firsts = segmentation.number_segments(index.num_samples)
    numbers = np.arange(firsts[-1])
    clips = np.searchsorted(firsts, numbers, "right") - 1
    batches = [
        (
            {"clip": clips[part], "segment": part - firsts[clips[part]]},
            probabilities[part].astype(np.float32),
        )
        for part in np.split(numbers, range(size, len(numbers), size))
    ]
    shards, rows = zip(*relabeling.collect_shards(batches, firsts, index), strict=True)
    assert list(shards) == np.flatnonzero(index.shard_sizes).tolist()
    np.testing.assert_array_equal(np.concatenate(rows), probabilities)
    counts = np.diff(firsts)
    means = evaluation.compute_clip_means(
        index, segmentation, lambda _: batches, num_classes=index.num_classes
    )
    sums = np.add.reduceat(probabilities.astype(np.float64), firsts[:-1])
    np.testing.assert_allclose(means, sums / counts[:, None], rtol=1e-6)


def test_writer_refuses_what_cannot_be_right(tmp_path, index):
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t")
    probabilities = make_probabilities(index, SEGMENTATION)
    with pytest.raises(ValueError, match="shape"):
        writer.write_shard(0, np.concatenate(probabilities[1:4]))
    probabilities[1][0, 0] = np.nan
    with pytest.raises(ValueError, match="clip -clip_1 are not finite"):
        writer.write_shard(0, np.concatenate(probabilities[:3]))
    assert missing_shards(tmp_path) == [0, 2]


def test_writer_goes_on_where_it_stopped(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t")
    writer.write_shard(2, np.concatenate(probabilities[3:]))
    with pytest.raises(UserError, match=r"1 of 3 soft-label shards are missing \(.*number 0\)"):
        SoftLabels.open(tmp_path, index, SEGMENTATION)
    again = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t")
    assert again.missing == [0]
    with pytest.raises(UserError, match=r"teacher_digest differs: expected 'u', found 't'"):
        SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="u")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "eval"}, r"split differs: expected 'eval', found 'train'"),
        ({"classes": ("a", "class 1", "class 2")}, "expected 'a', found 'class 0'"),
        ({"ids": np.array([f"clip_{i}" for i in range(7)])}, "clip_ids_sha256 differs"),
        ({"ids": np.array([f"-clip_{i}" for i in (0, 1, 2, 3, 5, 4, 6)])}, "in_order differs"),
        ({"shard_sizes": np.array([4, 0, 3])}, "expected 4, found 3"),
        ({"shard_sizes": np.array([3, 4])}, "expected 4, found 0"),
    ],
)
def test_labels_of_other_data_are_refused(tmp_path, index, change, message):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    with pytest.raises(UserError, match=f"{message}.*Run relabel again"):
        SoftLabels.open(tmp_path, dataclasses.replace(index, **change), SEGMENTATION)


@pytest.mark.parametrize(
    ("segmentation", "teacher", "message"),
    [
        (Segmentation(0.02), None, r"segment_seconds differs: expected 0\.02, found 0\.01"),
        (Segmentation(0.01, 0.005), None, r"hop_seconds differs: expected 0\.005, found 0\.01"),
        (Segmentation(0.01, shortest_seconds=0.0), None, "shortest_seconds differs"),
        (SEGMENTATION, "another", "teacher_digest differs: expected 'another', found 'teacher'"),
    ],
)
def test_labels_of_other_segments_or_another_teacher_are_refused(
    tmp_path, index, segmentation, teacher, message
):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    with pytest.raises(UserError, match=message):
        SoftLabels.open(tmp_path, index, segmentation, teacher)
    SoftLabels.open(tmp_path, index, Segmentation(0.01, 0.01), "teacher")


def test_directory_without_labels(tmp_path, index):
    with pytest.raises(UserError, match=r"holds no soft labels.*run the relabel stage"):
        SoftLabels.open(tmp_path / "nowhere", index, SEGMENTATION)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        missing_shards(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "labels-00000-of-00003.npy").touch()  # of nobody knows what
    with pytest.raises(UserError, match=r"shards of labels and no manifest\.json"):
        SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t")


def test_labels_of_another_type_are_refused(tmp_path, index):
    """Of bfloat16 they are up to 0.18 off; neither are they read, nor is a relabeling mixed."""
    half, whole = LabelRule(dtype="bfloat16"), LabelRule()
    SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", rule=half)
    message = r"dtype differs: expected 'float32', found 'bfloat16'"
    with pytest.raises(UserError, match=message):
        SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", rule=whole)
    with pytest.raises(UserError, match=rf"{message}.*--config\.relabel\.dtype=bfloat16"):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "t", whole)
    given = tmp_path / "given"  # of imported labels nobody knows it
    SoftLabelWriter(given, index, SEGMENTATION, teacher_digest="t", rule=LabelRule(dtype=""))
    SoftLabelWriter(given, index, SEGMENTATION, teacher_digest="t", rule=half)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:40],
        lambda data: data[:-7],
        lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    ],
)
def test_a_damaged_shard_is_named(tmp_path, index, damage):
    labels = write_soft_labels(tmp_path, index, SEGMENTATION)
    path = tmp_path / "labels-00000-of-00003.npy"
    path.write_bytes(damage(path.read_bytes()))
    message = r"damaged soft-label shard: .*labels-00000-of-00003\.npy.*relabel"
    with pytest.raises(UserError, match=message):
        labels.read_shard(0)
    labels.read_shard(2)


def test_shard_of_another_width_is_named(tmp_path, index):
    labels = write_soft_labels(tmp_path, index, SEGMENTATION)
    wide = make_index([3, 0, 4], index.num_samples, num_classes=4)
    write_soft_labels(tmp_path / "wide", wide, SEGMENTATION)
    name = "labels-00000-of-00003.npy"
    os.replace(tmp_path / "wide" / name, tmp_path / name)
    with pytest.raises(UserError, match=f"damaged soft-label shard: .*{name}"):
        labels.read_shard(0)


def test_full_disk_is_named_and_leaves_nothing(tmp_path, index, monkeypatch):
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=full))
    with pytest.raises(UserError, match=r"labels-00000-of-00003\.npy: the disk is full"):
        writer.write_shard(0, np.concatenate(make_probabilities(index, SEGMENTATION)[:3]))
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_manifest_is_readable(tmp_path, index):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    ids = [str(clip_id) for clip_id in index.ids]
    assert manifest == {
        "teacher_digest": "teacher",
        "segment_seconds": 0.01,
        "hop_seconds": 0.01,
        "shortest_seconds": 0.5,
        "count_padding": False,
        "dtype": "float32",
        "classes": list(index.classes),
        "split": "train",
        "num_clips": 7,
        "clip_ids_sha256": index.ids_sha256,
        "clip_ids_in_order": hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16],
        "shard_sizes": [3, 0, 4],
        "format": "npy",
    }


def test_labels_that_hang_on_weak_labels_are_of_these(tmp_path, index):
    values = index.label_values.copy()
    values[0] = (values[0] + 1) % index.num_classes
    other = dataclasses.replace(index, label_values=values)
    write_soft_labels(tmp_path / "plain", index, SEGMENTATION)
    SoftLabels.open(tmp_path / "plain", other, SEGMENTATION, "teacher", LabelRule())
    folder, options = tmp_path / "weak", {"teacher_digest": "t", "uses_weak_labels": True}
    write_soft_labels(folder, index, SEGMENTATION, **options)
    with pytest.raises(UserError, match="weak_labels_sha256 differs"):
        SoftLabels.open(folder, other, SEGMENTATION, "t", LabelRule())
    with pytest.raises(UserError, match="weak_labels_sha256 differs"):  # half of them others
        SoftLabelWriter(folder, other, SEGMENTATION, **options)


def test_manifests_of_earlier_versions_told_nothing_of_it(tmp_path, index):
    labels = write_soft_labels(tmp_path, index, SEGMENTATION)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("shortest_seconds", *LabelRule().entries()):
        del manifest[name]
    path.write_text(json.dumps(manifest))
    again = SoftLabels.open(tmp_path, index, SEGMENTATION, "teacher", LabelRule())
    np.testing.assert_array_equal(again.read_shard(0)[1], labels.read_shard(0)[1])
    with pytest.raises(UserError, match="count_padding"):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "teacher", LabelRule(count_padding=True))
