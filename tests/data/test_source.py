"""Clips read from TFRecord shards, in parts and whole, damaged ones, and ones that others made."""

import dataclasses
import json
import os
import pathlib

import audio_files
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from prepared_data import config
from synthetic_data import make_audio, make_index, write_prepared, write_shards

from psl_jax.data import record_files, split_index_files
from psl_jax.data.source import Source, open_folder
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError

LENGTHS = [300, 500, 160, 900, 410, 640, 100, 720, 333, 801, 250]


@pytest.fixture
def index():
    labels = [[0], [1, 2], [], [2], [0], [1], [2], [0, 1], [1], [2], [0]]
    return make_index([4, 0, 5, 2], LENGTHS, labels)


@pytest.fixture
def paths(tmp_path, index):
    return write_shards(tmp_path / "data", index)


@pytest.fixture
def source(paths):
    return Source.open(paths[0].parent, "train")


def read_all(source):
    return list(source.read_whole(np.arange(len(source.index))))


@pytest.mark.parametrize("are_in_memory", [True, False])
def test_any_part_of_any_clip_is_read(source, index, monkeypatch, are_in_memory):
    preadv = os.preadv

    def read_from_disk(file, buffers, place, flags=0):
        if flags:
            raise BlockingIOError("would have to wait")
        return preadv(file, buffers, place)

    if not are_in_memory:
        monkeypatch.setattr(os, "preadv", read_from_disk)
    audio, rng = make_audio(index), np.random.default_rng(0)
    for read, expected in zip(read_all(source), audio, strict=True):
        np.testing.assert_array_equal(read, expected)
    clips = rng.integers(0, len(index), 200)
    starts = rng.integers(0, index.num_samples[clips])
    counts = np.minimum(rng.integers(0, 90, 200), index.num_samples[clips] - starts)
    rows = np.full((200, 90), 7, np.int16)
    source.read(clips, starts, counts, rows)
    for row, clip, start, count in zip(rows, clips, starts, counts, strict=True):
        np.testing.assert_array_equal(row[:count], audio[clip][start : start + count])
        assert (row[count:] == 7).all()


def test_a_prepared_index_knows_where_the_audio_lies(tmp_path):
    """By the sizes of records and clips alone; short and long ones, whose sizes take more bytes."""
    names = [f"{number}.wav" for number in range(5)]
    for number, name in enumerate(names):
        audio_files.write(tmp_path / "source" / name, audio_files.tone(0.3 * (number + 1) ** 2))
    audio_files.write_table(
        tmp_path / "source" / "full.csv", "filename,labels", [(name, "dog") for name in names]
    )
    source = Source.open(prepare(config(source_dir=str(tmp_path / "source")), tmp_path), "full")
    assert source.index.audio_starts is None
    for path, place in zip(source.paths, source.index.audio_places, strict=True):
        (record,) = tf.data.TFRecordDataset(path).as_numpy_iterator()
        (audio,) = tf.train.Example.FromString(record).features.feature["audio"].bytes_list.value
        with open(path, "rb") as file:
            assert file.read()[place:].startswith(audio)


def test_more_shards_are_read_than_may_be_open(source, monkeypatch):
    monkeypatch.setattr("psl_jax.data.source._MOST_OPEN", 2)
    verified = []
    check = Source.checked_audio

    def checked_audio(source, clip, content):
        verified.append(clip)
        return check(source, clip, content)

    monkeypatch.setattr(Source, "checked_audio", checked_audio)
    for _ in range(2):
        for clip in range(len(LENGTHS)):
            source.read(np.array([clip]), np.array([0]), np.array([9]), np.zeros((1, 9), np.int16))
    assert len(source._open) == 2
    assert verified == [0, 4, 9]  # the first clip of each shard, once


def test_a_shard_that_was_replaced_is_verified_again(source, paths, monkeypatch):
    monkeypatch.setattr("psl_jax.data.source._MOST_OPEN", 1)
    row = np.zeros((1, 9), np.int16)
    for clip in (0, 9):
        source.read(np.array([clip]), np.array([0]), np.array([9]), row)
    damaged = bytearray(paths[0].read_bytes())
    damaged[40] ^= 0x10
    paths[0].unlink()
    paths[0].write_bytes(damaged)
    with pytest.raises(UserError, match=f"{paths[0].name}: "):
        source.read(np.array([0]), np.array([0]), np.array([9]), row)


def test_every_flipped_byte_is_noticed(tmp_path):
    index = make_index([3], [20, 30, 25])
    (path,) = write_shards(tmp_path, index)
    index, whole = split_index_files.load_index(tmp_path, "train"), path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(UserError, match=path.name):
            read_all(Source([path], index))


@pytest.mark.parametrize("left", [0, 5, 700, -1, None])
def test_a_truncated_or_missing_shard_is_named_in_training_too(source, paths, left):
    content = paths[2].read_bytes()
    paths[2].unlink()
    if left is not None:
        paths[2].write_bytes(content[:left])
    with pytest.raises(UserError, match=f"{paths[2].name}: damaged clip shard"):
        read_all(source)
    with pytest.raises(UserError, match=f"{paths[2].name}: damaged clip shard"):
        source.read(np.array([4]), np.array([0]), np.array([9]), np.zeros((1, 9), np.int16))


@pytest.mark.parametrize("record", [b"", b"not an example", b"\n\x7f"])
def test_records_of_another_kind_are_named(source, paths, record):
    with tf.io.TFRecordWriter(str(paths[0])) as writer:
        for _ in range(4):
            writer.write(record)
    with pytest.raises(UserError, match=paths[0].name):
        read_all(source)
    paths[0].with_name("index-train.npz").unlink()  # so that the records are looked at
    with pytest.raises(UserError, match=paths[0].name):
        split_index_files.load_index(paths[0].parent, "train")


