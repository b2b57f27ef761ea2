"""Soundscapes, the index, and faults while writing: whole and deterministic records or none."""

import errno
import os
import pathlib
import shutil

import audio_files
import numpy as np
import pytest
from prepared_data import config, read_split, record_hashes, small_folder
from tensorflow_datasets.core import example_serializer

from psl_jax.audio.segments import Segmentation
from psl_jax.corpora import corpus, soundscapes
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import builder, preparation_report, split_writer
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly


@pytest.fixture(scope="module")
def scenes_dir(tmp_path_factory) -> str:
    return prepare(config(corpus="soundscapes"), tmp_path_factory.mktemp("scenes"))


def test_soundscape_splits(scenes_dir):
    splits = split_index_files.splits(scenes_dir)
    indices = {split: split_index_files.load_index(scenes_dir, split) for split in splits}
    assert {split: len(index) for split, index in indices.items()} == {
        "full": 40, "balanced": 12, "eval": 10
    }  # fmt: skip
    full, balanced, evaluation = (indices[s] for s in ("full", "balanced", "eval"))
    assert full.classes == soundscapes.CLASSES and len(full.classes) == 10
    assert set(balanced.ids) < set(full.ids)
    assert not set(full.ids) & set(evaluation.ids)
    assert balanced.class_counts().min() >= 1
    assert np.ptp(balanced.class_counts()) < np.ptp(full.class_counts())
    for clips in indices.values():
        assert (clips.num_samples == 160_000).all()
        assert len(clips.shard_sizes) >= 5


def test_weak_labels_are_incomplete_in_training_only(scenes_dir):
    for split, complete in (("full", False), ("balanced", False), ("eval", True)):
        clips = split_index_files.load_index(scenes_dir, split)
        weak = clips.weak_labels() > 0
        true = clips.segment_labels(Segmentation(10.0))[:, 0]
        assert weak.any(axis=1).all()
        assert not (weak & ~true).any()
        assert (weak == true).all() == complete


def test_balanced_records_are_those_of_full(scenes_dir):
    full, balanced = read_split(scenes_dir, "full"), read_split(scenes_dir, "balanced")
    for clip_id, record in balanced.items():
        np.testing.assert_array_equal(record["audio"], full[clip_id]["audio"])
        np.testing.assert_array_equal(record["labels"], full[clip_id]["labels"])


def test_events_are_where_the_sound_is():
    settings = soundscapes.SceneSettings(snr_db=(30.0, 30.0), events_per_clip=(1, 1))
    for number in range(20):
        scene = soundscapes.draw_scene(settings, 0, number, "x")
        (onset, offset, _), *_ = scene.events
        assert 1.999 < offset - onset < 8.001
        sound = soundscapes.render(scene).astype(float)
        inside = np.zeros(len(sound), bool)
        inside[round(onset * 16_000) : round(offset * 16_000)] = True
        ratio = np.mean(sound[inside] ** 2) / np.mean(sound[~inside] ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(30, abs=2.5)
        assert np.abs(sound).max() < 32_700


def test_soundscapes_are_deterministic_and_settings_make_new_ones(scenes_dir, tmp_path):
    again = prepare(config(corpus="soundscapes", num_workers=1), tmp_path)
    assert record_hashes(again) == record_hashes(scenes_dir)
    other = prepare(config(corpus="soundscapes", seed=4, full_clips=12), tmp_path)
    assert other != again and os.path.isdir(again)
    ours, theirs = read_split(again, "eval"), read_split(other, "eval")
    assert not np.array_equal(ours["eval-000000"]["audio"], theirs["eval-000000"]["audio"])


def test_prepared_data_is_used_again(scenes_dir, capsys, monkeypatch):
    monkeypatch.setattr(soundscapes, "load_scene", None)
    workdir = pathlib.Path(scenes_dir).parents[3]
    assert prepare(config(corpus="soundscapes"), workdir) == scenes_dir
    output = capsys.readouterr().out
    assert "used again" in output and "full: 40 of 40 clips" in output
    existing = config(corpus="tfds", data_dir=scenes_dir)
    assert prepare(existing, workdir) == scenes_dir


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"corpus": "soundscapes", "balanced_clips": 50}, "subset of full"),
        ({"corpus": "own_data"}, "source_dir is empty"),
        ({"corpus": "own_data", "source_dir": "/no/such"}, "not a folder"),
        ({"corpus": "tfds"}, "data_dir must name"),
        ({"corpus": "tfds", "data_dir": "/no/such"}, "no such folder"),
    ],
)
def test_settings_that_cannot_be(changes, match, tmp_path):
    with pytest.raises(UserError, match=match):
        prepare(config(**changes), tmp_path)


