"""Folders of soft labels that earlier versions wrote are read once."""

import json

import label_data
import numpy as np
import pytest
from label_data import run

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter, made_with
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(1.0)


def write_npz(path, ids, rows):
    np.savez(path, ids=ids, counts=[len(r) for r in rows], probabilities=np.concatenate(rows))


def write_tfrecord(path, ids, rows):
    tf = pytest.importorskip("tensorflow")

    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for clip_id, row in zip(ids, rows, strict=True):
            values = {"id": feature(clip_id.encode()), "probabilities": feature(row.tobytes())}
            example = tf.train.Example(features=tf.train.Features(feature=values))
            writer.write(example.SerializeToString())


def older_folder(folder, index, values, format, **changes):
    """As commit de85886 wrote it."""
    folder.mkdir()
    manifest = {
        "segment_seconds": 1.0,
        "hop_seconds": 1.0,
        "shortest_seconds": 0.5,
        "classes": list(index.classes),
        "split": index.split,
        "num_clips": len(index),
        "clip_ids_sha256": index.ids_sha256,
        "shard_sizes": index.shard_sizes.tolist(),
        **dict.fromkeys(("overlap", "prior", "heard"), 0.0),
        "prior_recall": None,
        "top_k": 0,
        "temperature": 1.0,
        "calibrate": "none",
        "count_padding": False,
        "teacher_digest": "t",
        "format": format,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    write = {"npz": write_npz, "tfrecord": write_tfrecord}[format]
    for shard, size in enumerate(index.shard_sizes):
        if size:
            clips = slice(*index.shard_offsets[shard : shard + 2])
            path = folder / f"labels-{shard:05d}-of-{len(index.shard_sizes):05d}.{format}"
            write(path, index.ids[clips], values[clips])


@pytest.mark.parametrize("format", ["npz", "tfrecord"])
def test_older_labels_are_read_once_and_stay_those_of_their_teacher(tmp_path, format):
    index = label_data.index()
    label_data.write_data(tmp_path / "data", index)
    values = label_data.values(index, SEGMENTATION)
    older_folder(tmp_path / "old", index, values, format)
    with pytest.raises(UserError, match=r"earlier version.*psl-jax labels import .*old DATA --spl"):
        SoftLabels.open(tmp_path / "old", index, SEGMENTATION)
    run("import", tmp_path / "old", tmp_path / "data", "--split=train", f"--out={tmp_path / 'new'}")
    labels = SoftLabels.open(tmp_path / "new", index, SEGMENTATION, "t")
    for clip, expected in enumerate(values):
        found = labels.gather(np.array([clip]))[0]
        np.testing.assert_array_equal(found[: len(expected)], expected)
    assert "dtype" not in labels.manifest  # nobody knows it
    label_data.write_labels(tmp_path / "today", index, SEGMENTATION)
    assert made_with(labels) == made_with(SoftLabels.open(tmp_path / "today", index, SEGMENTATION))
    # A relabeling is not mixed with them.
    with pytest.raises(UserError, match="earlier version"):
        SoftLabelWriter(tmp_path / "old", index, SEGMENTATION, teacher_digest="t")


def test_older_labels_that_cannot_be_used(tmp_path):
    index = label_data.index()
    label_data.write_data(tmp_path / "data", index)
    values = label_data.values(index, SEGMENTATION)

    def bring_in(name):
        out = f"--out={tmp_path / f'new {name}'}"
        run("import", tmp_path / name, tmp_path / "data", "--split=train", out)

    label_data.write_labels(tmp_path / "today", index, SEGMENTATION)
    with pytest.raises(UserError, match="soft labels of this version, which need no import"):
        bring_in("today")
    older_folder(tmp_path / "other", index, values, "npz", classes=["a", "b", "c"])
    with pytest.raises(UserError, match=r"classes differs"):
        bring_in("other")
    older_folder(tmp_path / "damaged", index, values, "npz")
    path = tmp_path / "damaged/labels-00002-of-00003.npz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"labels-00002-of-00003\.npz: missing or damaged"):
        bring_in("damaged")
    older_folder(tmp_path / "swapped", index, values, "npz")
    write_npz(tmp_path / "swapped/labels-00002-of-00003.npz", index.ids[3:][::-1], values[3:])
    with pytest.raises(UserError, match="its clips are not those of the data"):
        bring_in("swapped")
