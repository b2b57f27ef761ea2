"""Serializes clips and writes shards of them, and TFDS's files beside these."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.corpus import Clip, Corpus, Loaded, Problem
from psl_jax.data import record_files
from psl_jax.data.clip_index import ClipDescription, ClipIndex
from psl_jax.data.split_index_files import INFO_NAME
from psl_jax.runtime import files
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

# The input pipeline shuffles in windows of whole shards, so shards are small (80 MB of 10 s clips),
# and even a small split has several, so that readers and processes can share it.
CLIPS_PER_SHARD = 256
MIN_SHARDS = 8


@dataclasses.dataclass
class ShardContents:
    """The contents of one shard, or of several, without the audio."""

    clips: list[ClipDescription] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    num_bytes: int = 0


def plan_shards(num_rows: int) -> list[slice]:
    """Plans the rows of each shard. Unusable clips make their shard smaller."""
    num_shards = max(-(-num_rows // CLIPS_PER_SHARD), min(MIN_SHARDS, num_rows), 1)
    shard_rows = max(-(-num_rows // num_shards), 1)
    return [
        slice(start, min(start + shard_rows, num_rows)) for start in range(0, num_rows, shard_rows)
    ]


def make_shard_path(
    folder: pathlib.Path, name: str, *, split: str, number: int, count: int
) -> pathlib.Path:
    """Makes the path where TFDS looks for shard `number` of `count` of a split."""
    return folder / f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write_shard(
    path: str | os.PathLike[str],
    loaded: Iterable[Loaded],
    has_events: bool,
) -> ShardContents:
    """Writes clips as they are loaded, so that one is in memory; writes no file without clips."""
    tf = tensorflow_quietly()
    contents, writer = ShardContents(), None
    with contextlib.ExitStack() as stack:
        for item in loaded:
            contents.problems += item.problems
            if item.clip is None:
                continue
            clip = item.clip
            writer = writer or stack.enter_context(tf.io.TFRecordWriter(os.fspath(path)))
            record = serialize(clip, events=has_events)
            writer.write(record)
            size = len(record) + record_files.FRAMING_BYTES
            contents.clips.append(clip.description._replace(record_bytes=size))
    if contents.clips:
        contents.num_bytes = os.path.getsize(path)
    return contents


def make_features(
    classes: Sequence[str],
    *,
    events: bool,
    unknown: bool = False,
    sample_rate: int = SAMPLE_RATE,
) -> Any:
    """Makes the TFDS features of a corpus with these classes.

    events: whether it has strong labels; unknown: whether some labels are unknown.
    Serialized as flat tf.train.Example features: "id" and "audio" (little-endian int16) are bytes,
    "labels", "events/label" and "unknown_labels" int64 lists, "events/onset" and "events/offset"
    float lists. A record whose labels are all known has no "unknown_labels".
    """
    import tensorflow_datasets as tfds  # the rest of this module serves machines without it

    label = tfds.features.ClassLabel(names=list(classes))
    form: dict[str, Any] = {"shape": (None,), "dtype": np.int16, "encoding": "bytes"}
    is_usual = sample_rate == SAMPLE_RATE
    contents: dict[str, Any] = {
        "id": tfds.features.Text(),
        "audio": tfds.features.Tensor(**form)
        if is_usual
        else tfds.features.Audio(sample_rate=sample_rate, **form),
        "labels": tfds.features.Sequence(label),
    }
    if events:
        contents["events"] = tfds.features.Sequence(
            {"onset": np.float32, "offset": np.float32, "label": label}
        )
    if unknown:
        contents["unknown_labels"] = tfds.features.Sequence(label)
    return tfds.features.FeaturesDict(contents)


def serialize(clip: Clip, *, events: bool) -> bytes:
    """Serializes a clip for `make_features(..., events=events)`, to the bytes that TFDS writes.

    TFDS's serializer copies the audio several times, which is most of the time of a 16 kHz clip.
    The order of features is fixed, else files would differ between processes.
    """
    example = tensorflow_quietly().train.Example()
    fields = example.features.feature
    fields["id"].bytes_list.value.append(clip.id.encode())
    fields["audio"].bytes_list.value.append(clip.audio.astype("<i2", copy=False).tobytes())
    fields["labels"].int64_list.value.extend(clip.labels)
    if events:
        onsets, offsets, labels = zip(*clip.events, strict=True) if clip.events else ((), (), ())
        fields["events/onset"].float_list.value.extend(onsets)
        fields["events/offset"].float_list.value.extend(offsets)
        fields["events/label"].int64_list.value.extend(labels)
    if clip.unknown:
        fields["unknown_labels"].int64_list.value.extend(clip.unknown)
    record: bytes = example.SerializeToString(deterministic=True)
    return record


def write_metadata(folder: pathlib.Path, corpus: Corpus, indices: Mapping[str, ClipIndex]) -> None:
    """Writes TFDS's files; `dataset_info.json`, which makes the folder a data set, comes last.

    TFDS writes them to a temporary folder: it knows no s3://, and its files are not whole at once.
    """
    tensorflow_quietly()  # before TFDS imports it
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_is_no_deprecation)  # of what TFDS itself uses
    with tempfile.TemporaryDirectory(prefix="psl_jax-") as temporary:
        local = pathlib.Path(temporary)
        template = tfds.core.ShardedFileTemplate(
            dataset_name=corpus.name, data_dir=temporary, filetype_suffix="tfrecord"
        )
        infos = []
        for split, index in indices.items():
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=index.shard_sizes.tolist(),
                    num_bytes=0 if index.record_bytes is None else int(index.record_bytes.sum()),
                    filename_template=template.replace(split=split),
                )
            )
            count = len(index.shard_sizes)
            for number in range(count):  # TFDS looks for their names only
                make_shard_path(local, corpus.name, split=split, number=number, count=count).touch()
        shards = set(local.iterdir())
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=make_features(
                corpus.classes,
                events=corpus.has_events,
                sample_rate=corpus.sample_rate,
                unknown=any(index.has_unknown for index in indices.values()),
            ),
            split_infos=infos,
            filename_template=template,
            check_data=False,
            description=f"{corpus.name}: clips at {corpus.sample_rate // 1000} kHz with weak "
            "labels; made by psl_jax.",
            disable_shuffling=True,
        )
        metadata_files = set(local.iterdir()) - shards
        for path in sorted(metadata_files, key=lambda path: path.name == INFO_NAME):
            files.copy(path, folder / path.name)


def _is_no_deprecation(record: logging.LogRecord) -> bool:
    return ".dtype` is deprecated" not in record.getMessage()
