import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import indices, make_index, make_probabilities, segmentations, write_soft_labels

from psl_jax.audio.segments import Segmentation
from psl_jax.data import label_manifest, soft_labels
from psl_jax.data.label_manifest import missing_shards
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(0.01)
FORMATS = pytest.mark.parametrize("format", label_manifest.FORMATS)


@pytest.fixture
def index():
    return make_index([3, 0, 4], [300, 500, 160, 900, 410, 640, 100])


def padded(probabilities, index, segments):
    out = np.zeros((len(probabilities), segments, index.num_classes), np.float16)
    for row, values in zip(out, probabilities, strict=True):
        row[: len(values)] = values
    return out


@FORMATS
def test_what_was_written_is_read(tmp_path, index, format):
    probabilities = make_probabilities(index, SEGMENTATION)
    labels = write_soft_labels(tmp_path, index, SEGMENTATION, probabilities, format)
    expected = padded(probabilities, index, 5)
    for shard, rows in enumerate([slice(0, 3), slice(3, 3), slice(3, 7)]):
        ids, values, counts = labels.read_shard(shard)
        assert ids.tolist() == index.ids[rows].tolist()
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, expected[rows])
        np.testing.assert_array_equal(counts, [len(p) for p in probabilities[rows]])
    clips = np.array([5, 3, 2, 0])
    np.testing.assert_array_equal(labels.gather(clips), expected[clips])
    assert labels.manifest["teacher_digest"] == "teacher"
    assert len(list(tmp_path.iterdir())) == 4


@given(indices(), segmentations, st.integers(1, 7))
def test_batches_of_clips_become_whole_shards(tmp_path_factory, index, segmentation, size):
    directory = tmp_path_factory.mktemp("labels")
    probabilities = make_probabilities(index, segmentation)
    values = padded(probabilities, index, max(map(len, probabilities)))
    given_values = values.astype(np.float32)
    for row, count in zip(given_values, map(len, probabilities), strict=True):
        row[count:] = 0.5  # a teacher's answer to padding
    writer = SoftLabelWriter(directory, index, segmentation, teacher_digest="t", format="npz")
    written = []
    for start in range(0, len(index), size):
        clips = np.arange(start, min(start + size, len(index)))
        written += writer.add(clips, given_values[clips])
    assert written == np.flatnonzero(index.shard_sizes).tolist()
    assert set(writer.missing).isdisjoint(written)
    for shard in writer.missing:  # those without clips
        writer.write_shard(shard, [])
    labels = SoftLabels.open(directory, index, segmentation)
    np.testing.assert_array_equal(labels.gather(np.arange(len(index))), values)


def test_writer_refuses_what_cannot_be_right(tmp_path, index):
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format="npz")
    probabilities = make_probabilities(index, SEGMENTATION)
    with pytest.raises(ValueError, match="shapes"):
        writer.write_shard(0, probabilities[1:4])
    probabilities[1][0, 0] = np.nan
    with pytest.raises(ValueError, match="clip -clip_1 are not finite"):
        writer.write_shard(0, probabilities[:3])
    with pytest.raises(ValueError, match="clip 1 where 0 was to come"):
        writer.add(np.array([1]), np.zeros((1, 6, 3)))
    assert missing_shards(tmp_path) == [0, 1, 2]


def test_writer_goes_on_where_it_stopped(tmp_path, index):
    probabilities = make_probabilities(index, SEGMENTATION)
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format="npz")
    writer.write_shard(2, probabilities[3:])
    with pytest.raises(UserError, match=r"2 of 3 soft-label shards are missing \(.*number 0\)"):
        SoftLabels.open(tmp_path, index, SEGMENTATION)
    again = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format="npz")
    assert again.missing == [0, 1]
    with pytest.raises(
        UserError, match=r"teacher \(teacher_digest\) differs: expected 'u', found 't'"
    ):
        SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="u", format="npz")


