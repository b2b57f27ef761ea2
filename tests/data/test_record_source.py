import dataclasses
import itertools
import os
import subprocess
import sys

import audio_files
import numpy as np
import pytest
import tensorflow as tf
from prepared_data import config
from synthetic_data import (
    MemorySource,
    make_audio,
    make_index,
    make_probabilities,
    write_metadata,
    write_packed,
    write_soft_labels,
    write_tfrecords,
)

from psl_jax.audio.segments import Segmentation
from psl_jax.data import record_files, sampling
from psl_jax.data.batches import eval_batches, train_batches
from psl_jax.data.packed_source import PackedSource, pack
from psl_jax.data.record_source import TFRecordSource
from psl_jax.data.sampling import SAMPLINGS, epoch_windows, sequential_windows
from psl_jax.preparing.prepared import prepare
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(0.02, 0.01)
LENGTHS = [300, 500, 160, 900, 410, 640, 100, 720, 333, 801, 250]

needs_crc32c = pytest.mark.skipif(record_files.crc32c is None, reason="crc32c is not installed")
READERS = [
    "tf.data",
    "tf.data, records one by one",
    pytest.param("direct", marks=needs_crc32c),
    pytest.param("by place", marks=needs_crc32c),
]


@pytest.fixture(params=READERS)
def reader(request, monkeypatch):
    """All ways to read a TFRecord file."""
    if request.param == "tf.data":
        monkeypatch.setattr(TFRecordSource, "_is_local", False)
    if request.param == "tf.data, records one by one":
        monkeypatch.setattr(record_files, "crc32c", None)
    if request.param == "by place":  # as of a remote file whose index knows the records' sizes
        monkeypatch.setattr(record_files, "_is_read_directly", lambda path: False)
        monkeypatch.setattr(TFRecordSource, "_is_sparse", staticmethod(lambda positions: True))
    return request.param


@pytest.fixture
def index():
    labels = [[0], [1, 2], [], [2], [0], [1], [2], [0, 1], [1], [2], [0]]
    return make_index([4, 0, 5, 2], LENGTHS, labels)


@pytest.fixture
def paths(tmp_path, index):
    return write_tfrecords(tmp_path / "data", index, make_audio(index))


@pytest.fixture
def streamed(paths, index, reader):
    return TFRecordSource(paths, with_sizes(index, paths) if reader == "by place" else index)


def with_sizes(index, paths):
    """The index as preparing writes it, with the bytes of each record."""
    sizes = [np.diff([*record_places(path), path.stat().st_size]) for path in paths]
    return dataclasses.replace(index, record_bytes=np.concatenate(sizes).astype(np.int64))


def record_places(path):
    with record_files._LocalFile(str(path)) as file:
        return np.array(list(file.places()), np.int64)


@needs_crc32c
def test_a_prepared_index_knows_where_records_lie(tmp_path):
    names = [f"{number}.wav" for number in range(5)]
    for number, name in enumerate(names):
        audio_files.write(tmp_path / "source" / name, audio_files.tone(0.2 + 0.1 * number))
    audio_files.write_table(
        tmp_path / "source" / "full.csv", "filename,labels", [(name, "dog") for name in names]
    )
    data_dir = prepare(config(source_dir=str(tmp_path / "source")), tmp_path)
    source = TFRecordSource.open(data_dir, "full")
    for shard, path in enumerate(source.paths):
        np.testing.assert_array_equal(source._places_of(shard), record_places(path))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_streamed_and_packed_batches_are_those_of_memory(streamed, index, tmp_path, sampling):
    probabilities = make_probabilities(index, SEGMENTATION)
    records = write_soft_labels(
        tmp_path / "records", index, SEGMENTATION, probabilities, format="tfrecord"
    )
    plain = write_soft_labels(tmp_path / "plain", index, SEGMENTATION, probabilities)
    packed = PackedSource(write_packed(tmp_path / "packed.npz", index, make_audio(index)))
    feeds = [
        itertools.islice(
            train_batches(
                source,
                SEGMENTATION,
                batch_size=7,
                seed=3,
                sampling=sampling,
                soft_labels=soft,
                alpha=0.5,
                start_step=2,
                window_clips=4,
            ),
            25,
        )
        for source, soft in [(streamed, records), (packed, plain), (MemorySource(index), plain)]
    ]
    for ours, theirs, expected in zip(*feeds, strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=key)
            np.testing.assert_array_equal(theirs[key], value, err_msg=key)


