"""Writes one shard of clip records: the unit of work of local preparation and of Beam workers."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Iterable

from psl_jax.corpora import clip_rows
from psl_jax.corpora.preparation_problems import Problem
from psl_jax.data import record_files
from psl_jax.preparing import clip_records
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

# The input pipeline shuffles in windows of whole shards, so shards are small (80 MB of 10 s clips),
# and even a small split has several, so that readers and processes can share it.
CLIPS_PER_SHARD = 256
MIN_SHARDS = 8


@dataclasses.dataclass
class ShardContents:
    """What is known of a shard, or of several, without its audio."""

    clips: list[clip_rows.ClipDescription] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    source_rates: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    num_bytes: int = 0

    def add(self, other: "ShardContents") -> None:
        """Appends what is known of the shard that follows."""
        self.clips += other.clips
        self.problems += other.problems
        self.source_rates.update(other.source_rates)
        self.num_bytes += other.num_bytes


def plan(num_rows: int) -> list[slice]:
    """The rows of each shard. Clips that turn out unusable leave their shard smaller."""
    shards = max(-(-num_rows // CLIPS_PER_SHARD), min(MIN_SHARDS, num_rows), 1)
    size = max(-(-num_rows // shards), 1)
    return [slice(low, min(low + size, num_rows)) for low in range(0, num_rows, size)]


def write_shard(
    path: str | os.PathLike,
    loaded: Iterable[clip_rows.Loaded],
    has_events: bool,
) -> ShardContents:
    """Writes the clips of `loaded` as they come, so one is in memory; no file if there is none."""
    tf = tensorflow_quietly()
    contents, writer = ShardContents(), None
    with contextlib.ExitStack() as stack:
        for item in loaded:
            contents.problems += item.problems
            if item.clip is None:
                continue
            clip = item.clip
            writer = writer or stack.enter_context(tf.io.TFRecordWriter(os.fspath(path)))
            record = clip_records.serialized(clip, events=has_events)
            writer.write(record)
            size = len(record) + record_files.FRAMING_BYTES
            contents.clips.append(clip.description._replace(record_bytes=size))
            if item.source_rate is not None:
                contents.source_rates[item.source_rate] += 1
    if contents.clips:
        contents.num_bytes = os.path.getsize(path)
    return contents