def test_killed_writer_leaves_whole_shards_only(tmp_path):
    code = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, "tests")
        from synthetic_data import make_index, make_probabilities
        from psl_jax.data import soft_labels
        from psl_jax.audio.segments import Segmentation
        index, segmentation = make_index([2, 2, 2], 320), Segmentation(0.01)
        writer = soft_labels.SoftLabelWriter(
            {str(tmp_path)!r}, index, segmentation, teacher_digest="t", format="npz"
        )
        values = make_probabilities(index, segmentation)
        writer.write_shard(0, values[:2])
        soft_labels.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        writer.write_shard(1, values[2:4])
    """)
    done = subprocess.run([sys.executable, "-c", code], cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL
    assert missing_shards(tmp_path) == [1, 2]
    index = make_index([2, 2, 2], 320)
    values = make_probabilities(index, SEGMENTATION)
    labels = write_soft_labels(tmp_path / "..", index, SEGMENTATION, values)
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format="npz")
    for shard in writer.missing:
        writer.write_shard(shard, values[2 * shard : 2 * shard + 2])
    resumed = SoftLabels.open(tmp_path, index, SEGMENTATION)
    np.testing.assert_array_equal(resumed.gather(np.arange(6)), labels.gather(np.arange(6)))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(f"labels-0000{i}-of-00003.npz" for i in range(3)),
        "manifest.json",
    ]


# --- labels of something else ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "eval"}, r"split \(split\) differs: expected 'eval', found 'train'"),
        ({"classes": ("a", "class 1", "class 2")}, "expected 'a' at position 0, found 'class 0'"),
        ({"ids": np.array([f"clip_{i}" for i in range(7)])}, "set of clip ids"),
        ({"shard_sizes": np.array([4, 0, 3])}, "expected 4 at position 0, found 3"),
        ({"shard_sizes": np.array([3, 4])}, "expected 2 entries, found 3 entries"),
    ],
)
def test_labels_of_other_data_are_refused(tmp_path, index, change, message):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    with pytest.raises(UserError, match=f"{message}.*Run relabel again"):
        SoftLabels.open(tmp_path, dataclasses.replace(index, **change), SEGMENTATION)


def test_labels_of_other_segments_or_another_teacher_are_refused(tmp_path, index):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    with pytest.raises(
        UserError, match=r"segment length in seconds .*: expected 0\.02, found 0\.01"
    ):
        SoftLabels.open(tmp_path, index, Segmentation(0.02))
    with pytest.raises(UserError, match=r"hop between .*: expected 0\.005, found 0\.01"):
        SoftLabels.open(tmp_path, index, Segmentation(0.01, 0.005))
    with pytest.raises(UserError, match=r"teacher .*: expected 'another', found 'teacher'"):
        SoftLabels.open(tmp_path, index, SEGMENTATION, "another")
    SoftLabels.open(tmp_path, index, Segmentation(0.01, 0.01), "teacher")


def test_labels_in_another_order_name_shard_position_and_both_ids(tmp_path, index):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    ids = index.ids.copy()
    ids[[4, 5]] = ids[[5, 4]]  # the same set of ids
    labels = SoftLabels.open(tmp_path, dataclasses.replace(index, ids=ids), SEGMENTATION)
    labels.read_shard(0)
    message = r"labels-00002-of-00003\.npz.*position 1 are of clip '-clip_4'.*holds '-clip_5'"
    with pytest.raises(UserError, match=message):
        labels.read_shard(2)


def test_directory_without_labels(tmp_path, index):
    with pytest.raises(UserError, match=r"holds no soft labels.*run the relabel stage"):
        SoftLabels.open(tmp_path / "nowhere", index, SEGMENTATION)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        missing_shards(tmp_path)


# --- damage ---------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("left", [0, 40, -7])
def test_truncated_shard_is_named(tmp_path, index, format, left):
    labels = write_soft_labels(tmp_path, index, SEGMENTATION, format=format)
    path = tmp_path / f"labels-00000-of-00003.{format}"
    path.write_bytes(path.read_bytes()[:left])
    message = rf"labels-00000-of-00003\.{format}: damaged soft-label shard.*relabel"
    with pytest.raises(UserError, match=message):
        labels.read_shard(0)
    labels.read_shard(2)


@FORMATS
def test_flipped_byte_is_noticed(tmp_path, index, format):
    labels = write_soft_labels(tmp_path, index, SEGMENTATION, format=format)
    path = tmp_path / f"labels-00002-of-00003.{format}"
    data = bytearray(path.read_bytes())
    value = make_probabilities(index, SEGMENTATION)[4][0].tobytes()
    data[data.index(value)] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged soft-label shard"):
        labels.read_shard(2)


@FORMATS
def test_shard_of_another_width_is_named(tmp_path, index, format):
    labels = write_soft_labels(tmp_path, index, SEGMENTATION, format=format)
    wide = make_index([3, 0, 4], index.num_samples, num_classes=4)
    write_soft_labels(tmp_path / "wide", wide, SEGMENTATION, format=format)
    name = f"labels-00000-of-00003.{format}"
    os.replace(tmp_path / "wide" / name, tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: damaged soft-label shard"):
        labels.read_shard(0)


@FORMATS
def test_full_disk_is_named_and_leaves_nothing(tmp_path, index, format, monkeypatch):
    writer = SoftLabelWriter(tmp_path, index, SEGMENTATION, teacher_digest="t", format=format)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soft_labels.os, "replace", full)
    with pytest.raises(UserError, match=rf"labels-00000-of-00003\.{format}: the disk is full"):
        writer.write_shard(0, make_probabilities(index, SEGMENTATION)[:3])
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_manifest_is_readable(tmp_path, index):
    write_soft_labels(tmp_path, index, SEGMENTATION)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "teacher_digest": "teacher",
        "segment_seconds": 0.01,
        "hop_seconds": 0.01,
        "shortest_seconds": 0.5,
        "count_padding": False,
        "classes": list(index.classes),
        "split": "train",
        "num_clips": 7,
        "clip_ids_sha256": index.ids_sha256,
        "shard_sizes": [3, 0, 4],
        "format": "npz",
    }


def test_of_large_labels_only_the_wanted_records_are_read(tmp_path, monkeypatch):
    """Draws want a clip of each shard; whole shards would be read again and again."""
    index = make_index([9, 0, 12], [400, 390, 100] * 7, num_classes=5)
    segmentation = Segmentation(200 / 16000)
    writer = soft_labels.SoftLabelWriter(
        tmp_path,
        index,
        segmentation,
        teacher_digest="t",
    )
    rows = make_probabilities(index, segmentation)
    for shard in writer.missing:
        low, high = index.shard_offsets[shard : shard + 2]
        writer.write_shard(shard, rows[low:high])
    whole = SoftLabels.open(tmp_path, index, segmentation)
    everything = whole.gather(np.arange(21))
    monkeypatch.setattr(soft_labels, "_CACHE_BYTES", 0)
    monkeypatch.setattr(SoftLabels, "read_shard", None)
    some = SoftLabels.open(tmp_path, index, segmentation)
    for clips in ([3, 3, 8], [0, 20], [11, 10], [8]):
        np.testing.assert_array_equal(some.gather(np.array(clips)), everything[clips])
    path = next(tmp_path.glob("labels-00002*"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"labels-00002.*: damaged soft-label shard"):
        SoftLabels.open(tmp_path, index, segmentation).gather(np.array([20]))