def test_evaluation_reads_the_same_from_each_source(streamed, index, tmp_path):
    packed = PackedSource(write_packed(tmp_path / "packed.npz", index, make_audio(index)))
    sources = (streamed, packed, MemorySource(index))
    for process in range(3):
        feeds = [
            eval_batches(s, SEGMENTATION, batch_size=4, process_index=process, process_count=3)
            for s in sources
        ]
        for batches in zip(*feeds, strict=True):
            for key, value in batches[2].items():
                np.testing.assert_array_equal(batches[0][key], value)
                np.testing.assert_array_equal(batches[1][key], value)


def test_tf_data_alone_reads_windows_of_whole_clips(paths, index, monkeypatch):
    def fill(self, window, rows):
        raise AssertionError("read directly")

    monkeypatch.setattr(TFRecordSource, "_fill", fill)
    source = TFRecordSource(paths, index, reader="tf_data")
    windows = sequential_windows(index, SEGMENTATION, window_clips=3)
    found = [row.copy() for loaded in source.read(windows) for row in loaded.rows]
    for row, expected in zip(found, make_audio(index), strict=True):
        np.testing.assert_array_equal(row[: len(expected)], expected)
        assert not row[len(expected) :].any()


@pytest.mark.parametrize("permuted", [True, False])
def test_parts_of_shards_and_of_clips_are_read(streamed, index, monkeypatch, permuted):
    if not permuted:
        monkeypatch.setattr(sampling, "PERMUTED_BYTES", 0)
    windows = epoch_windows(index, SEGMENTATION, seed=0, epoch=0, window_clips=2)
    assert any(window.starts.any() for window in windows) == permuted
    audio = make_audio(index)
    for loaded in streamed.read(windows):
        window = loaded.window
        for row, clip, start in zip(loaded.rows, window.clips, window.starts, strict=True):
            expected = audio[clip][start : start + len(row)]
            np.testing.assert_array_equal(row[: len(expected)], expected)
            assert not row[len(expected) :].any()


def test_a_prepared_data_directory_is_opened_by_name(tmp_path):
    index = make_index([3, 2], 400)
    audio = make_audio(index)
    write_tfrecords(tmp_path, index, audio)
    write_metadata(tmp_path, index)
    source = TFRecordSource.open(tmp_path, "train")
    assert source.index.ids.tolist() == index.ids.tolist()
    windows = sequential_windows(index, SEGMENTATION)
    loaded = [row[:400].copy() for window in source.read(windows) for row in window.rows]
    np.testing.assert_array_equal(np.stack(loaded), np.stack(audio))


# --- damage ---------------------------------------------------------------------------------------


def read_all(source):
    return list(source.read(sequential_windows(source.index, SEGMENTATION)))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_every_flipped_byte_is_noticed(tmp_path, reader):
    index = make_index([3], [20, 30, 25])
    path = write_tfrecords(tmp_path, index, make_audio(index))[0]
    whole = path.read_bytes()
    step = 1 if reader == "direct" else 41
    for place in range(0, len(whole), step):
        path.write_bytes(whole)
        flip(path, place)
        with pytest.raises(UserError, match=path.name):
            read_all(TFRecordSource([path], index))


@pytest.mark.parametrize("left", [0, 5, 700, -1])
def test_truncated_shard_is_named(streamed, paths, left):
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[:left])
    with pytest.raises(UserError, match=f"{paths[2].name}: damaged clip shard"):
        read_all(streamed)


def test_shard_cut_between_records_is_named(streamed, paths):
    records = list(tf.data.TFRecordDataset(str(paths[2])).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(paths[2])) as writer:
        for record in records[:-1]:
            writer.write(record)
    with pytest.raises(UserError, match=rf"{paths[2].name}: .*ends after 4 records"):
        read_all(streamed)


def test_missing_shard_is_named(streamed, paths):
    paths[0].unlink()
    with pytest.raises(UserError, match=paths[0].name):
        read_all(streamed)


@pytest.mark.parametrize("record", [b"", b"not an example", b"\n\x7f"])
def test_records_of_another_kind_are_named(streamed, paths, record):
    with tf.io.TFRecordWriter(str(paths[0])) as writer:
        for _ in range(4):
            writer.write(record)
    with pytest.raises(UserError, match=paths[0].name):
        read_all(streamed)


