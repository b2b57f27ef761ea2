"""Tiny data sets for tests: an index, its audio, and both as files."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from psl_jax.audio.segments import Segmentation
from psl_jax.data.clip_index import ClipIndex, ragged
from psl_jax.data.record_files import masked_crc32c
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.data.source import Source

# A loaded machine is no failure, and the examples are to be the same everywhere.
settings.register_profile("psl_jax", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("psl_jax")


def make_index(
    shard_sizes: Iterable[int],
    num_samples: Iterable[int] | int,
    labels: list[list[int]] | None = None,
    num_classes: int = 3,
    split: str = "train",
    first: int = 0,
) -> ClipIndex:
    """An index; clip `i` has the id of `first + i`, by default the label `i % num_classes`."""
    sizes = np.array(list(shard_sizes), np.int64)
    count = int(sizes.sum())
    lengths = np.broadcast_to(np.array(num_samples, np.int32), count).copy()
    offsets, values = ragged(labels or [[i % num_classes] for i in range(count)])
    return ClipIndex(
        split=split,
        classes=tuple(f"class {i}" for i in range(num_classes)),
        ids=np.array([f"-clip_{first + i}" for i in range(count)], np.str_),
        num_samples=lengths,
        label_offsets=offsets,
        label_values=values,
        shard_sizes=sizes,
    )


@st.composite
def indices(draw, labelled: bool = True) -> ClipIndex:
    """Indices of 1 to 30 clips of 100 to 900 samples, some shards empty, some clips unlabelled."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any))
    count = sum(sizes)
    lengths = draw(st.lists(st.integers(100, 900), min_size=count, max_size=count))
    classes = draw(st.integers(1, 4))
    label_sets = st.sets(st.integers(0, classes - 1), max_size=2).map(sorted)
    labels = draw(st.lists(label_sets, min_size=count, max_size=count))
    if labelled and not any(labels):
        labels[0] = [0]
    return make_index(sizes, lengths, labels, classes)


# Segments of 160 to 400 samples; end to end, overlapping and with gaps.
segmentations = st.sampled_from(
    [
        Segmentation(0.01),
        Segmentation(0.02, 0.01),
        Segmentation(0.025, 0.01),
        Segmentation(0.01, 0.02),
    ]
)


