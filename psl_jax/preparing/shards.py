"""Writes a shard of clip records, the unit of work of local preparation and of Beam workers."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Iterable

from psl_jax.corpora import clip_rows
from psl_jax.corpora.preparation_problems import Problem
from psl_jax.data import record_files
from psl_jax.data.clip_index import ClipDescription
from psl_jax.preparing import clip_records
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
    source_rates: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    num_bytes: int = 0

    def add(self, other: "ShardContents") -> None:
        """Appends the contents of the shard that follows."""
        self.clips += other.clips
        self.problems += other.problems
        self.source_rates.update(other.source_rates)
        self.num_bytes += other.num_bytes


def plan_shards(num_rows: int) -> list[slice]:
    """Plans the rows of each shard. Unusable clips make their shard smaller."""
    num_shards = max(-(-num_rows // CLIPS_PER_SHARD), min(MIN_SHARDS, num_rows), 1)
    shard_rows = max(-(-num_rows // num_shards), 1)
    return [
        slice(start, min(start + shard_rows, num_rows)) for start in range(0, num_rows, shard_rows)
    ]


def write_shard(
    path: str | os.PathLike[str],
    loaded: Iterable[clip_rows.Loaded],
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
            record = clip_records.serialize(clip, events=has_events)
            writer.write(record)
            size = len(record) + record_files.FRAMING_BYTES
            contents.clips.append(clip.description._replace(record_bytes=size))
            if item.source_rate is not None:
                contents.source_rates[item.source_rate] += 1
    if contents.clips:
        contents.num_bytes = os.path.getsize(path)
    return contents