def test_index_of_other_data_is_refused(paths, index, reader):
    with pytest.raises(UserError, match="3 shards, but its index knows 4"):
        TFRecordSource(paths[:3], index)
    swapped = [paths[0], paths[1], paths[3], paths[2]]
    other = f"{paths[3].name}: (holds another clip of 801 .*'-clip_4'|damaged .* after 2 records)"
    with pytest.raises(UserError, match=other):
        read_all(TFRecordSource(swapped, index))


# --- packed data ----------------------------------------------------------------------------------


def test_packed_audio_is_mapped_aligned_and_readable_with_numpy(tmp_path, index):
    audio = make_audio(index)
    packed = PackedSource(write_packed(tmp_path / "packed.npz", index, audio))
    assert isinstance(packed.audio, np.memmap)
    assert packed.audio.flags.aligned
    for clip, samples in enumerate(audio):
        start, stop = packed.offsets[clip : clip + 2]
        np.testing.assert_array_equal(packed.audio[start:stop], samples)
    with np.load(tmp_path / "packed.npz") as data:
        np.testing.assert_array_equal(data["audio"], np.concatenate(audio))
        np.testing.assert_array_equal(data["num_samples"], LENGTHS)
    for name in ("split", "classes", "ids_sha256"):
        assert getattr(packed.index, name) == getattr(index, name)


def test_packed_source_needs_no_tensorflow(tmp_path, index):
    path = write_packed(tmp_path / "packed.npz", index, make_audio(index))
    write_soft_labels(tmp_path / "soft", index, SEGMENTATION)
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from psl_jax.data.batches import train_batches
from psl_jax.data.packed_source import PackedSource
from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels
source, segmentation = PackedSource({str(path)!r}), Segmentation(0.02, 0.01)
soft = SoftLabels.open({str(tmp_path / "soft")!r}, source.index, segmentation)
print(next(train_batches(source, segmentation, batch_size=4, seed=0, soft_labels=soft))["clip"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd())


@pytest.mark.parametrize("left", [0, 100, -30])
def test_packed_file_that_is_not_whole_is_refused(tmp_path, index, left):
    path = write_packed(tmp_path / "packed.npz", index, make_audio(index))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"packed\.npz is not a whole file"):
        PackedSource(path)
    with pytest.raises(UserError, match="no such packed data file"):
        PackedSource(tmp_path / "other.npz")


def test_packing_onto_a_full_disk_leaves_nothing(tmp_path, index, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"packed\.npz: the disk is full"):
        pack(MemorySource(index), tmp_path / "packed.npz")
    assert not list(tmp_path.iterdir())


def in_order(features: list[tuple[str, tf.train.Feature]]) -> bytes:
    """A serialized Example with its features in the given order, which protobuf leaves open."""
    entries = b"".join(
        tf.train.Features(feature={key: value}).SerializeToString() for key, value in features
    )
    size, prefix = len(entries), b"\n"
    while size >= 0x80:
        prefix += bytes([size & 0x7F | 0x80])
        size >>= 7
    return prefix + bytes([size]) + entries


@pytest.mark.parametrize("num_samples", [0, 3, 200, 400, 70_000])
def test_features_may_come_in_any_order(tmp_path, reader, num_samples):
    """Short and long clips, with other features small, large and empty."""
    audio = np.arange(num_samples, dtype=np.int16)
    values = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"clip"])),
        "audio": tf.train.Feature(bytes_list=tf.train.BytesList(value=[audio.tobytes()])),
        "events/onset": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5] * 300)),
        "labels": tf.train.Feature(),
        "events/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2])),
    }
    orders = list(itertools.permutations(values.items()))[::3]
    records = [in_order(list(order)) for order in orders]
    assert tf.train.Example.FromString(records[0]) == tf.train.Example.FromString(records[-1])
    path = tmp_path / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    rows = np.full((len(records), max(num_samples, 1)), -1, np.int16)
    found = list(record_files.read_audio(path, range(len(records)), rows))
    assert found == [("clip", 2 * num_samples)] * len(records)
    np.testing.assert_array_equal(rows[:, :num_samples], np.tile(audio, (len(rows), 1)))
    some = [1, 4, 9, len(records) - 1]
    kept = [bytes(record) for record in record_files.read_records(path, some)]
    assert kept == [records[i] for i in some]