def make_audio(index: ClipIndex, seed: int = 0) -> list[np.ndarray]:
    """Noise for each clip: int16 [num_samples]."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-32768, 32768, n).astype(np.int16) for n in index.num_samples]


class MemorySource(Source):
    """A source in memory, by default of noise."""

    def __init__(self, index: ClipIndex, audio: list[np.ndarray] | None = None):
        self.index, self.audio = index, make_audio(index) if audio is None else audio

    def read(self, clips, starts, counts, rows):
        for row, clip, start, count in zip(rows, clips, starts, counts, strict=True):
            row[:count] = self.audio[clip][start : start + count]

    def read_whole(self, clips):
        yield from (self.audio[clip] for clip in clips)


def write_shards(
    folder: pathlib.Path, index: ClipIndex, audio: list[np.ndarray] | None = None
) -> list[pathlib.Path]:
    """A prepared data set of the index, by default of noise; returns its shards."""
    write_prepared(folder, index, make_audio(index) if audio is None else audio)
    return sorted(folder.glob(f"*-{index.split}.tfrecord-*"))


def write_prepared(
    folder: pathlib.Path, index: ClipIndex, audio: list[np.ndarray], split: str = ""
) -> pathlib.Path:
    """A split (default: the index's) of a prepared data set, which may have others, without TFDS.

    Returns the folder.
    """
    index = dataclasses.replace(index, split=split or index.split)
    folder.mkdir(parents=True, exist_ok=True)
    index.save(folder / f"index-{index.split}.npz")
    records = (
        _record(_example(str(clip_id), samples, labels))
        for clip_id, samples, labels in zip(
            index.ids, audio, np.split(index.label_values, index.label_offsets[1:-1]), strict=True
        )
    )
    count = len(index.shard_sizes)
    for shard, size in enumerate(index.shard_sizes):
        path = folder / f"data-{index.split}.tfrecord-{shard:05d}-of-{count:05d}"
        path.write_bytes(b"".join(itertools.islice(records, int(size))))
    info_path = folder / "dataset_info.json"
    info = json.loads(info_path.read_text()) if info_path.exists() else {"splits": []}
    splits = {one["name"]: one for one in info["splits"]}
    lengths = [str(size) for size in index.shard_sizes]
    splits[index.split] = {"name": index.split, "shardLengths": lengths}
    info_path.write_text(json.dumps({"name": "data", "splits": list(splits.values())}))
    (folder / "features.json").write_text(json.dumps(_features(index)))
    (folder / "labels.labels.txt").write_text("".join(f"{name}\n" for name in index.classes))
    return folder


def _features(index: ClipIndex) -> dict:
    """The features of a clip's record, as far as they are read of what TFDS writes."""
    tensor = {"shape": {"dimensions": ["-1"]}, "dtype": "int16", "encoding": "bytes"}
    audio: dict = {"tensor": tensor}
    if index.sample_rate != 16_000:
        audio = {"audio": tensor | {"sampleRate": str(index.sample_rate)}}
    label = {"classLabel": {"numClasses": str(index.num_classes)}}
    labels = {"sequence": {"feature": label}}
    features = {"audio": audio, "id": {"text": {}}, "labels": labels}
    return {"featuresDict": {"features": features}}


def _example(clip_id: str, samples: np.ndarray, labels: np.ndarray) -> bytes:
    """A serialized tf.train.Example."""
    values = b"".join(_varint(int(label)) for label in labels)
    features = {
        b"audio": _field(1, _field(1, samples.astype("<i2").tobytes())),
        b"id": _field(1, _field(1, clip_id.encode())),
        b"labels": _field(3, _field(1, values) if len(labels) else b""),
    }
    entries = (_field(1, _field(1, name) + _field(2, f)) for name, f in features.items())
    return _field(1, b"".join(entries))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _record(content: bytes) -> bytes:
    """A record of a TFRecord file: its length and contents, each with a masked checksum."""
    length = len(content).to_bytes(8, "little")
    return length + masked_crc32c(length) + content + masked_crc32c(content)


def make_probabilities(
    index: ClipIndex, segmentation: Segmentation, seed: int = 1
) -> list[np.ndarray]:
    """Soft labels of each clip: float16 [segments, classes]."""
    rng = np.random.default_rng(seed)
    counts = segmentation.count_segments(index.num_samples)
    return [rng.random((count, index.num_classes)).astype(np.float16) for count in counts]


def write_soft_labels(
    directory: pathlib.Path,
    index: ClipIndex,
    segmentation: Segmentation,
    probabilities: list[np.ndarray] | None = None,
    teacher_digest: str = "teacher",
    **options,
) -> SoftLabels:
    """Writes all shards and opens them; options: of the writer."""
    values = probabilities or make_probabilities(index, segmentation)
    options["teacher_digest"] = teacher_digest
    writer = SoftLabelWriter(directory, index, segmentation, **options)
    for shard in writer.missing:
        low, high = index.shard_offsets[shard : shard + 2]
        writer.write_shard(shard, np.concatenate(values[low:high]))
    return SoftLabels.open(directory, index, segmentation, teacher_digest)


def make_quiet_batch(num_samples, num_classes, num_rows=2):
    """A batch of faint noise, without labels."""
    audio = np.random.default_rng(0).integers(-300, 300, (num_rows, num_samples)).astype(np.int16)
    return {
        "audio": audio,
        "num_samples": np.full(num_rows, num_samples, np.int32),
        "labels": np.zeros((num_rows, num_classes), np.float32),
        "weight": np.ones(num_rows, np.float32),
        "clip": np.arange(num_rows, dtype=np.int32),
        "segment": np.zeros(num_rows, np.int32),
    }


def with_events(index, events):
    """The index with lists of (onset, offset, class) for each clip."""
    flat = [event for clip in events for event in clip]
    return dataclasses.replace(
        index,
        event_offsets=np.cumsum([0, *map(len, events)]).astype(np.int64),
        event_times=np.array([event[:2] for event in flat], np.float32).reshape(-1, 2),
        event_values=np.array([event[2] for event in flat], np.int32),
    )