@pytest.mark.parametrize("events", [None, (), ((0.5, 1.25, 3), (1.0, 2.1, 0))])
@pytest.mark.parametrize("labels", [(), (1,), (0, 3)])
def test_records_are_those_that_tfds_would_write(events, labels):
    audio = audio_files.int16_noise(1000)
    clip = corpus.Clip("-é", audio, labels, events)
    features = builder.make_features(("a", "b", "c", "d"), events=events is not None)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    example = {"id": "-é", "audio": audio, "labels": list(labels)}
    if events is not None:
        columns = list(zip(*events, strict=True)) or ((), (), ())
        example["events"] = dict(zip(("onset", "offset", "label"), columns, strict=True))
    theirs = serializer.get_tf_example(features.encode_example(example))
    ours = split_writer.serialize(clip, events=events is not None)
    assert ours == theirs.SerializeToString(deterministic=True)


def test_index_built_from_records_is_that_of_the_preparation(scenes_dir, tmp_path):
    copy = shutil.copytree(scenes_dir, tmp_path / "copy")
    saved = split_index_files.load_index(copy, "balanced")
    (copy / "index-balanced.npz").unlink()
    built = split_index_files.load_index(copy, "balanced")
    fields = ("ids", "num_samples", "label_offsets", "label_values", "shard_sizes")
    for field in (*fields, "event_offsets", "event_times", "event_values"):
        np.testing.assert_array_equal(getattr(built, field), getattr(saved, field))
    assert (copy / "index-balanced.npz").exists()


@pytest.mark.parametrize("stale", ["other split", "garbage"])
def test_stale_index_is_built_again(scenes_dir, tmp_path, stale):
    copy = shutil.copytree(scenes_dir, tmp_path / "copy")
    if stale == "garbage":
        (copy / "index-eval.npz").write_bytes(b"PK\3\4 garbage")
    else:
        shutil.copy(copy / "index-full.npz", copy / "index-eval.npz")
    assert len(split_index_files.load_index(copy, "eval")) == 10
    assert len(ClipIndex.load(copy / "index-eval.npz")) == 10


@pytest.mark.parametrize("what", ["os", "tensorflow"])
def test_full_disk_is_told_plainly_and_whole_shards_are_kept(tmp_path, monkeypatch, what):
    folder = small_folder(tmp_path / "source")
    tf = tensorflow_quietly()
    error = {
        "os": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        "tensorflow": tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    }[what]

    class FullDisk(tf.io.TFRecordWriter):
        def write(self, record):
            if "00001" in self.path:
                raise error
            super().write(record)

        def __init__(self, path):
            self.path = path
            super().__init__(path)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io, "TFRecordWriter", FullDisk)
        with pytest.raises(UserError, match=r"disk is full.*data\.data_dir"):
            prepare(config(source_dir=str(folder)), tmp_path)
    left = [str(path) for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert sorted(path.split("incomplete.1.0.0")[1] for path in left if ".lock" not in path) == [
        ".parts/train-00000.json",
        "/part-train-00000",
    ]
    assert len(read_split(prepare(config(source_dir=str(folder)), tmp_path), "train")) == 3


def test_shards_are_small_and_even(tmp_path, monkeypatch):
    monkeypatch.setattr(split_writer, "CLIPS_PER_SHARD", 3)
    monkeypatch.setattr(split_writer, "MIN_SHARDS", 2)
    data = config(corpus="soundscapes", full_clips=10, balanced_clips=2, eval_clips=5)
    data_dir = prepare(data, tmp_path)
    for split, sizes in (("full", [3, 3, 3, 1]), ("eval", [3, 2])):
        assert split_index_files.shard_sizes(data_dir, split).tolist() == sizes


def test_a_damaged_report_of_other_data_is_no_obstacle(tmp_path):
    other = tmp_path / "soundscapes" / "other" / builder.VERSION
    other.mkdir(parents=True)
    (other / preparation_report.REPORT_NAME).write_text("{")
    made = builder.ClipBuilder(soundscapes.Soundscapes(config()), data_dir=tmp_path)
    assert not made.is_prepared()


def test_a_rare_class_is_told_with_the_name_that_may_be_meant():
    counts = {"cat": 1, "crying baby": 2, "dog": 2}
    split = {
        "clips": 9, "rows": 9, "hours": 0.1, "events": 0,
        "clips_per_class": {"min": 1, "median": 1, "max": 2},
    }  # fmt: skip
    splits = {
        "full": {**split, "label_counts": {**counts, "crying bbay": 1, "dgo": 1, "wind": 1}},
        "eval": {**split, "label_counts": {**counts, "crying bbay": 0, "dgo": 0, "wind": 0}},
    }
    report = {"corpus": "own_data", "classes": 6, "splits": splits, "problems": []}
    lines = preparation_report.summarize_report(report)
    (line,) = (line for line in lines if "too rare" in line)
    assert line.endswith(": crying bbay (near: crying baby), dgo (near: dog), wind")


def test_the_written_report_has_every_problem(tmp_path):
    kind = {"split": None, "kind": "missing", "detail": ""}
    missing = [kind | {"file": f"{number}.wav"} for number in range(30)]
    report = {"corpus": "own_data", "classes": 0, "splits": {}, "problems": missing}
    preparation_report.write_report(tmp_path, report)
    written = (tmp_path / preparation_report.SUMMARY_NAME).read_text()
    assert all(f"{problem['file']}: " in written for problem in missing)
    assert "    ... and 27 more" in preparation_report.summarize_report(report)