def test_an_index_of_other_data_is_refused(paths):
    swapped = make_index([2, 2], 400)
    shards = write_shards(paths[0].parent / "more", swapped)
    more = split_index_files.load_index(shards[0].parent, "train")
    with pytest.raises(UserError, match=r"00001-of-00002: holds clip '-clip_2' .* has '-clip_0'"):
        read_all(Source(shards[::-1], more))


@pytest.mark.parametrize("num_samples", [0, 3, 200, 70_000])
def test_records_are_parsed_as_tensorflow_parses_them(tmp_path, num_samples):
    """Floats, integers and nothing, in the order of the names and in protobuf's own."""
    audio = np.arange(num_samples, dtype=np.int16)
    values = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"clip"])),
        "audio": tf.train.Feature(bytes_list=tf.train.BytesList(value=[audio.tobytes()])),
        "events/onset": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5] * 300)),
        "labels": tf.train.Feature(),
        "events/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, -2, 1 << 40])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=values))
    records = [example.SerializeToString(deterministic=fixed) for fixed in (True, False)]
    path = tmp_path / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    found = list(record_files.read_records(path))
    assert [bytes(record) for record in found] == records
    assert len(list(record_files.read_records(path, 1))) == 1
    for record in found:
        features = record_files.parse_example(record)
        expected = example.features.feature
        assert features["events/onset"].values == list(expected["events/onset"].float_list.value)
        assert features["events/label"].values == list(expected["events/label"].int64_list.value)
        assert features["labels"].values == []
        assert record_files.single_values(features, ("id", "audio")) == [b"clip", audio.tobytes()]
        start = features["audio"].start
        assert record[start : start + 2 * num_samples] == audio.tobytes()


FOREIGN_CLIPS = [np.random.default_rng(i).integers(-999, 999, 1600 + 100 * i) for i in range(5)]


def tensor(shape=(None,), dtype=np.int16, **more) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=dtype, **more)


def features_of(audio) -> tfds.features.FeaturesDict:
    label = tfds.features.ClassLabel(names=["cat", "dog"])
    labels = tfds.features.Sequence(label)
    return tfds.features.FeaturesDict(
        {"id": tfds.features.Text(), "audio": audio, "labels": labels}
    )


def test_what_others_made_is_read_where_it_fits(tmp_path):
    examples = [
        (i, {"id": str(i), "audio": samples.astype(np.int16), "labels": [i % 2]})
        for i, samples in enumerate(FOREIGN_CLIPS)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="foreign",
        version="1.0.0",
        features=features_of(tensor(encoding="bytes")),
        split_datasets={"train": examples},
        data_dir=tmp_path,
    )
    data_dir = split_index_files.find_data_dir(tmp_path)
    folder = pathlib.Path(data_dir)
    description = folder / "dataset_info.json"
    info = json.loads(description.read_text())
    info["splits"][0]["filepathTemplate"] = "{SPLIT}_{SHARD_INDEX}of{NUM_SHARDS}.{FILEFORMAT}"
    description.write_text(json.dumps(info))
    (shard,) = folder.glob("*.tfrecord-*")
    shard.rename(folder / "train_00000of00001.tfrecord")
    source = Source.open(data_dir, "train")
    index = source.index
    assert index.classes == ("cat", "dog")
    for clip, audio in zip(index.ids, source.read_whole(np.arange(len(index))), strict=True):
        np.testing.assert_array_equal(audio, FOREIGN_CLIPS[int(clip)])
    assert Source.open(data_dir, "train").index.audio_starts is not None  # kept in the saved index


@pytest.mark.parametrize(
    "audio",
    [
        tensor(dtype=np.float32, encoding="bytes"),
        tensor(),
        tensor(shape=(None, 2), encoding="bytes"),
        tfds.features.Audio(sample_rate=44_100, shape=(None,), dtype=np.int16, encoding="bytes"),
        tfds.features.Audio(lazy_decode=True),
        tfds.features.Text(),
    ],
)
def test_what_others_made_otherwise_is_refused(tmp_path, audio):
    index = make_index([2], 100)
    write_prepared(tmp_path, index, make_audio(index))
    features_of(audio).save_config(tmp_path)
    with pytest.raises(UserError, match="data set of another form") as caught:
        split_index_files.load_index(tmp_path, "train")
    assert 'encoding="bytes"' in str(caught.value)


def test_of_several_data_sets_that_of_a_run_is_taken(tmp_path, index, capsys):
    others = dataclasses.replace(index, label_values=2 - index.label_values)
    for name, written in (("one", index), ("two", others)):
        write_prepared(tmp_path / "data/own" / name, written, make_audio(written))
    noted = {"ids_sha256": others.ids_sha256, "labels_sha256": others.labels_sha256}
    files.write_json(tmp_path / "run/data.json", {"train": noted, "teacher": "t", "order": "o"})
    source = open_folder(tmp_path / "data", "train", run=tmp_path / "run")
    assert source.index.labels_sha256 == others.labels_sha256 != index.labels_sha256
    assert f"was made with {tmp_path / 'data/own/two'}, which is used" in capsys.readouterr().out
    files.write_json(tmp_path / "run/data.json", {"train": noted | {"labels_sha256": "else"}})
    for run in (tmp_path / "run", "mn04", None):
        with pytest.raises(UserError, match="holds several prepared data sets"):
            open_folder(tmp_path / "data", "train", run=run)
