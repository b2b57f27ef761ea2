"""Soft labels of other segments than those that were labelled, against a loop over samples."""

import json

import label_data
import numpy as np
import pytest
from label_data import run

from psl_jax.audio.segments import Segmentation
from psl_jax.data import label_manifest
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.runtime.errors import UserError


def resegment(labels, data, out, seconds, *options) -> None:
    cut = (f"--segment_seconds={seconds}", *options)
    run("resegment", labels, data, "--split=train", *cut, f"--out={out}")


def by_samples(labels, segmentation, index, wanted):
    """Labels of `wanted` as means over samples of those that hold there; the last holds on."""
    counts, out = segmentation.count_segments(index.num_samples), []
    for clip, length in enumerate(index.num_samples):
        total, times = np.zeros((length, labels.shape[2])), np.zeros((length, 1))
        for number in range(counts[clip]):
            begin = number * segmentation.hop_samples
            end = begin + segmentation.segment_samples
            stop = length if number == counts[clip] - 1 else end
            total[begin:stop] += labels[clip, number]
            times[begin:stop] += 1
        size, hop = wanted.segment_samples, wanted.hop_samples
        parts = [slice(n * hop, n * hop + size) for n in range(wanted.count_segments(int(length)))]
        out.append(np.array([total[part].sum(0) / times[part].sum() for part in parts]))
    return out


@pytest.mark.parametrize(
    ("made", "options", "wanted"),
    [
        (Segmentation(0.32), (), Segmentation(1.0)),
        (Segmentation(0.975, 0.48), ("--hop_seconds=0.5",), Segmentation(1.0, 0.5)),
        (
            Segmentation(2.0),
            ("--shortest_segment_seconds=0",),
            Segmentation(0.3, shortest_seconds=0.0),
        ),
        (Segmentation(1.0), (), Segmentation(1.0)),
    ],
)
def test_resegmented_labels_are_means_over_time(tmp_path, made, options, wanted):
    index = label_data.index()
    label_data.write_data(tmp_path / "data", index)
    before = label_data.write_labels(tmp_path / "labels", index, made)
    given = before.gather(np.arange(len(index))).astype(float)
    out = tmp_path / "cut"
    resegment(tmp_path / "labels", tmp_path / "data", out, wanted.seconds, *options)
    assert label_manifest.segmentation_of(out) == wanted
    found = label_data.read(out, index, wanted).astype(float)
    for clip, expected in enumerate(by_samples(given, made, index, wanted)):
        np.testing.assert_allclose(found[clip, : len(expected)], expected, atol=5e-4)  # float16
        assert not found[clip, len(expected) :].any()
    if made == wanted:
        np.testing.assert_array_equal(found, given)


def test_resegmented_labels_tell_what_they_come_from(tmp_path):
    index, data, frames = label_data.index(), tmp_path / "data", Segmentation(0.32)
    label_data.write_data(data, index)
    label_data.write_labels(tmp_path / "frames", index, frames, uses_weak_labels=True)
    resegment(tmp_path / "frames", data, tmp_path / "cut", 1)
    manifest = json.loads((tmp_path / "cut/manifest.json").read_text())
    origin = manifest["origin"]
    assert origin["kind"] == "cut" and origin["teacher_digest"] == "t" != manifest["teacher_digest"]
    cut_from = {"segment_seconds": 0.32, "hop_seconds": 0.32, "shortest_seconds": 0.5}
    assert origin["cut_from"] == cut_from
    # They depend on the weak labels, as what they come from does.
    assert manifest["weak_labels_sha256"]
    told = r"`psl-jax labels resegment` .*; to train on these, give --config.segment_seconds=1\.0"
    with pytest.raises(UserError, match=told):
        SoftLabels.open(tmp_path / "cut", index, Segmentation(2.0))
    with pytest.raises(UserError, match="holds soft labels for something else"):
        resegment(tmp_path / "frames", data, tmp_path / "cut", 2)
    with pytest.raises(UserError, match="--out is the folder of the labels themselves"):
        resegment(tmp_path / "cut", data, tmp_path / "cut", 1)


def test_labels_with_gaps_are_not_resegmented(tmp_path):
    index, gaps = label_data.index(), Segmentation(0.5, 1.0)
    label_data.write_data(tmp_path / "data", index)
    label_data.write_labels(tmp_path / "labels", index, gaps)
    with pytest.raises(UserError, match=r"labels of 0\.5 s, one every 1 s, leave gaps"):
        resegment(tmp_path / "labels", tmp_path / "data", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
