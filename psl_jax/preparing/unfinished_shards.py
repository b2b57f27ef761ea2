"""Keeps whole shards of a preparation for the next start, whatever ends this one.

A part is a shard whose final number is not known yet. It lies in the unfinished folder of the data
set. In a folder beside that, a JSON record describes its contents, its rows and its size. We write
the record after the shard has reached the disk; only then the shard counts.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from psl_jax.corpora.clip_rows import Loaded, Problem
from psl_jax.data.clip_index import ClipDescription
from psl_jax.preparing import shards
from psl_jax.preparing.shards import ShardContents
from psl_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive rows of a split, and the paths of their shard and of its record."""

    shard: pathlib.Path
    record: pathlib.Path
    rows: Sequence[Any]

    @property
    def rows_digest(self) -> str:
        """A hash that changes with any row: rows are dataclasses of plain values."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr(row).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def write(self, loaded: Iterable[Loaded], has_events: bool, mark: str = "") -> None:
        """Writes the shard from its loaded rows, and the record; `mark`: see `atomic_path`."""
        with files.atomic_path(self.shard, mark) as temporary:
            contents = shards.write_shard(temporary, loaded, has_events)
            if contents.clips:  # a machine that is preempted loses what it has not flushed
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
        record = {
            "rows": self.rows_digest,
            "clips": [_clip_to_json(clip) for clip in contents.clips],
            "problems": [dataclasses.asdict(problem) for problem in contents.problems],
            "source_rates": dict(contents.source_rates),
            "num_bytes": contents.num_bytes,
        }
        files.write_json(self.record, record, indent=None)

    def read_record(self) -> ShardContents | None:
        """Reads what the shard holds, be it there or not; None without a record of these rows."""
        try:
            record = files.read_json(self.record)
            if record["rows"] != self.rows_digest:
                return None
            rates = {int(rate): count for rate, count in record["source_rates"].items()}
            return ShardContents(
                [ClipDescription(*fields) for fields in record["clips"]],
                [Problem(**fields) for fields in record["problems"]],
                collections.Counter(rates),
                record["num_bytes"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged by a power cut: the part is made again


def _clip_to_json(clip: ClipDescription) -> list[Any]:
    """Converts a clip to JSON values: some corpora's numbers are NumPy's."""
    events = clip.events
    if events is not None:
        events = [(float(onset), float(offset), int(label)) for onset, offset, label in events]
    labels, unknown = list(map(int, clip.labels)), list(map(int, clip.unknown))
    return list(clip._replace(labels=labels, events=events, unknown=unknown))


def find_whole(
    parts: Sequence[Part], make_final_path: Callable[[int, int], pathlib.Path]
) -> list[ShardContents | None]:
    """Returns the contents of each part's shard, None for parts that are not whole.

    make_final_path(number, count): where a shard with clips lies once all are whole.
    """
    all_contents = [part.read_record() for part in parts]
    final_paths = []
    if None not in all_contents:
        count = sum(bool(contents and contents.clips) for contents in all_contents)
        final_paths = [make_final_path(number, count) for number in range(count)]
    final_sizes = iter(files.read_sizes(final_paths))
    whole_contents = []
    for contents, size in zip(
        all_contents, files.read_sizes([part.shard for part in parts]), strict=True
    ):
        if contents is not None and contents.clips:
            is_whole = contents.num_bytes in (size, next(final_sizes, None))
            contents = contents if is_whole else None
        whole_contents.append(contents)
    return whole_contents
